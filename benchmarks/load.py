"""The load generator: a process of its own that costs as little as it can, so that it measures the service and not itself.

Requests are made before the clock starts; a client is a kept-alive connection that writes prepared bytes and reads the
answer by its Content-Length. The job comes as JSON on stdin, the result leaves as JSON on stdout.
"""

import asyncio
import gzip
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zlib import crc32

import msgspec
import uvloop

BASE = "/api/v1/translation"


@dataclass(frozen=True)
class Job:
    """`rows` tasks to `port`, `batch` at a time by `clients` at once, at most for `seconds`; then one flush.

    With a `rate` (rows/s of all clients) each request has its time, and its latency counts from then, also when its client
    was still busy with the one before; 0 is as fast as it goes.
    """

    port: int
    pid: int
    batch: int
    clients: int
    rows: int
    seconds: float
    rate: float = 0


@dataclass
class Result:
    """What happened: times in seconds, `latencies` of each acknowledgement, CPU of the service and of this process."""

    rows: int = 0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    acknowledged_s: float = 0
    stored_s: float = 0
    service_cpu_s: float = 0
    own_cpu_s: float = 0


def data() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Sessions and tasks: the real data in PERSISTENCE_TEST_DATA, else the sample of the end-to-end tests."""
    folder = os.environ.get("PERSISTENCE_TEST_DATA")
    if folder:
        return _lines(Path(folder), "*.sessions.jsonl.gz"), _lines(Path(folder), "*.tasks.jsonl.gz")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.e2e.sample import sample_workbooks  # noqa: PLC0415  # only a checkout has it

    workbooks = sample_workbooks()
    return [workbook.session for workbook in workbooks], [task for workbook in workbooks for task in workbook.tasks]


def _lines(folder: Path, pattern: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for path in sorted(folder.glob(pattern)):
        with gzip.open(path) as lines:
            found += [msgspec.json.decode(line, type=dict[str, object]) for line in lines]
    return found


def request(path: str, body: bytes = b"") -> bytes:
    """The bytes of a POST."""
    head = (
        f"POST {BASE}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def task_items(tasks: list[dict[str, object]], rows: int) -> Iterator[dict[str, object]]:
    """Completed tasks, no two with the same id; the data is used again as often as needed."""
    for number in range(rows):
        task = tasks[number % len(tasks)]
        milliseconds = crc32(str(task["task_id"]).encode()) % 100_000
        yield task | {
            "task_id": f"{number:012d}-{milliseconds}",
            "status": "completed",
            "confidence": milliseconds / 100_000,
            "start_time": "2026-01-31T12:00:00.123456Z",
            "end_time": "2026-01-31T12:00:01.123456Z",
            "duration_ms": milliseconds,
        }


def task_requests(tasks: list[dict[str, object]], rows: int, batch: int) -> list[bytes]:
    """Requests of `rows` tasks, `batch` in each."""
    encode = msgspec.json.Encoder().encode
    numbered = list(task_items(tasks, rows))
    return [
        request("/tasks/batch", encode({"tasks": numbered[start : start + batch]}))
        for start in range(0, len(numbered), batch)
    ]


class Connection:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, prepared: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to `prepared`."""
        self._writer.write(prepared)
        head = await self._reader.readuntil(b"\r\n\r\n")
        start = head.lower().index(b"content-length:") + len(b"content-length:")
        length = int(head[start : head.index(b"\r\n", start)])
        body = await self._reader.readexactly(length)
        return int(head[9:12]), body

    def close(self) -> None:
        """Close it."""
        self._writer.close()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    """Seconds of CPU that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(job: Job) -> Result:
    """Do the job."""
    sessions, tasks = data()
    opened = [
        Connection(*await asyncio.open_connection("127.0.0.1", job.port, limit=1 << 20)) for _ in range(job.clients)
    ]
    known = [session | {"status": "processing"} for session in sessions]
    await _must(opened[0], request("/sessions/batch", msgspec.json.encode({"sessions": known})))
    await _must(opened[0], request("/flush"))
    prepared = task_requests(tasks, job.rows, job.batch)
    left = iter(enumerate(prepared))
    result = Result()
    cpu, own = cpu_of(job.pid), own_cpu()
    started = time.perf_counter()

    async def client(connection: Connection) -> None:
        for number, each in left:
            sent = time.perf_counter()
            if job.rate:
                due = started + number * job.batch / job.rate
                await asyncio.sleep(max(0, due - sent))
                sent = due
            if sent - started > job.seconds:
                return
            status, body = await connection.post(each)
            while status == 503:  # no room: the wait for it is part of the acknowledgement
                result.refused += 1
                await asyncio.sleep(0.05)
                status, body = await connection.post(each)
            if status != 200:
                raise RuntimeError(f"{status} {body[:500]!r}")
            result.latencies.append(time.perf_counter() - sent)
            result.rows += json.loads(body)["count"]

    await asyncio.gather(*(client(connection) for connection in opened))
    result.acknowledged_s = time.perf_counter() - started
    result.own_cpu_s = own_cpu() - own
    await _must(opened[0], request("/flush"))
    result.stored_s = time.perf_counter() - started
    result.service_cpu_s = cpu_of(job.pid) - cpu
    for connection in opened:
        connection.close()
    return result


async def _must(connection: Connection, prepared: bytes) -> None:
    status, body = await connection.post(prepared)
    if status != 200:
        raise RuntimeError(f"{status} {body[:500]!r}")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(run(Job(**json.load(sys.stdin)))))))

"""An outage of the database under load: what it costs in memory and latency, and how fast the backlog is written after it.

The database is SQLite, locked by this program as long as the outage lasts. Sent are `--records` tasks, all of which the
service must acknowledge; then the lock is given back, and while the backlog is drained new batches go on at `--rate`.
`python benchmarks/outage.py --help` has the options, README.md beside this file a result.
"""

import argparse
import asyncio
import json
import math
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ingest import SERVICE, running  # a program, not a package
from benchmarks.load import Connection, data, request

_MIB = 2**20


@dataclass
class Phase:
    """What was seen of one phase: latencies of acknowledgements in seconds, the largest resident memory in bytes."""

    name: str
    rows: int = 0
    seconds: float = 0
    latencies: list[float] = field(default_factory=list)
    memory: int = 0


class Load:
    """Sends tasks, no two with the same id, over kept-alive connections."""

    def __init__(self, connections: list[Connection], tasks: list[dict[str, object]], batch: int) -> None:
        self._connections = connections
        self._tasks = tasks
        self._batch = batch
        self._numbers = count()
        self._encode = msgspec.json.Encoder().encode
        self.sent = 0

    def _next(self) -> bytes:
        first = next(self._numbers) * self._batch
        items = [
            self._tasks[number % len(self._tasks)] | {"task_id": f"{number:012d}", "status": "completed"}
            for number in range(first, first + self._batch)
        ]
        return request("/tasks/batch", self._encode({"tasks": items}))

    def is_below(self, rows: int) -> bool:
        """Whether less than so much was sent."""
        return self.sent < rows

    async def run(self, phase: Phase, goes_on: Callable[[], bool], *, rate: float = 0) -> None:
        """Send as long as it goes on, at `rate` rows/s of all connections together (0: as fast as it goes)."""
        started = time.perf_counter()
        turns = count()

        async def client(connection: Connection) -> None:
            while goes_on():
                prepared = self._next()
                if rate:
                    due = started + next(turns) * self._batch / rate
                    await asyncio.sleep(max(0, due - time.perf_counter()))
                self.sent += self._batch
                sent = time.perf_counter()
                status, body = await connection.post(prepared)
                if status != 200:
                    raise RuntimeError(f"{status} {body[:500]!r}")
                phase.latencies.append(time.perf_counter() - sent)
                phase.rows += self._batch

        await asyncio.gather(*(client(connection) for connection in self._connections))
        phase.seconds = time.perf_counter() - started


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def watch(pid: int, phase: Callable[[], Phase]) -> None:
    """Note the largest resident memory of each phase, until cancelled."""
    while True:
        phase().memory = max(phase().memory, memory_of(pid))
        await asyncio.sleep(0.1)


async def health(connection: Connection) -> dict[str, Any]:
    """What the service says of its buffer and journal."""
    _, body = await connection.post(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answer: dict[str, Any] = json.loads(body)
    return answer


async def measure(options: argparse.Namespace, port: int, pid: int, database: Path) -> list[Phase]:
    """The whole of it."""
    sessions, tasks = data()
    opened = [
        Connection(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)) for _ in range(options.clients + 1)
    ]
    asking, *connections = opened
    known = [session | {"status": "processing"} for session in sessions]
    await asking.post(request("/sessions/batch", msgspec.json.encode({"sessions": known})))
    load = Load(connections, tasks, options.batch)
    phases = [Phase("database there")]
    watching = asyncio.create_task(watch(pid, lambda: phases[-1]))
    first = min(options.records, 20_000)
    await load.run(phases[-1], partial(load.is_below, first))
    await asking.post(request("/flush"))
    blocker = sqlite3.connect(database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for part in range(4):
        phases.append(Phase(f"database away, {part * 25}-{part * 25 + 25} %"))
        limit = first + options.records * (part + 1) // 4
        await load.run(phases[-1], partial(load.is_below, limit))
    before = await health(asking)
    waiting = before["buffer"]["total_count"]
    phases.append(Phase("one task looked up, where it waits"))
    for number in range(100):
        sent = time.perf_counter()
        task_id = f"{first + number * (options.records // 100):012d}"
        head = f"GET /api/v1/translation/tasks/{task_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        status, body = await asking.post(head.encode())
        assert status == 200, body
        phases[-1].latencies.append(time.perf_counter() - sent)
    phases.append(Phase(f"drain, {options.rate:,.0f} new rows/s meanwhile"))
    blocker.execute("ROLLBACK")
    blocker.close()
    drained = asyncio.create_task(asking.post(request("/flush")))
    await load.run(phases[-1], lambda: not drained.done(), rate=options.rate)
    status, body = await drained
    assert status == 200, body
    written = json.loads(body)["tasks_written"]
    await asking.post(request("/flush"))
    watching.cancel()
    after = await health(asking)
    stored = sqlite3.connect(database).execute("SELECT COUNT(*) FROM translation_tasks").fetchone()[0]
    print(f"waited: {waiting:,} records, of them {before['buffer']['spilled_records']:,} in the journal alone")
    print(f"drained: {written:,} rows in {phases[-1].seconds:.1f} s, {written / phases[-1].seconds:,.0f}/s")
    print(
        f"journal: {before['journal']['bytes'] / _MIB:,.0f} MiB in the outage, {after['journal']['bytes'] / _MIB:,.0f} MiB after it"
    )
    print(f"acknowledged {load.sent:,}, stored {stored:,}")
    if stored != load.sent:
        raise SystemExit("not everything that was acknowledged is stored")
    return phases


def table_of(phases: list[Phase]) -> Table:
    """The phases for people."""
    table = Table()
    table.add_column("phase")
    for name in ("rows/s", "p50 ms", "p95 ms", "p99 ms", "memory, largest"):
        table.add_column(name, justify="right")
    for phase in phases:
        latencies = sorted(phase.latencies)
        at = [latencies[min(len(latencies) - 1, math.ceil(share * len(latencies)) - 1)] for share in (0.5, 0.95, 0.99)]
        rate = f"{phase.rows / phase.seconds:,.0f}" if phase.rows else ""
        table.add_row(phase.name, rate, *(f"{1000 * value:.2f}" for value in at), f"{phase.memory / _MIB:,.0f} MiB")
    return table


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2_000_000, help="tasks sent in the outage (%(default)s)")
    parser.add_argument("--batch", type=int, default=200, help="tasks a batch (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="clients at once (%(default)s)")
    parser.add_argument(
        "--rate", type=float, default=2_000, help="new rows/s while the backlog is drained (%(default)s)"
    )
    parser.add_argument("--directory", help="where journal and database lie meanwhile (the system's temporary folder)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the service")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="outage-", dir=options.directory) as folder,
        running(SERVICE, {"storage.backend": "sqlite"}, Path(folder), ["sqlite.busy_timeout=0.1", *options.set]) as (
            port,
            pid,
        ),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        phases = runner.run(measure(options, port, pid, Path(folder) / "service.db"))
    Console(width=120).print(table_of(phases))


if __name__ == "__main__":
    main()

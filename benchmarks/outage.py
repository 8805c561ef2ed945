"""An outage of the database under load: what it costs in memory and latency, and how fast the backlog is written after it.

The database is SQLite, locked by this program as long as the outage lasts, or a private MySQL or MariaDB server that is shut
down. Sent are `--records` tasks meanwhile, all of which the service must acknowledge; then the database comes back, and while
the backlog is drained new batches go on at `--rate`. `python benchmarks/outage.py --help` has the options, README.md beside
this file a result.
"""

import argparse
import asyncio
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ingest import SERVERS, SERVICE, running, server_for  # a program, not a package
from benchmarks.load import Connection, data, request
from tests.chaos.outages import Locked, Outage, Stopped  # only a checkout has it
from tests.e2e.database import SqliteFile

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
    return await _asked(connection, "/health")


async def stats(connection: Connection) -> dict[str, Any]:
    """What it counts."""
    return await _asked(connection, "/api/v1/translation/stats")


async def _asked(connection: Connection, path: str) -> dict[str, Any]:
    _, body = await connection.post(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer: dict[str, Any] = json.loads(body)
    return answer


@dataclass
class Figures:
    """What an outage cost: records that waited, rows/s stored without one and after one, resident memory and disk in bytes."""

    waited: int
    spilled: int
    undisturbed_per_s: float
    drained_per_s: float
    drain_s: float
    memory_before: int
    memory_during: int
    memory_in_drain: int
    memory_after: int
    journal_during: int
    journal_after: int
    full_in_s: float | None
    latency_ratio: float

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"waited: {self.waited:,} records, of them {self.spilled:,} in the journal alone"
        yield f"acknowledged during the outage in {self.latency_ratio:.2f} times the time it took before (p50)"
        yield (
            f"drained in {self.drain_s:.1f} s: {self.drained_per_s:,.0f} rows/s, undisturbed {self.undisturbed_per_s:,.0f} "
            f"(ratio {self.drained_per_s / self.undisturbed_per_s:.2f})"
        )
        yield (
            f"resident memory: {self.memory_before / _MIB:,.0f} MiB before, {self.memory_during / _MIB:,.0f} during, "
            f"{self.memory_in_drain / _MIB:,.0f} in the drain, {self.memory_after / _MIB:,.0f} after it"
        )
        yield f"journal: {self.journal_during / _MIB:,.0f} MiB in the outage, {self.journal_after / _MIB:,.0f} MiB after it"
        if self.full_in_s is not None:
            yield f"at the end of the outage the journal would have been full in {self.full_in_s:,.0f} s"


async def measure(options: argparse.Namespace, port: int, pid: int, outage: Outage) -> tuple[list[Phase], Figures]:
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
    first = max(options.batch, min(options.records // 2, 100_000) // options.batch * options.batch)
    started = time.perf_counter()
    await load.run(phases[-1], partial(load.is_below, first))
    await flushed(asking)
    undisturbed_per_s = load.sent / (time.perf_counter() - started)
    memory_before = memory_of(pid)
    await outage.begin()
    for part in range(4):
        phases.append(Phase(f"database away, {part * 25}-{part * 25 + 25} %"))
        limit = first + options.records * (part + 1) // 4
        await load.run(phases[-1], partial(load.is_below, limit))
    before, full_in_s = await health(asking), (await stats(asking))["buffer"]["journal_full_in_s"]
    phases.append(Phase("one task looked up, where it waits"))
    for number in range(100):
        sent = time.perf_counter()
        task_id = f"{first + number * (options.records // 100):012d}"
        head = f"GET /api/v1/translation/tasks/{task_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        status, body = await asking.post(head.encode())
        assert status == 200, body
        phases[-1].latencies.append(time.perf_counter() - sent)
    phases.append(Phase(f"drain, {options.rate:,.0f} new rows/s meanwhile"))
    await outage.end()
    drained = asyncio.create_task(flushed(asking))
    await load.run(phases[-1], lambda: not drained.done(), rate=options.rate)
    await drained
    await flushed(asking)
    watching.cancel()
    after = await health(asking)
    stored = outage.database.stored_rows()["translation_tasks"][0]
    print(f"acknowledged {load.sent:,}, stored {stored:,}")
    if stored != load.sent:
        raise SystemExit("not everything that was acknowledged is stored")
    there, away, drain = phases[0], phases[1:5], phases[-1]
    return phases, Figures(
        waited=before["buffer"]["total_count"],
        spilled=before["buffer"]["spilled_records"],
        undisturbed_per_s=undisturbed_per_s,
        drained_per_s=before["buffer"]["total_count"] / drain.seconds,
        drain_s=drain.seconds,
        memory_before=memory_before,
        memory_during=max(phase.memory for phase in away),
        memory_in_drain=drain.memory,
        memory_after=memory_of(pid),
        journal_during=before["journal"]["bytes"],
        journal_after=after["journal"]["bytes"],
        full_in_s=full_in_s,
        latency_ratio=percentile([each for phase in away for each in phase.latencies], 0.5)
        / percentile(there.latencies, 0.5),
    )


async def flushed(connection: Connection) -> None:
    """Return when everything that was sent is stored; a database that has only just come back may need a moment."""
    while (await connection.post(request("/flush")))[0] != 200:  # noqa: ASYNC110  # it is another process that has the news
        await asyncio.sleep(0.1)


def percentile(latencies: list[float], share: float) -> float:
    """So many of them are not longer."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def table_of(phases: list[Phase]) -> Table:
    """The phases for people."""
    table = Table()
    table.add_column("phase")
    for name in ("rows/s", "p50 ms", "p95 ms", "p99 ms", "memory, largest"):
        table.add_column(name, justify="right")
    for phase in phases:
        at = [percentile(phase.latencies, share) if phase.latencies else 0.0 for share in (0.5, 0.95, 0.99)]
        rate = f"{phase.rows / phase.seconds:,.0f}" if phase.rows else ""
        table.add_row(phase.name, rate, *(f"{1000 * value:.2f}" for value in at), f"{phase.memory / _MIB:,.0f} MiB")
    return table


@contextmanager
def outage_of(backend: str, directory: str | None, folder: Path) -> Iterator[Outage]:
    """A new database that can go away."""
    with server_for(backend, directory) as server:
        yield Locked(SqliteFile(folder / "service.db")) if server is None else Stopped(server)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2_000_000, help="tasks sent in the outage (%(default)s)")
    parser.add_argument("--batch", type=int, default=200, help="tasks a batch (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="clients at once (%(default)s)")
    parser.add_argument(
        "--rate", type=float, default=2_000, help="new rows/s while the backlog is drained (%(default)s)"
    )
    parser.add_argument(
        "--backend",
        choices=("sqlite", *SERVERS),
        default="sqlite",
        help="the database; servers are started (%(default)s)",
    )
    parser.add_argument("--directory", help="where journal and database lie meanwhile (the system's temporary folder)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the service")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with (
        tempfile.TemporaryDirectory(prefix="outage-", dir=options.directory) as name,
        outage_of(options.backend, options.directory, folder := Path(name)) as outage,
        running(SERVICE, outage.database.settings(), folder, ["sqlite.busy_timeout=0.1", *options.set]) as (port, pid),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        phases, figures = runner.run(measure(options, port, pid, outage))
    for line in figures.lines():
        print(line)
    Console(width=120).print(table_of(phases))


if __name__ == "__main__":
    main()

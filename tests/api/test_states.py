"""docs/states.md is what is so: a service is brought into each of its states, and every cell is compared."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from persistence_service.bootstrap import open_services
from persistence_service.buffer.manager import BufferManager
from persistence_service.errors import PersistenceError, QueryTimeout, StorageSetupError, StorageUnavailable
from persistence_service.fleet.identity import slot_directory
from persistence_service.journal.lock import DirectoryLock
from persistence_service.settings import Settings
from persistence_service.storage.registry import StorageRegistry
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.faulty_backend import FaultyBackend
from persistence_service.testing.faulty_files import FaultyFiles
from tests.api.conftest import BASE, Api, Json, StartApi, a_session, a_task
from tests.unit.buffer.harness import session_request, task_request, until

DOCUMENT = (Path(__file__).parents[2] / "docs" / "states.md").read_text(encoding="utf-8")
AWAY = StorageUnavailable("the server is gone", number=2006)
KIB = 1024
LIMITS = {"max_body_bytes": 64 * KIB, "max_text_bytes": 16 * KIB}
COLUMNS = {
    "live": "/health/live",
    "ready": "/health/ready",
    "health": "/health",
    "write": f"{BASE}/sessions/batch",
    "read of a waiting one": f"{BASE}/tasks/waiting",
    "read of a stored one": f"{BASE}/tasks/stored",
    "list": f"{BASE}/tasks",
    "recovery": f"{BASE}/recovery/incomplete-sessions",
}
WAITS = "waits, then "


def tables() -> dict[str, dict[str, str]]:
    """Of each state of the document, what each column says."""
    found: dict[str, dict[str, str]] = {}
    for table in re.findall(r"^\| state \|.*\n\|[-|]+\|\n(?:\|.*\n)+", DOCUMENT, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for state, *cells in rows:
            assert state not in found
            found[state] = dict(zip(head[1:], cells, strict=True))
    return found


STATES = tables()


class DiskOfLastRun(FaultyFiles):
    """Once a service has begun a segment of its own, it can't read, or with an `error` number fails to."""

    def __init__(self, error: int = 0) -> None:
        super().__init__()
        self._error = error

    def create(self, path: Path) -> int:
        fd = super().create(path)
        if path.suffix == ".new":
            if self._error:
                self.fail("open_existing", self._error)
            else:
                self.gate("open_existing")
        return fd


@dataclass
class Run:
    """A service in a state, and what ends that."""

    api: Api
    backend: FaultyBackend
    files: FaultyFiles
    end: Callable[[], None]


@dataclass
class Bench:
    """Starts services on one journal and one database."""

    start_api: StartApi
    folder: Path

    @property
    def journal(self) -> dict[str, Any]:
        return {"directory": self.folder / "journal", "min_free": 0, "max_bytes": 256 * KIB, "segment_bytes": 32 * KIB}

    async def runs_before(self) -> None:
        """One that stores a task `stored`, and one that leaves another, `waiting`, in the journal."""
        async with self._run() as (buffer, _):
            await buffer.accept_sessions([session_request("s1")])
            await buffer.accept_tasks([task_request("stored", "s1")])
            await buffer.flush()
        async with self._run() as (buffer, backend):
            backend.go_away(AWAY)
            await buffer.accept_tasks([task_request("waiting", "s1")])

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[tuple[BufferManager, FaultyBackend]]:
        settings = {"journal": self.journal, "limits": LIMITS, "service": {"shutdown_timeout": 0}}
        backend = FaultyBackend(SqliteBackend(self.folder / "test.db"))
        registry = StorageRegistry()
        registry.register("memory", lambda: backend)
        registry.route_all("memory", {})
        async with open_services(Settings.model_validate(settings), registry=registry) as services:
            yield services.buffer, backend

    async def start(
        self,
        *,
        prepare: Callable[[FaultyBackend], None] | None = None,
        files: FaultyFiles | None = None,
        **sections: Json,
    ) -> Run:
        """A service on what the runs before have left; `prepare` sees the backend before it does."""
        backend, files = FaultyBackend(SqliteBackend(self.folder / "test.db")), files or FaultyFiles()
        if prepare:
            prepare(backend)
        sections["journal"] = self.journal | sections.get("journal", {})
        sections["limits"] = LIMITS | sections.get("limits", {})
        sections["buffer"] = {"flush_interval": 3600} | sections.get("buffer", {})
        api = await self.start_api(backend=backend, files=files, **sections)

        def end() -> None:
            backend.come_back()
            backend.release()
            files.free = None
            files.heal()

        return Run(api, backend, files, end)

    async def replayed(self, **options: Json) -> Run:
        """A service that has read its last run's journal, and stored nothing of it."""
        run = await self.start(**options)
        await until(lambda: not run.api.services.buffer.replaying)
        return run


State = Callable[[Bench], Awaitable[Run]]
DRIVERS: dict[str, State] = {}


def state(name: str) -> Callable[[State], State]:
    """The function brings a service into the state of this name."""

    def note(driver: State) -> State:
        DRIVERS[name] = driver
        return driver

    return note


# ----------------------------------------------------------------------------------------------------- the database


@state("up")
async def up(bench: Bench) -> Run:
    return await bench.replayed()


def refusing(error: PersistenceError) -> State:
    async def drive(bench: Bench) -> Run:
        run = await bench.replayed()
        run.backend.go_away(error)
        return run

    return drive


state("away")(refusing(AWAY))
state("not usable (password, table, privilege)")(refusing(StorageSetupError("access denied", number=1045)))


@state("away since the start")
async def away_since_the_start(bench: Bench) -> Run:
    return await bench.replayed(prepare=lambda backend: backend.go_away(AWAY))


@state("read-only")
async def read_only(bench: Bench) -> Run:
    run = await bench.replayed()
    run.backend.fail_next(StorageUnavailable("the server is read-only", number=1290), times=1000)
    assert (await run.api.post("/flush")).status_code == 503
    return run


@state("slow to write")
async def slow_to_write(bench: Bench) -> Run:
    run = await bench.replayed()
    await hold_a_flush(run)
    return run


async def hold_a_flush(run: Run) -> None:
    """One has begun, and the database does not answer it yet."""
    run.backend.hold()
    flush = asyncio.create_task(run.api.services.buffer.flush())
    flush.add_done_callback(lambda done: done.exception())
    await run.backend.held()


@state("too slow to query")
async def too_slow_to_query(bench: Bench) -> Run:
    run = await bench.replayed()
    run.backend.fail_queries(QueryTimeout("it took too long"))
    return run


# ------------------------------------------------------------------------------------------------------ the journal


@state("full, the database away")
async def full_and_away(bench: Bench) -> Run:
    run = await bench.replayed()
    run.backend.go_away(AWAY)
    large = {"sessions": [a_session("s3", metadata={"text": "x" * 8 * KIB})]}
    while (refused := await run.api.post("/sessions/batch", large)).status_code == 200:
        pass
    assert refused.json()["error_code"] == "JOURNAL_FULL"
    return run


@state("its volume full, the database up")
async def volume_full(bench: Bench) -> Run:
    run = await bench.replayed(journal={"min_free": 1})
    run.files.free = 0
    assert (await write(run)).status_code == 503
    return run


@state("its disk failing, the database up")
async def disk_failing(bench: Bench) -> Run:
    run = await bench.replayed()
    for operation in ("writev", "sync", "create"):
        run.files.fail(operation, errno.EIO)
    assert (await write(run)).status_code == 503
    return run


@state("its disk failing, the database away")
async def disk_failing_and_away(bench: Bench) -> Run:
    run = await disk_failing(bench)
    run.backend.go_away(AWAY)
    return run


# ------------------------------------------------------------------------------------------------------ the service


def starting(error: int) -> State:
    async def drive(bench: Bench) -> Run:
        run = await bench.start(files=DiskOfLastRun(error))
        await until(lambda: run.api.services.buffer.stats().replay_failing == bool(error))
        return run

    return drive


state("starting, reading its last run's journal")(starting(0))
state("starting, its last run's journal can't be read")(starting(errno.EIO))


@state("starting, taking over the journal of a former worker")
async def taking_over(bench: Bench) -> Run:
    root = bench.folder / "journal"
    root.rename(bench.folder / "left")
    root.mkdir()
    left = (bench.folder / "left").rename(slot_directory(root, 1))
    lock = DirectoryLock.take(left)
    run = await bench.start()
    await until(lambda: not run.api.services.buffer.replaying)
    health, statistics = await run.api.client.get("/health"), await run.api.get("/stats")
    assert health.json()["buffer"]["replaying"]
    assert statistics.json()["buffer"]["replaying"]
    return replace(run, end=lock.release)


@state("over `buffer.max_memory_records`")
async def over_memory(bench: Bench) -> Run:
    run = await bench.replayed(buffer={"max_memory_records": 4, "max_buffer_size": 4})
    await hold_a_flush(run)
    for number in range(10):
        await run.api.keep(tasks=[a_task(f"t{number}"), a_task("waiting")])
    assert run.api.services.buffer.stats().spilled_records > 0
    return run


@state("over `limits.max_inflight_bytes`")
async def over_in_flight(bench: Bench) -> Run:
    run = await bench.replayed(limits={"max_inflight_bytes": 64 * KIB})
    run.backend.hold()
    large = {"sessions": [a_session(f"s{number}", metadata={"text": "x" * 15 * KIB}) for number in range(4)]}
    request = asyncio.create_task(run.api.post("/sessions/batch", large, ack="storage"))
    request.add_done_callback(lambda done: done.exception())
    await run.backend.held()
    return run


@state("draining")
async def draining(bench: Bench) -> Run:
    run = await bench.replayed()
    run.api.services.buffer.begin_shutdown()
    return run


# --------------------------------------------------------------------------------------------------------- the test


async def write(run: Run) -> httpx.Response:
    return await run.api.post("/sessions/batch", {"sessions": [a_session("new", metadata={"text": "x" * 8 * KIB})]})


async def ask(run: Run, column: str) -> str:
    """What the column's call answers, in the words of the document."""
    answer = await write(run) if column == "write" else await run.api.client.get(COLUMNS[column])
    body = answer.json()
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) >= 1
    said = body["status"] if column == "health" else body.get("error_code", "")
    return f"{answer.status_code} {said}".strip()


def test_every_state_of_the_document_can_be_brought_about() -> None:
    assert STATES.keys() == DRIVERS.keys()
    assert all(list(cells) == list(COLUMNS) for cells in STATES.values())


@pytest.mark.parametrize("name", STATES)
async def test_each_call_answers_as_the_document_says(start_api: StartApi, tmp_path: Path, name: str) -> None:
    bench = Bench(start_api, tmp_path)
    await bench.runs_before()
    run = await DRIVERS[name](bench)
    expected = STATES[name]
    try:
        async with asyncio.timeout(60):  # or it hangs
            at_once = [column for column, cell in expected.items() if not cell.startswith(WAITS)]
            found = {column: await ask(run, column) for column in at_once}
            late = {column: asyncio.create_task(ask(run, column)) for column in expected.keys() - set(at_once)}
            if late:
                # However slow the machine: one that waits for nothing is answered before so many that were asked after it.
                for column in [column for column in at_once if expected[column].startswith("200")] * 2:
                    assert await ask(run, column) == expected[column]
                assert not [column for column, request in late.items() if request.done()]
                run.end()
                found |= {column: WAITS + await request for column, request in late.items()}
    finally:
        run.end()
    assert found == expected

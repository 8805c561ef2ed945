"""The buffer with its real journal, on a backend that fails on demand and a clock that stands still."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from persistence_service.buffer.assembly import Policies, build_buffer
from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.flusher import Flusher, Waiting
from persistence_service.buffer.letter_files import DIRECTORY_NAME, LetterFiles
from persistence_service.buffer.manager import BufferManager
from persistence_service.buffer.policy import AckPolicy, FlushPolicy, MemoryBounds
from persistence_service.buffer.takeover import TakeOver
from persistence_service.buffer.timing import Clock
from persistence_service.errors import PersistenceError
from persistence_service.journal.files import Files
from persistence_service.journal.journal import Journal
from persistence_service.models.dead_letter import DeadLetter
from persistence_service.models.limits import Limits
from persistence_service.models.session import Session, SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import Task, TaskRequest
from persistence_service.observability.metrics import Metrics
from persistence_service.settings import Durability
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS, TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Query, Sort
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend

KIB = 1024


def session_request(session_id: str = "S", **changes: Any) -> SessionRequest:  # noqa: ANN401  # values of its fields
    plain: dict[str, Any] = {
        "session_id": session_id,
        "filename": "game.xlsx",
        "file_path": "/in/game.xlsx",
        "status": Status.PROCESSING,
        "llm_provider": "openai",
    }
    return SessionRequest(**(plain | changes))


def task_request(task_id: str = "T", session_id: str = "S", **changes: Any) -> TaskRequest:  # noqa: ANN401  # as above
    plain: dict[str, Any] = {
        "task_id": task_id,
        "session_id": session_id,
        "batch_id": "B",
        "sheet_name": "Sheet1",
        "row_index": 1,
        "column_name": "A",
        "source_text": "text",
        "status": Status.PENDING,
    }
    return TaskRequest(**(plain | changes))


def task_requests(number: int, session_id: str = "S", prefix: str = "T") -> list[TaskRequest]:
    return [task_request(f"{prefix}{index:05}", session_id, row_index=index) for index in range(number)]


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Give the loop and the journal's thread their turns until `condition` holds; fails after a minute."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + 60
    while not condition():
        assert loop.time() < limit, f"{what} did not come true"
        await asyncio.sleep(0.0005)


async def let_all_run() -> None:
    """Enough turns of the loop that everything that can go on without the journal's thread has done so."""
    for _ in range(50):
        await asyncio.sleep(0)


@dataclass
class Rig:
    """One run of the buffer. `open_rig` makes it."""

    journal: Journal
    backend: FaultyBackend
    timing: ManualTiming
    clock: Clock
    sessions: RecordBuffer[Session]
    tasks: RecordBuffer[Task]
    flusher: Flusher
    buffer: BufferManager
    metrics: CountingMetrics
    directory: Path
    waiting: Waiting
    letter_files: LetterFiles
    takeover: TakeOver
    background: list[asyncio.Task[None]] = field(default_factory=list)
    has_crashed: bool = False

    async def start(self, *, replay: bool = True) -> None:
        self.background.append(asyncio.create_task(self.flusher.run()))
        if replay:
            self.background.append(asyncio.create_task(self.buffer.replay()))
            await until(lambda: not self.buffer.replaying, "replay")
        await self.rests()

    async def rests(self) -> None:
        """The flusher has nothing to do, waits for its next attempt, or has ended."""
        await until(lambda: self.timing.sleeping > 0 or all(task.done() for task in self.background), "rest")

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and the flusher do what is due then."""
        await self.rests()
        self.timing.advance(seconds)
        await let_all_run()
        await self.rests()

    async def stored(self) -> tuple[list[str], list[str]]:
        """Keys of the stored sessions and tasks, sorted."""
        inner = self.backend.inner
        sessions = await inner.aggregate(SESSIONS, group_by=("session_id",), measure=())
        tasks = await inner.aggregate(TASKS, group_by=("task_id",), measure=())
        return sorted(g.keys[0] for g in sessions), sorted(g.keys[0] for g in tasks)

    async def letters(self) -> list[DeadLetter]:
        """The dead letters in the backend, oldest first."""
        order = (Sort("created_at"),)
        return await self.backend.inner.query(DEAD_LETTERS, Query(order=order, limit=10_000))

    async def unstored_task(self, task_id: str) -> Task | None:
        """What the buffer has of the task, where no two sessions claim it."""
        tasks = await self.buffer.tasks(task_id)
        assert len(tasks) <= 1
        return tasks[0] if tasks else None

    async def stored_task(self, task_id: str) -> Task | None:
        found = await self.backend.inner.read(TASKS, [task_id])
        return found[0] if found else None

    def check_books(self) -> None:
        """What the journal holds is what the buffers stand for: nothing leaks, nothing is let go of early."""
        buffers: tuple[RecordBuffer[Any], ...] = (self.sessions, self.tasks)
        entries = [
            entry
            for buffer in buffers
            for entry in (
                *buffer._waiting.values(),
                *buffer._in_flight.values(),
                *(entry for several in buffer._contested.values() for entry in several),
                *buffer._aside(),
            )
        ]
        assert sum(buffer.total for buffer in buffers) == len(entries)
        assert sum(buffer.size_bytes for buffer in buffers) == sum(entry.size for entry in entries)
        assert sum(buffer.aside_bytes for buffer in buffers) == sum(e.size for b in buffers for e in b._aside())
        for buffer in buffers:
            tickets = [entry.ticket for entry in buffer._waiting.values()]
            assert tickets == sorted(tickets)
        if not self.buffer.stats().unreadable:
            held = sum(items for entry in entries for _, items in entry.holds)
            held += self.waiting.spill.total + self.waiting.set_aside.queue.total
            assert self.journal.stats().unstored_items == held

    async def end(self) -> None:
        """Stop everything at once, as it is."""
        for task in self.background:
            task.cancel()
        outcomes = await asyncio.gather(*self.background, return_exceptions=True)
        assert [error for error in outcomes if isinstance(error, Exception)] == []
        self.background.clear()

    async def crash(self) -> Path:
        """End without a word; the directory is what the disk holds then. The backend goes on."""
        self.has_crashed = True
        await self.end()
        return image_of(self.directory)


_images = count()


def image_of(directory: Path) -> Path:
    """A copy of a journal in use, as a crash would leave it."""
    while True:
        target = directory.with_name(f"{directory.name}-{next(_images)}")
        try:
            shutil.copytree(directory, target)
        except shutil.Error:  # a segment went meanwhile
            continue
        return target


class CountingMetrics(Metrics):
    """Metrics that remember what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.failures: list[str] = []
        self.lettered: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()

    def flushed(self, reason: str, seconds: float, rows: Any) -> None:  # noqa: ANN401  # as Metrics has it
        super().flushed(reason, seconds, rows)
        self.flushes[reason] += 1
        self.rows.update(rows)

    def flush_failed(self, error: str) -> None:
        super().flush_failed(error)
        self.failures.append(error)

    def dead_lettered(self, collection: str, reason: str) -> None:
        super().dead_lettered(collection, reason)
        self.lettered[reason] += 1

    def dropped(self, collection: str, records: int) -> None:
        super().dropped(collection, records)
        self.gone[collection] += records


async def _nothing() -> None:
    pass


@asynccontextmanager
async def open_rig(
    directory: Path,
    *,
    inner: StorageBackend | None = None,
    timing: ManualTiming | None = None,
    size: int = 1000,
    interval_s: float = 30.0,
    bounds: MemoryBounds | None = None,
    chunk_bytes: int = 4 * KIB * KIB,
    ack_timeout_s: float = 30.0,
    min_ack: Durability = Durability.MEMORY,
    prepare: Callable[[], Awaitable[None]] = _nothing,
    start: bool = True,
    replay: bool = True,
    files: Files | None = None,
    max_bytes: int = 64 * KIB * KIB,
    segment_bytes: int = 256 * KIB,
    orphan_grace_s: float = 300.0,
    max_dead_letters: int = 100,
) -> AsyncIterator[Rig]:
    """A rig on the journal in `directory`; at the end its books are checked, unless it crashed. A backend that is given stays open."""
    timing = timing or ManualTiming()
    own = inner is None
    inner = inner or MemoryBackend()
    if own:
        await inner.open()
    backend = FaultyBackend(inner)
    journal = await Journal.open(
        directory,
        max_bytes=max_bytes,
        min_free=0,
        segment_bytes=segment_bytes,
        clock=timing.wall_us,
        files=files,
        retry_s=(0.001, 0.01),
    )
    metrics = CountingMetrics()
    letter_files = LetterFiles(directory / DIRECTORY_NAME, files)
    parts = build_buffer(
        journal=journal,
        backend=backend,
        letter_files=letter_files,
        policies=Policies(
            flush=FlushPolicy(size, interval_s, size, chunk_bytes, orphan_grace_s),
            bounds=bounds or MemoryBounds(),
            ack=AckPolicy(Durability.JOURNAL, min_ack, ack_timeout_s),
            max_dead_letters_per_minute=max_dead_letters,
        ),
        limits=Limits(),
        timing=timing,
        metrics=metrics,
        prepare=prepare,
        backoff=Backoff(random=Random(1)),
    )
    rig = Rig(
        journal=journal,
        backend=backend,
        timing=timing,
        clock=parts.manager._clock,
        sessions=parts.waiting.sessions,
        tasks=parts.waiting.tasks,
        flusher=parts.flusher,
        buffer=parts.manager,
        metrics=metrics,
        directory=directory,
        waiting=parts.waiting,
        letter_files=letter_files,
        takeover=parts.takeover,
    )
    try:
        if start:
            await rig.start(replay=replay)
        yield rig
        if not rig.has_crashed:  # it may have been amid an append, of which nothing in memory knows yet
            rig.check_books()
    finally:
        await rig.end()
        await journal.close()
        if own:
            await inner.close()


class Away:
    """A `prepare` that fails until it is told not to."""

    def __init__(self, error: PersistenceError) -> None:
        self.error: PersistenceError | None = error
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

"""The law of delivery, through the buffer: the same records end in the same rows, those that the merge rule makes of them.

It holds whatever the order, the repetition, the batches, the failures and the crashes are.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import StorageUnavailable
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.limits import Limits
from persistence_service.models.merge import merge_sessions, merge_tasks
from persistence_service.models.session import Session, SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import Task, TaskRequest
from persistence_service.models.times import EPOCH
from persistence_service.settings import Durability
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Query
from persistence_service.storage.sqlite.backend import SqliteBackend
from persistence_service.testing.faulty_backend import When
from tests.unit.buffer.harness import Rig, let_all_run, open_rig, session_request, task_request

Request = SessionRequest | TaskRequest
Rows = tuple[dict[str, Session], dict[str, Task]]
AWAY = StorageUnavailable("gone")

_SESSION_IDS = ("A", "B", "C")
_TASK_IDS = ("A1", "A2", "B1", "C1", "C2")  # the first letter is the session: a task keeps its own
_times = st.sampled_from([f"2026-01-31T10:00:0{second}Z" for second in range(4)])
_statuses = st.sampled_from(list(Status))
_objects = st.none() | st.fixed_dictionaries({"n": st.integers(0, 2)})

_session_requests = st.builds(
    session_request,
    st.sampled_from(_SESSION_IDS),
    status=_statuses,
    event_time=_times,
    filename=st.sampled_from(["a.xlsx", "b.xlsx"]),
    total_tasks=st.integers(0, 3),
    completed_tasks=st.integers(0, 3),
    processing_tasks=st.integers(0, 3),
    game_info=_objects,
    metadata=_objects,
)
_task_requests = st.builds(
    lambda key, **fields: task_request(key, key[0], **fields),
    st.sampled_from(_TASK_IDS),
    status=_statuses,
    event_time=_times,
    target_text=st.sampled_from([None, "", "x", "y"]),
    confidence=st.sampled_from([None, 0.0, 0.5]),
    retry_count=st.integers(0, 2),
)


class Event(Enum):
    """What may happen between two deliveries."""

    NOTHING = "nothing"
    NEXT_BATCH = "next batch"
    FLUSH = "flush"
    BACKGROUND_FLUSH = "background flush"
    FAILING_WRITE = "failing write"
    UNKNOWN_COMMIT = "unknown commit"
    CRASH = "crash"
    CRASH_IN_FLUSH = "crash in a flush"
    STOP = "stop"


@dataclass(frozen=True)
class Plan:
    """What was ever sent, and how it is delivered: repeated and in another order, an event after each item."""

    history: Sequence[Request]
    deliveries: Sequence[tuple[Request, Event]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    history = draw(st.lists(_session_requests | _task_requests, min_size=1, max_size=14))
    repeated = draw(st.lists(st.sampled_from(history), max_size=6))
    order = draw(st.permutations([*history, *repeated]))
    return Plan(history, [(request, draw(st.sampled_from(list(Event)))) for request in order])


def without_service_times(record: Any) -> Any:  # noqa: ANN401  # a session or a task
    return replace(record, created_at=EPOCH, updated_at=EPOCH)


def expected(history: Sequence[Request]) -> Rows:
    """The merge rule, folded over a dictionary."""
    sessions: dict[str, Session] = {}
    tasks: dict[str, Task] = {}
    acceptance = Acceptance(1, 2_000_000_000_000_000)
    for request in history:
        if isinstance(request, SessionRequest):
            (session,) = accept_sessions([request], acceptance, Limits())
            kept = sessions.get(session.session_id)
            sessions[session.session_id] = session if kept is None else merge_sessions(kept, session)
        else:
            (task,) = accept_tasks([request], acceptance, Limits())
            present = tasks.get(task.task_id)
            tasks[task.task_id] = task if present is None else merge_tasks(present, task)
    return (
        {key: without_service_times(session) for key, session in sessions.items()},
        {key: without_service_times(task) for key, task in tasks.items() if task.session_id in sessions},
    )


async def rows_of(backend: StorageBackend) -> Rows:
    return (
        {session.session_id: without_service_times(session) for session in await backend.query(SESSIONS, Query())},
        {task.task_id: without_service_times(task) for task in await backend.query(TASKS, Query())},
    )


class Delivery:
    """Carries a plan out, over as many runs as it has crashes."""

    def __init__(self, plan: Plan, backend: StorageBackend, folder: Path) -> None:
        self._left = list(plan.deliveries)
        self._backend = backend
        self._directory = folder / "journal"
        self._batch: list[Request] = []

    async def carry_out(self) -> None:
        while self._left:
            async with self._open() as rig:
                await self._run(rig)
        async with self._open() as rig:
            await rig.buffer.flush()
            stats = rig.buffer.stats()
            assert (stats.total_count, stats.set_aside) == (stats.waiting_for_session, 0)

    def _open(self) -> Any:  # noqa: ANN401  # a context manager of a rig
        bounds = MemoryBounds(records=8, pressure=0.9, aside=1)  # no orphan is a dead letter for lack of room
        return open_rig(self._directory, inner=self._backend, size=4, bounds=bounds, segment_bytes=4096)

    async def _run(self, rig: Rig) -> None:
        while self._left:
            request, event = self._left.pop(0)
            if self._batch and type(request) is not type(self._batch[0]):
                await self._send(rig)
            self._batch.append(request)
            if event is Event.NOTHING:
                continue
            await self._send(rig)
            if not await self._happen(rig, event):
                return
        await self._send(rig)

    async def _happen(self, rig: Rig, event: Event) -> bool:
        """Whether the run goes on."""
        match event:
            case Event.FLUSH:
                with suppress(StorageUnavailable):
                    await rig.buffer.flush()
            case Event.BACKGROUND_FLUSH:
                await rig.pass_time(31)
            case Event.FAILING_WRITE:
                rig.backend.fail_next(AWAY, when=When.WRITE)
            case Event.UNKNOWN_COMMIT:
                rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT)
            case Event.CRASH:
                self._directory = await rig.crash()
                return False
            case Event.CRASH_IN_FLUSH:
                rig.backend.hold()
                flush = asyncio.create_task(rig.buffer.flush())
                await let_all_run()
                self._directory = await rig.crash()
                await asyncio.gather(flush, return_exceptions=True)
                return False
            case Event.STOP:
                rig.buffer.begin_shutdown()
                await rig.flusher.stop(drain_s=0.0)
                return False
            case _:
                pass
        return True

    async def _send(self, rig: Rig) -> None:
        batch, self._batch = self._batch, []
        if batch:
            await self._accept(rig, batch)

    async def _accept(self, rig: Rig, batch: list[Any]) -> None:
        if isinstance(batch[0], SessionRequest):
            await rig.buffer.accept_sessions(batch, Durability.JOURNAL)
        else:
            await rig.buffer.accept_tasks(batch, Durability.JOURNAL)


async def deliver(plan: Plan, backend: StorageBackend) -> Rows:
    await backend.open()
    folder = Path(tempfile.mkdtemp())
    try:
        await Delivery(plan, backend, folder).carry_out()
        return await rows_of(backend)
    finally:
        await backend.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the schema and nothing else."""
    path = tmp_path_factory.mktemp("template") / "empty.db"

    async def make() -> None:
        backend = SqliteBackend(path)
        await backend.open()
        await backend.migrate()
        await backend.close()

    asyncio.run(make())
    return path


@given(plans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_records_end_in_the_same_rows_in_memory(plan: Plan) -> None:
    assert asyncio.run(deliver(plan, MemoryBackend())) == expected(plan.history)


@given(plans())
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_the_same_records_end_in_the_same_rows_in_sqlite(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory, plan: Plan
) -> None:
    path = tmp_path_factory.mktemp("database") / "law.db"
    shutil.copy(empty_database, path)
    assert asyncio.run(deliver(plan, SqliteBackend(path, readers=1))) == expected(plan.history)

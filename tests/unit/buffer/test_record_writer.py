"""Writing beside deletions: what a tombstone covers stays away, whatever is newer is kept, in any order of events."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from persistence_service.buffer.record_writer import RecordWriter, Written, write_records
from persistence_service.models.merge import merge_sessions, merge_tasks
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.models.times import EPOCH
from persistence_service.models.tombstone import Tombstone
from persistence_service.storage.backend import Rejection, RejectionReason, StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, TOMBSTONES, Collection
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Between, Equals, OneOf, Query, Sort
from persistence_service.storage.sqlite.backend import SqliteBackend
from persistence_service.testing.samples import at, session_record, task_record

COUNTERS = ("total_tasks", "completed_tasks", "failed_tasks")
UNKNOWN, CONFLICT = RejectionReason.UNKNOWN_PARENT, RejectionReason.FIXED_FIELD_CHANGED


def tombstone(session_id: str, up_to: datetime, *, removed: bool = False) -> Tombstone:
    return Tombstone(session_id, up_to, up_to if removed else None, up_to, up_to)


# ----------------------------------------------------------------------------------------------------- one by one


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageBackend]:
    made: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    await made.open()
    await made.migrate()
    yield made
    await made.close()


async def test_without_a_tombstone_a_write_is_the_backend_s_own(backend: StorageBackend) -> None:
    writer = RecordWriter(backend)
    assert await writer.write(SESSIONS, [session_record("a"), session_record("b")]) == Written(2)
    await writer.write(TASKS, [task_record("t2", "b")])
    written = await writer.write(TASKS, [task_record("t1", "a"), task_record("t2", "a"), task_record("t3", "c")])
    assert written == Written(1, rejected=(Rejection(1, CONFLICT), Rejection(2, UNKNOWN)))


async def test_what_became_of_each_record_is_told_by_its_place(backend: StorageBackend) -> None:
    await backend.write(SESSIONS, [session_record("live"), session_record("other")])
    await backend.write(TASKS, [task_record("conflict", "other")])
    await backend.write(SESSIONS, [session_record("dead", event_time=at(1))])
    await backend.write(TOMBSTONES, [tombstone("dead", at(5)), tombstone("gone", at(5))])
    records = [
        task_record("conflict", "live", event_time=at(9)),
        task_record("old", "dead", event_time=at(5)),
        task_record("stored", "live", event_time=at(1)),
        task_record("new", "dead", event_time=at(6)),
        task_record("older", "gone", event_time=at(0)),
        task_record("newer", "gone", event_time=at(7)),
        task_record("unknown", "never heard of"),
        task_record("stored too", "other", event_time=at(2)),
    ]
    written = await RecordWriter(backend).write(TASKS, records)
    assert written == Written(
        2,
        dropped=(1, 4),
        rejected=(Rejection(0, CONFLICT), Rejection(3, UNKNOWN), Rejection(5, UNKNOWN), Rejection(6, UNKNOWN)),
    )
    assert sorted(t.task_id for t in await backend.query(TASKS, Query())) == ["conflict", "stored", "stored too"]


async def test_a_record_of_the_tombstone_s_own_time_is_deleted_and_a_microsecond_later_is_not(
    backend: StorageBackend,
) -> None:
    await backend.write(TOMBSTONES, [tombstone("a", at(5), removed=True)])
    writer = RecordWriter(backend)
    assert await writer.write(SESSIONS, [session_record("a", event_time=at(5))]) == Written(0, dropped=(0,))
    assert await writer.write(SESSIONS, [session_record("a", event_time=at(5.000001))]) == Written(1)


async def test_a_revived_session_takes_nothing_of_the_deleted_one_with_it(backend: StorageBackend) -> None:
    await backend.write(SESSIONS, [session_record("a", total_tasks=7, game_info='{"old":1}', metadata='{"old":2}')])
    await backend.write(TASKS, [task_record("t", "a", status=Status.COMPLETED)])
    await backend.write(TOMBSTONES, [tombstone("a", at(5))])
    new = session_record("a", event_time=at(6), metadata="{}", created_at=at(6), updated_at=at(6))
    assert await RecordWriter(backend).write(SESSIONS, [new]) == Written(1)
    assert await backend.query(SESSIONS, Query()) == [new]
    assert await backend.query(TASKS, Query()) == []


async def test_what_a_merged_session_has_from_before_its_deletion_is_cleared(backend: StorageBackend) -> None:
    await backend.write(TOMBSTONES, [tombstone("a", at(5))])
    old = session_record("a", event_time=at(4), game_info='{"old":1}', metadata='{"old":2}')
    new = session_record("a", event_time=at(6), metadata='{"new":2}')
    await RecordWriter(backend).write(SESSIONS, [merge_sessions(old, new)])
    (stored,) = await backend.query(SESSIONS, Query())
    assert (stored.game_info, stored.game_info_time, stored.game_info_digest) == (None, None, None)
    assert stored.metadata == '{"new":2}'


async def test_a_tombstone_of_one_session_leaves_the_others_alone(backend: StorageBackend) -> None:
    await backend.write(TOMBSTONES, [tombstone("a", at(5)), tombstone("B", at(5))])
    sessions = [session_record("A", event_time=at(1)), session_record("b", event_time=at(1))]
    assert await RecordWriter(backend).write(SESSIONS, sessions) == Written(2)


async def test_nothing_written_is_nothing_stored(backend: StorageBackend) -> None:
    assert await RecordWriter(backend).write(TASKS, []) == Written(0)


# ------------------------------------------------------------------------------------------------------- the law

Record = Session | Task


@dataclass(frozen=True)
class Write:
    """Records that arrive together, each merged from some of the history by a buffer."""

    records: Sequence[Record]


@dataclass(frozen=True)
class Delete:
    """A deletion begins: everything stored, and up to `time` at least."""

    session_id: str
    time: datetime


@dataclass(frozen=True)
class Remove:
    """A deletion goes on by so many tasks; by all and the session itself with None."""

    session_id: str
    tasks: int | None


@dataclass(frozen=True)
class Plan:
    """Everything that was ever sent, and what happens; each record of the history is in at least one delivery."""

    history: Sequence[Record]
    actions: Sequence[Write | Delete | Remove]


_times = st.integers(0, 3).map(at)
_delete_times = st.integers(0, 2).map(at)
_sessions = st.builds(
    session_record,
    st.sampled_from(("A", "A", "A", "B")),
    event_time=_times,
    status=st.sampled_from(Status),
    filename=st.sampled_from(("a.xlsx", "b.xlsx")),
    total_tasks=st.integers(0, 3),
    completed_tasks=st.integers(0, 3),
    game_info=st.sampled_from((None, "{}", '{"a":1}')),
    metadata=st.sampled_from((None, "{}", '{"b":1}')),
)
_tasks = st.builds(
    lambda key, **fields: task_record(key, key[0], **fields),  # the first letter is the session: a task keeps its own
    st.sampled_from(("A1", "A1", "A2", "B1")),
    event_time=_times,
    status=st.sampled_from((Status.PROCESSING, Status.FAILED, Status.COMPLETED)),
    target_text=st.sampled_from((None, "x", "y")),
)


def key_of(record: Record) -> tuple[str, str]:
    return ("session", record.session_id) if isinstance(record, Session) else ("task", record.task_id)


def merged(records: Sequence[Any]) -> Any:  # noqa: ANN401  # sessions or tasks of one key
    return reduce(merge_sessions if isinstance(records[0], Session) else merge_tasks, records)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    history: list[Record] = draw(st.lists(_sessions | _tasks, min_size=1, max_size=12))
    first = draw(st.permutations(history))
    again = draw(st.lists(st.sampled_from(history), max_size=6))
    deliveries: list[Record] = []
    for record in (*first, *again):
        others = [other for other in history if key_of(other) == key_of(record)]
        deliveries.append(merged([record, *draw(st.lists(st.sampled_from(others), max_size=2))]))
    actions: list[Write | Delete | Remove] = []
    for record in deliveries:
        event = draw(st.sampled_from(["together", "alone", "alone", "alone", "delete", "remove", "finish"]))
        last = actions[-1] if actions else None
        session_id = draw(st.sampled_from(("A", "A", "B")))
        if event == "delete":
            actions.append(Delete(session_id, draw(_delete_times)))
        elif event == "remove":
            actions.append(Remove(session_id, 1))
        elif event == "finish":
            actions.append(Remove(session_id, None))
        elif event == "together" and isinstance(last, Write) and type(last.records[0]) is type(record):
            actions[-1] = Write([*last.records, record])
            continue
        actions.append(Write([record]))
    return Plan(history, actions)


@dataclass
class Run:
    """Carries a plan out on a backend; orphans wait and are tried again, as in the buffer."""

    backend: StorageBackend
    orphans: list[Task] = field(default_factory=list)
    deleted: dict[str, datetime] = field(default_factory=dict)

    async def carry_out(self, plan: Plan) -> None:
        for action in plan.actions:
            match action:
                case Write(records):
                    await self._write(records)
                case Delete(session_id, time):
                    await self._delete(session_id, time)
                case Remove(session_id, tasks):
                    await self._remove(session_id, tasks)
        for session_id in self.deleted:
            await self._remove(session_id, None)
        waiting, self.orphans = self.orphans, []
        await self._write(waiting)

    async def _write(self, records: Sequence[Any]) -> None:
        if not records:
            return
        collection: Collection[Any] = SESSIONS if isinstance(records[0], Session) else TASKS
        async with self.backend.transaction() as transaction:
            written = await write_records(transaction, collection, records)
        assert written.stored + len(written.dropped) + len(written.rejected) == len(records)
        self.orphans += [records[rejection.index] for rejection in written.rejected]
        if collection is SESSIONS:
            waiting, self.orphans = self.orphans, []
            await self._write(waiting)

    async def _delete(self, session_id: str, time: datetime) -> None:
        of_it = Equals("session_id", session_id)
        async with self.backend.transaction() as transaction:
            sessions = await transaction.query(SESSIONS, Query([of_it]))
            tasks = await transaction.query(TASKS, Query([of_it]))
            up_to = max([time, *(s.event_time for s in sessions), *(t.event_time for t in tasks)])
            await transaction.write(TOMBSTONES, [tombstone(session_id, up_to)])
        self.deleted[session_id] = max(up_to, self.deleted.get(session_id, up_to))

    async def _remove(self, session_id: str, tasks: int | None) -> None:
        up_to = self.deleted.get(session_id)
        if up_to is None:
            return
        covered = (Equals("session_id", session_id), Between("event_time", None, up_to))
        async with self.backend.transaction() as transaction:
            found = await transaction.query(TASKS, Query(covered, (Sort("task_id"),), limit=tasks or 100))
            await transaction.delete(TASKS, [OneOf("task_id", [task.task_id for task in found]), *covered])
            if tasks is None:
                await transaction.delete(SESSIONS, covered)


def without_service_times(record: Any) -> Any:  # noqa: ANN401  # a session or a task
    return replace(record, created_at=EPOCH, updated_at=EPOCH)


def newer(history: Sequence[Record], deleted: dict[str, datetime]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for record in history:
        if record.session_id not in deleted or record.event_time > deleted[record.session_id]:
            found.setdefault(key_of(record), []).append(without_service_times(record))
    return found


def check_session(plan: Plan, stored: Session, records: Sequence[Record]) -> None:
    expected = merged(records)
    every = merged([record for record in plan.history if key_of(record) == key_of(stored)])
    for counter in COUNTERS:
        assert getattr(expected, counter) <= getattr(stored, counter) <= getattr(every, counter)
    counters = {counter: getattr(expected, counter) for counter in COUNTERS}
    assert replace(stored, **counters) == expected


def check_task(plan: Plan, stored: Task | None, records: Sequence[Record], up_to: datetime | None) -> None:
    expected = merged(records)
    covered = [
        record
        for record in plan.history
        if key_of(record) == key_of(expected) and up_to is not None and record.event_time <= up_to
    ]
    if expected.status is not Status.COMPLETED and any(record.status is Status.COMPLETED for record in covered):
        assert stored is None or stored in records  # the newest may have lost to what is deleted now
    else:
        assert stored == expected


async def check(plan: Plan, backend: StorageBackend) -> None:
    await backend.open()
    try:
        run = Run(backend)
        await run.carry_out(plan)
        sessions = {s.session_id: without_service_times(s) for s in await backend.query(SESSIONS, Query())}
        tasks = {t.task_id: without_service_times(t) for t in await backend.query(TASKS, Query())}
        expected = newer(plan.history, run.deleted)
        assert {("session", key) for key in sessions} == {key for key in expected if key[0] == "session"}
        for key, session in sessions.items():
            check_session(plan, session, expected["session", key])
        assert {key for key in tasks if ("task", key) not in expected or key[0] not in sessions} == set()
        for (kind, key), records in expected.items():
            if kind == "task" and key[0] in sessions:
                check_task(plan, tasks.get(key), records, run.deleted.get(key[0]))
        assert all(task.session_id not in sessions for task in run.orphans)
    finally:
        await backend.close()


COMPLETED = task_record("A1", "A", status=Status.COMPLETED, event_time=at(5))
OLD, NEW = session_record("A", event_time=at(0)), session_record("A", event_time=at(4))


@given(plans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@example(Plan([OLD, COMPLETED, NEW], [Write([OLD]), Delete("A", at(3)), Write([COMPLETED]), Write([NEW])]))
@example(Plan([OLD, NEW], [Write([OLD]), Delete("A", at(3)), Write([NEW]), Remove("A", None)]))
def test_rows_are_those_of_the_records_newer_than_the_tombstone_in_memory(plan: Plan) -> None:
    asyncio.run(check(plan, MemoryBackend()))


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
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_records_newer_than_the_tombstone_in_sqlite(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory, plan: Plan
) -> None:
    path = tmp_path_factory.mktemp("database") / "law.db"
    shutil.copy(empty_database, path)
    asyncio.run(check(plan, SqliteBackend(path, readers=1)))

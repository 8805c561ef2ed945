"""Writes and deletes beside those of others, of which a transaction's own view may not know yet."""

from __future__ import annotations

import asyncio

import pytest
from pymysql.constants import ER

from persistence_service.errors import (
    BackendClosed,
    DataRejected,
    StorageUnavailable,
    TransactionConflict,
    UnclassifiedStorageError,
)
from persistence_service.models.task import Task
from persistence_service.storage.backend import Rejection, RejectionReason, WriteResult
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.backend import _MysqlTransaction
from persistence_service.storage.query import Between, Equals
from persistence_service.testing.samples import at, session_record, task_record
from tests.integration.mysql.costs import every_text
from tests.servers.server import Server


async def test_a_usual_write_looks_at_no_stored_task(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record()])
    tasks = [task_record(f"task-{number}") for number in range(1000)]
    for _ in range(2):
        with every_text() as texts:
            await backend.write(TASKS, tasks)
        begin, looking, writing, commit = texts
        assert (begin, commit) == ("START TRANSACTION", "COMMIT")
        assert "FROM translation_sessions " in looking
        assert writing.startswith("INSERT INTO translation_tasks ")


async def test_locks_are_on_the_keys_alone_however_small_the_table(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record(name) for name in ("a", "b", "c")])
    async with backend.transaction() as transaction:
        assert await transaction.read(SESSIONS, ["b"])
        await transaction.write(SESSIONS, [session_record("b", total_tasks=1)])
        for name in ("a", "c"):
            await backend.write(SESSIONS, [session_record(name, total_tasks=1)])
            await backend.write(TASKS, [task_record(f"of {name}", name)])


async def test_a_parent_that_went_meanwhile_is_unknown(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record("here"), session_record("going")])
    tasks = [task_record("one", "going"), task_record("two", "here"), task_record("three", "going")]
    result = await _write_without(backend, "going", tasks)
    unknown = RejectionReason.UNKNOWN_PARENT
    assert result == WriteResult(1, (Rejection(0, unknown), Rejection(2, unknown)))
    assert [task.task_id for task in await backend.read(TASKS, ["one", "two", "three"])] == ["two"]


async def _write_without(backend: MysqlBackend, session_id: str, tasks: list[Task]) -> WriteResult:
    """Write `tasks` in a transaction for which that session is still there, while it is not."""
    async with backend.transaction() as transaction:
        assert await transaction.count(SESSIONS) == 2  # from here on it sees what was there now
        await backend.delete(SESSIONS, [Equals("session_id", session_id)])
        return await transaction.write(TASKS, tasks)


async def test_a_parent_that_only_the_operator_asks_for_is_missing_by_the_records_fault(
    database_server: Server, database: str, backend: MysqlBackend
) -> None:
    await backend.write(SESSIONS, [session_record("here"), session_record("going")])
    for statement in (
        "CREATE TABLE batches LIKE translation_tasks",
        "CREATE UNIQUE INDEX of_batches ON batches (batch_id)",
        "ALTER TABLE translation_tasks ADD CONSTRAINT theirs FOREIGN KEY (batch_id) REFERENCES batches (batch_id)",
    ):
        database_server.sql(statement, database)
    try:
        with pytest.raises(DataRejected) as caught:
            await _write_without(
                backend, "going", [task_record("one", "here", batch_id="b"), task_record("two", "going")]
            )
        assert caught.value.number == ER.NO_REFERENCED_ROW_2
    finally:
        database_server.sql("ALTER TABLE translation_tasks DROP FOREIGN KEY theirs", database)
        database_server.sql("DROP TABLE batches", database)


async def test_a_task_that_came_meanwhile_keeps_its_session(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record("one"), session_record("two")])
    async with backend.transaction() as transaction:
        assert await transaction.count(TASKS) == 0
        await backend.write(TASKS, [task_record("task", "one")])
        result = await transaction.write(TASKS, [task_record("task", "two"), task_record("other", "two")])
    assert result == WriteResult(1, (Rejection(0, RejectionReason.FIXED_FIELD_CHANGED),))
    assert [task.session_id for task in await backend.read(TASKS, ["task"])] == ["one"]


async def test_what_was_renewed_meanwhile_is_not_deleted(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record("renewed"), session_record("old")])
    await backend.write(TASKS, [task_record("task", "renewed")])
    async with backend.transaction() as transaction:
        assert await transaction.count(SESSIONS) == 2
        await backend.write(SESSIONS, [session_record("renewed", event_time=at(9))])
        assert await transaction.delete(SESSIONS, [Between("event_time", None, at(1))]) == 1
    assert [session.session_id for session in await backend.read(SESSIONS, ["renewed", "old"])] == ["renewed"]
    assert await backend.count(TASKS) == 1


async def test_writers_of_the_same_rows_wait_for_each_other_and_all_come_through(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record()])
    numbers = list(range(300))
    orders = [numbers, numbers[::-1], numbers[150:] + numbers[:150], numbers[::2] + numbers[1::2]]

    async def write(place: int, order: list[int]) -> None:
        for round_ in range(5):
            moment = at(10 * round_ + place)
            await backend.write(TASKS, [task_record(f"task-{number}", event_time=moment) for number in order])

    await backend.write(TASKS, [task_record(f"task-{number}") for number in numbers])
    await asyncio.gather(*(write(place, order) for place, order in enumerate(orders)))
    assert await backend.count(TASKS, [Equals("event_time", at(43))]) == len(numbers)


async def test_a_deadlock_is_a_conflict_and_its_transaction_stores_nothing(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record("one"), session_record("two")])
    both_began = asyncio.Barrier(2)

    async def cross(first: str, second: str, total: int) -> None:
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record(first, total_tasks=total)])
            await both_began.wait()
            await transaction.write(SESSIONS, [session_record(second, total_tasks=total)])

    outcomes = await asyncio.gather(cross("one", "two", 1), cross("two", "one", 2), return_exceptions=True)
    [failed] = [place for place, outcome in enumerate(outcomes) if outcome is not None]
    assert isinstance(outcomes[failed], TransactionConflict)
    totals = {session.total_tasks for session in await backend.read(SESSIONS, ["one", "two"])}
    assert totals == {2 - failed}


async def test_what_close_ends_is_told_as_closed(database_server: Server, database: str, backend: MysqlBackend) -> None:
    other = MysqlBackend(database_server.options(database))
    await other.open()
    locked = asyncio.Event()

    async def wait_for_the_lock() -> None:
        async with other.transaction() as transaction:
            locked.set()
            await transaction.read(SESSIONS, ["one"])

    await backend.write(SESSIONS, [session_record("one")])
    async with backend.transaction() as transaction:
        await transaction.read(SESSIONS, ["one"])
        waiting = asyncio.ensure_future(wait_for_the_lock())
        await locked.wait()
        await other.close()
        with pytest.raises(BackendClosed):
            await waiting


async def test_a_transaction_goes_no_further_than_its_first_failure(backend: MysqlBackend) -> None:
    await backend.write(SESSIONS, [session_record("one")])
    with pytest.raises(StorageUnavailable):  # noqa: PT012  # the error must come at the end of the block too
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("two")])
            reading = asyncio.ensure_future(transaction.count(SESSIONS))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            with pytest.raises(StorageUnavailable):
                await transaction.write(SESSIONS, [session_record("three")])
    assert await backend.count(SESSIONS) == 1


async def test_what_the_server_warned_of_and_does_not_say_is_not_stored(
    database_server: Server, database: str, backend: MysqlBackend
) -> None:
    await backend.write(SESSIONS, [session_record()])
    database_server.sql("ALTER TABLE translation_tasks MODIFY source_text VARCHAR(9) NOT NULL", database)
    try:
        with pytest.raises(UnclassifiedStorageError, match="does not say"):
            await _write_unexplained(backend, task_record(source_text="123456789 "))
    finally:
        database_server.sql("ALTER TABLE translation_tasks MODIFY source_text MEDIUMTEXT NOT NULL", database)
    assert await backend.count(TASKS) == 0


async def _write_unexplained(backend: MysqlBackend, task: Task) -> None:
    async with backend.transaction() as transaction:
        assert isinstance(transaction, _MysqlTransaction)
        await transaction._connection.run("SET SESSION max_error_count=0")
        await transaction.write(TASKS, [task])

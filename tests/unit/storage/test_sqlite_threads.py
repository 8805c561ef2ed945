"""Nothing that a task does, or stops doing, makes the backend's threads hang or mix jobs up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from persistence_service.errors import BackendClosed, QueryTimeout
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.query import AnyOf, Condition, Contains
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.storage.sqlite.connection import SqliteConnection
from persistence_service.storage.sqlite.threads import ConnectionThreads
from persistence_service.testing.samples import session_record, task_record

# Hours of work: nothing contains any of them, so every one is looked for in every row.
ENDLESS: list[Condition] = [
    AnyOf([Contains("source_text", "x" * 2000 + str(number)) for number in range(100)]) for _ in range(5)
]
Open = Callable[..., Awaitable[SqliteBackend]]


@pytest.fixture
async def open_backend(tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[SqliteBackend] = []

    async def opening(**settings: float) -> SqliteBackend:
        backend = SqliteBackend(tmp_path / "test.db", readers=1, **settings)  # type: ignore[arg-type]  # floats that are settings
        opened.append(backend)
        await backend.open()
        await backend.migrate()
        await backend.write(SESSIONS, [session_record()])
        await backend.write(TASKS, [task_record(f"task-{number}", source_text="x" * 100_000) for number in range(500)])
        return backend

    yield opening
    for backend in opened:
        await backend.close()


async def until_running(threads: ConnectionThreads) -> None:
    """Returns when the only one of `threads` is at work."""
    (thread,) = threads._threads
    async with asyncio.timeout(60):
        while thread._job is None:  # noqa: ASYNC110  # the thread tells nobody
            await asyncio.sleep(0)


async def test_a_query_that_takes_too_long_is_ended_and_the_reader_works_on(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=0.05)
    with pytest.raises(QueryTimeout):
        await backend.count(TASKS, ENDLESS)
    backend._query_timeout_s = 60
    assert await backend.count(TASKS) == 500


async def test_a_query_of_a_transaction_that_takes_too_long_leaves_the_transaction_usable(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=0.05)
    async with backend.transaction() as transaction:
        await transaction.write(SESSIONS, [session_record("two")])
        with pytest.raises(QueryTimeout):
            await transaction.count(TASKS, ENDLESS)
        await transaction.write(SESSIONS, [session_record("three")])
    backend._query_timeout_s = 60
    assert await backend.count(SESSIONS) == 3


async def test_a_cancelled_read_is_interrupted(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=3600)
    reading = asyncio.ensure_future(backend.count(TASKS, ENDLESS))
    await until_running(backend._readers)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(60):
        assert await backend.count(TASKS) == 500  # by the only reader


async def test_reads_that_were_cancelled_before_they_began_are_left_out(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=3600)
    reads = [asyncio.ensure_future(backend.count(TASKS, ENDLESS)) for _ in range(20)]
    await until_running(backend._readers)
    for read in reads:
        read.cancel()
    await asyncio.wait(reads)
    async with asyncio.timeout(60):
        assert await backend.count(TASKS) == 500


async def test_reads_by_key_do_not_wait_for_queries(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=3600)
    leave = threading.Event()
    holding = [asyncio.ensure_future(backend._readers.run(lambda _: leave.wait())) for _ in range(3)]
    await until_running(backend._readers)
    counting = asyncio.ensure_future(backend.count(TASKS))
    try:
        async with asyncio.timeout(60):
            (session,) = await backend.read(SESSIONS, ["session-1"])
        assert session.session_id == "session-1"
        assert not counting.done()
    finally:
        leave.set()
    await asyncio.wait([*holding, counting])


async def test_a_cancelled_delete_is_interrupted_and_undone(open_backend: Open) -> None:
    backend = await open_backend()
    deleting = asyncio.ensure_future(backend.delete(TASKS, ENDLESS))
    await until_running(backend._writer)
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    async with asyncio.timeout(60):
        await backend.write(SESSIONS, [session_record("two")])
    assert await backend.count(TASKS) == 500


async def test_closing_ends_a_running_read(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=3600)
    reading = asyncio.ensure_future(backend.count(TASKS, ENDLESS))
    await until_running(backend._readers)
    async with asyncio.timeout(60):
        await backend.close()
    with pytest.raises(BackendClosed):
        await reading


async def test_closing_rolls_back_the_transaction_that_is_open_and_frees_those_that_wait(
    open_backend: Open, tmp_path: Path
) -> None:
    backend = await open_backend()
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def hold() -> None:
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("two")])
            inside.set()
            await leave.wait()

    holding = asyncio.ensure_future(hold())
    await inside.wait()
    waiting = asyncio.ensure_future(backend.write(SESSIONS, [session_record("three")]))
    await asyncio.sleep(0)
    await backend.close()
    leave.set()
    for task in (holding, waiting):
        with pytest.raises(BackendClosed):
            await task
    again = SqliteBackend(tmp_path / "test.db")
    await again.open()
    assert await again.count(SESSIONS) == 1
    await again.close()


async def test_closing_ends_every_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    backend = SqliteBackend(tmp_path / "test.db", readers=3)
    await backend.open()
    opened = own_threads(before)
    await backend.close()
    assert len(opened) >= 3
    assert own_threads(before) == set()


def own_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    """Those started since, without the ones of asyncio's executor: it keeps as many as it likes until the loop ends."""
    return {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio_")}


async def test_readers_are_not_blocked_by_a_writer_and_see_what_is_committed(open_backend: Open) -> None:
    backend = await open_backend()
    async with backend.transaction() as transaction:
        await transaction.delete(TASKS, ())
        async with asyncio.timeout(60):
            assert await backend.count(TASKS) == 500
    assert await backend.count(TASKS) == 0


async def test_every_connection_is_durable_and_a_reader_can_not_write(open_backend: Open) -> None:
    def pragmas(connection: SqliteConnection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only")
        return {name: connection.driver.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    backend = await open_backend()
    assert await backend._writer.run(pragmas) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "query_only": 0,
    }
    for readers in (backend._readers, backend._key_reader):
        reading = await readers.run(pragmas)
        assert (reading["journal_mode"], reading["query_only"]) == ("wal", 1)


async def test_a_mistake_in_the_code_reaches_the_caller_as_it_is(open_backend: Open) -> None:
    backend = await open_backend()
    with pytest.raises(KeyError):
        await backend.count(TASKS, [Contains("no such field", "x")])
    assert await backend.count(TASKS) == 500


async def test_a_cancelled_health_check_leaves_the_writer_usable(open_backend: Open) -> None:
    backend = await open_backend()
    for yields in range(6):
        checking = asyncio.ensure_future(backend.health_check())
        for _ in range(yields):
            await asyncio.sleep(0)
        checking.cancel()
        await asyncio.wait([checking])
    assert (await backend.health_check()).healthy
    assert (await backend.write(SESSIONS, [session_record("two")])).stored == 1


async def test_a_health_check_does_not_wait_for_ever(open_backend: Open) -> None:
    backend = await open_backend()
    backend._query_timeout_s = 0.01
    backend._health_wait_s = 60
    async with backend.transaction():
        health = await backend.health_check()
    assert not health.healthy
    assert "0.01 s" in health.detail


async def test_health_checks_do_not_pile_up_behind_a_writer_that_hangs(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=3600)
    backend._health_wait_s = 0.01
    leave = threading.Event()
    holding = asyncio.ensure_future(backend._writer.run(lambda _: leave.wait()))
    await until_running(backend._writer)
    try:
        async with asyncio.timeout(60):
            for _ in range(5):
                await backend.health_check()
        assert [task.get_name() for task in asyncio.all_tasks()].count("sqlite-health") == 1
    finally:
        leave.set()
    await holding


async def test_what_a_check_finds_out_too_late_is_told_by_the_next(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=0.05)
    backend._health_wait_s = 0.001
    async with backend.transaction():
        assert (await backend.health_check()).healthy
        assert backend._checking is not None
        await asyncio.wait([backend._checking])
        late = await backend.health_check()
        assert (late.healthy, late.detail) == (False, "no transaction could begin within 0.05 s")
    backend._health_wait_s = backend._query_timeout_s = 60
    await asyncio.wait([backend._checking])
    assert (await backend.health_check()).healthy


async def test_closing_ends_a_health_check_that_waits(open_backend: Open) -> None:
    backend = await open_backend(query_timeout_s=3600)
    with pytest.raises(BackendClosed):  # noqa: PT012  # the commit, at the end of the block, is what fails
        async with backend.transaction():
            checking = asyncio.ensure_future(backend.health_check())
            await asyncio.sleep(0)
            await backend.close()
            async with asyncio.timeout(60):
                assert not (await checking).healthy

"""Nothing is acknowledged that went into a file which is not the database's any more, and nothing there is overwritten."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from persistence_service.errors import StorageSetupError, StorageUnavailable
from persistence_service.storage.collections import SESSIONS
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.storage.sqlite.connection import SqliteConnection
from persistence_service.testing.samples import session_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path, busy_timeout_s=60, readers=2)
    backend._health_wait_s = 60  # a check is waited for, however busy the disk is: none tells of the one before
    await backend.open()
    await backend.migrate()
    await backend.write(SESSIONS, [session_record("before")])
    assert await backend.count(SESSIONS) == 1
    await backend.read(SESSIONS, ["before"])
    yield backend
    await backend.close()


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()


def exists(path: Path) -> bool:
    return path.exists()


def make_empty(path: Path) -> None:
    path.touch()


def move_away(path: Path) -> Path:
    return path.rename(path.with_name("old.db"))


def sessions_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT session_id FROM translation_sessions")}


async def refuses(backend: SqliteBackend, *, says: str) -> None:
    """The backend takes no write and says why, also to who asks for its health."""
    for _ in range(2):
        with pytest.raises((StorageUnavailable, StorageSetupError)):
            await backend.write(SESSIONS, [session_record("meanwhile")])
    with pytest.raises(StorageSetupError, match=says):
        await backend.write(SESSIONS, [session_record("meanwhile")])
    health = await backend.health_check()
    assert not health.healthy
    assert says in health.detail


async def test_a_write_after_the_file_was_moved_is_refused_until_it_is_back(backend: SqliteBackend, path: Path) -> None:
    old = move_away(path)
    await refuses(backend, says="moved or deleted")
    assert not exists(path)
    old.rename(path)
    await backend.write(SESSIONS, [session_record("after")])
    assert await backend.count(SESSIONS) == 2
    assert sessions_in(path) == {"before", "after"}


async def test_a_moved_file_has_all_that_was_stored_without_its_log(backend: SqliteBackend, path: Path) -> None:
    old = move_away(path)
    with pytest.raises(StorageUnavailable, match="moved or replaced"):
        await backend.write(SESSIONS, [session_record("after")])
    assert sessions_in(old) == {"before"}


async def test_a_deleted_database_is_not_made_anew_while_the_service_runs(backend: SqliteBackend, path: Path) -> None:
    delete(path)
    await refuses(backend, says="moved or deleted")
    assert not exists(path)


async def test_a_commit_into_a_file_that_was_moved_meanwhile_is_not_reported_as_done(
    backend: SqliteBackend, path: Path
) -> None:
    with pytest.raises(StorageUnavailable, match="moved or replaced"):  # noqa: PT012  # the commit must fail
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("after")])
            move_away(path)


async def test_a_deleted_log_costs_nothing_that_was_stored(backend: SqliteBackend, path: Path) -> None:
    log_of(path).unlink()
    with pytest.raises(StorageUnavailable, match="moved or replaced"):
        await backend.write(SESSIONS, [session_record("after")])
    await backend.write(SESSIONS, [session_record("after")])
    assert await backend.count(SESSIONS) == 2
    assert sessions_in(path) == {"before", "after"}


async def test_a_database_put_in_the_place_of_a_deleted_one_is_used(
    backend: SqliteBackend, path: Path, tmp_path: Path
) -> None:
    other = SqliteBackend(tmp_path / "backup.db")
    await other.open()
    await other.migrate()
    await other.close()
    delete(path)
    (tmp_path / "backup.db").rename(path)
    with pytest.raises(StorageUnavailable, match="moved or replaced"):
        await backend.write(SESSIONS, [session_record("after")])
    await backend.write(SESSIONS, [session_record("after")])
    assert await backend.count(SESSIONS) == 1
    assert sessions_in(path) == {"after"}


async def test_an_empty_file_in_the_place_of_the_database_needs_a_person(backend: SqliteBackend, path: Path) -> None:
    delete(path)
    make_empty(path)
    await refuses(backend, says="migrate_on_start")


async def test_the_log_of_the_former_file_is_not_applied_to_another(backend: SqliteBackend, path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)
    await refuses(backend, says="belongs to the former file")
    assert log_of(path).stat().st_size > 0
    await backend.close()
    again = SqliteBackend(path)
    await again.open()
    assert await again.count(SESSIONS) == 1  # a copy is whole with that log
    await again.close()


async def test_a_start_without_the_file_does_not_delete_its_log(backend: SqliteBackend, path: Path) -> None:
    move_away(path)
    await backend.close()
    assert log_of(path).stat().st_size > 0
    again = SqliteBackend(path)
    with pytest.raises(StorageSetupError, match="its log"):
        await again.open()
    assert log_of(path).stat().st_size > 0
    await again.close()


async def test_a_link_to_the_file_may_be_used_and_is_followed(backend: SqliteBackend, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    linked = SqliteBackend(link)
    await linked.open()
    await linked.write(SESSIONS, [session_record("linked")])
    assert await backend.count(SESSIONS) == 2
    assert await linked._writer.run(lambda connection: connection._opened.log) is not None
    link.unlink()
    link.symlink_to(path.with_name("nothing.db"))
    await refuses(linked, says="moved or deleted")
    await linked.close()


# ------------------------------------------------------------------------------ errors that all connections share


def connections(backend: SqliteBackend) -> list[SqliteConnection | None]:
    groups = (backend._writer, backend._readers, backend._key_reader)
    return [thread._connection for group in groups for thread in group._threads]


def is_closed(connection: SqliteConnection) -> bool:
    try:
        connection.driver.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def failing(number: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorcode = number
    return error


async def fail(backend: SqliteBackend, number: int) -> None:
    def work(_: SqliteConnection) -> None:
        raise failing(number)

    with pytest.raises(StorageUnavailable):
        await backend._writer.run(work)


async def connect_all(backend: SqliteBackend) -> list[SqliteConnection]:
    together = threading.Barrier(2)
    await asyncio.gather(*(backend._readers.run(lambda _: together.wait(60)) for _ in range(2)))
    found = [connection for connection in connections(backend) if connection is not None]
    assert len(found) == 4
    return found


@pytest.mark.parametrize(
    "number", [sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_SHMMAP]
)
async def test_an_error_that_all_share_closes_every_connection_before_one_is_opened(
    backend: SqliteBackend, number: int
) -> None:
    before = await connect_all(backend)
    await fail(backend, number)
    assert all(is_closed(connection) for connection in before)
    assert connections(backend) == [None] * 4
    await backend.write(SESSIONS, [session_record("after")])
    assert await backend.count(SESSIONS) == 2


async def test_another_error_closes_only_its_own_connection(backend: SqliteBackend) -> None:
    before = await connect_all(backend)
    await fail(backend, sqlite3.SQLITE_BUSY)
    assert [is_closed(connection) for connection in before] == [True, False, False, False]


async def test_a_new_connection_waits_for_a_reader_that_is_at_work_with_the_old_one(backend: SqliteBackend) -> None:
    at_work, leave = threading.Event(), threading.Event()

    def hold(connection: SqliteConnection) -> SqliteConnection:
        at_work.set()
        leave.wait()
        return connection

    holding = asyncio.ensure_future(backend._readers.run(hold))
    await asyncio.to_thread(at_work.wait)
    try:
        await fail(backend, sqlite3.SQLITE_READONLY)
        writing = asyncio.ensure_future(backend.write(SESSIONS, [session_record("after")]))
        await asyncio.wait([writing], timeout=0.1)
        assert not writing.done()
    finally:
        leave.set()
    assert (await writing).stored == 1
    assert is_closed(await holding)


async def test_a_transaction_whose_connection_was_closed_stores_nothing_more(backend: SqliteBackend) -> None:
    def work(_: SqliteConnection) -> None:
        raise failing(sqlite3.SQLITE_IOERR)

    with pytest.raises(StorageUnavailable):  # noqa: PT012  # the end of the block must fail too
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("one")])
            with pytest.raises(StorageUnavailable):
                await backend._readers.run(work)
            await transaction.write(SESSIONS, [session_record("two")])
    assert await backend.count(SESSIONS) == 1


async def test_a_connection_that_cannot_be_opened_leaves_those_that_are_open(backend: SqliteBackend) -> None:
    before = await connect_all(backend)
    (thread,) = backend._key_reader._threads
    thread._disconnect()

    def out_of_descriptors() -> SqliteConnection:
        raise failing(sqlite3.SQLITE_CANTOPEN)

    thread._connect = out_of_descriptors
    with pytest.raises(StorageUnavailable):
        await backend.read(SESSIONS, ["before"])
    assert [is_closed(connection) for connection in before] == [False, False, False, True]

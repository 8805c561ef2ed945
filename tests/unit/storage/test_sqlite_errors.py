"""SQLite's real errors, each as the class that says what to do about it."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.query import COUNT
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.storage.sqlite.connection import SqliteConnection
from persistence_service.storage.sqlite.errors import translated
from persistence_service.testing.samples import session_record, task_record

_SQLITE_CONSTRAINT_DATATYPE = 3091  # the module has no name for it


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path, busy_timeout_s=0.05, readers=1)
    backend._health_wait_s = 60  # a check is waited for, however busy the disk is: none tells of the one before
    await backend.open()
    await backend.migrate()
    await backend.write(SESSIONS, [session_record()])
    yield backend
    await backend.close()


async def on_writer(backend: SqliteBackend, statement: str) -> None:
    def execute(connection: SqliteConnection) -> None:
        connection.driver.execute(statement)

    await backend._writer.run(execute)


async def test_a_lock_that_another_process_holds_is_waited_for_and_then_unavailable(
    backend: SqliteBackend, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable) as caught:
            await backend.write(SESSIONS, [session_record("two")])
        assert caught.value.number == sqlite3.SQLITE_BUSY
        assert not (await backend.health_check()).healthy
        assert await backend.count(SESSIONS) == 1  # readers go on
        other.execute("ROLLBACK")
    assert (await backend.health_check()).healthy
    assert (await backend.write(SESSIONS, [session_record("two")])).stored == 1


async def test_a_full_disk_is_unavailable_and_stores_nothing_until_there_is_room(backend: SqliteBackend) -> None:
    tasks = [task_record(f"task-{number}", source_text="x" * 5000) for number in range(300)]
    await on_writer(backend, "PRAGMA max_page_count=50")
    with pytest.raises(StorageUnavailable) as caught:
        await backend.write(TASKS, tasks)
    assert caught.value.number == sqlite3.SQLITE_FULL
    assert await backend.count(TASKS) == 0
    await on_writer(backend, "PRAGMA max_page_count=1000000")
    assert (await backend.write(TASKS, tasks)).stored == len(tasks)


@pytest.fixture
def no_room(path: Path, backend: SqliteBackend) -> Iterator[Callable[[], None]]:
    """No file of the process grows any more, until the answer is called: its disk takes no writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("test.db-wal").stat().st_size, hard))
    give_back = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
    yield give_back
    give_back()


async def test_a_disk_that_takes_no_writes_is_told_before_anything_was_to_be_written(
    backend: SqliteBackend, no_room: Callable[[], None]
) -> None:
    assert not (await backend.health_check()).healthy
    assert await backend.count(SESSIONS) == 1
    no_room()
    assert (await backend.health_check()).healthy
    assert (await backend.write(SESSIONS, [session_record("two")])).stored == 1


async def test_a_health_check_changes_nothing(backend: SqliteBackend, path: Path) -> None:
    def content() -> list[str]:
        with closing(sqlite3.connect(path)) as other:
            return [*other.iterdump(), *(str(row) for row in other.execute("PRAGMA user_version"))]

    before = content()
    assert (await backend.health_check()).healthy
    assert content() == before


async def test_after_the_database_rolled_back_by_itself_nothing_more_of_the_transaction_is_stored(
    backend: SqliteBackend,
) -> None:
    with pytest.raises(StorageUnavailable):  # noqa: PT012  # the end of the block must fail too
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("two")])
            await on_writer(backend, "ROLLBACK")  # as SQLite does after some errors
            await transaction.write(SESSIONS, [session_record("three")])
    assert await backend.count(SESSIONS) == 1


async def test_a_read_of_a_lost_transaction_is_not_answered(backend: SqliteBackend) -> None:
    with pytest.raises(StorageUnavailable):  # noqa: PT012  # the end of the block is what fails
        async with backend.transaction() as transaction:
            await on_writer(backend, "ROLLBACK")
            await transaction.count(SESSIONS)


async def test_a_missing_value_is_rejected_with_its_number(backend: SqliteBackend) -> None:
    nothing: Any = None
    with pytest.raises(DataRejected) as caught:
        await backend.write(TASKS, [task_record(source_text=nothing)])
    assert caught.value.number == sqlite3.SQLITE_CONSTRAINT_NOTNULL


async def test_a_value_of_the_wrong_type_is_rejected(backend: SqliteBackend) -> None:
    word: Any = "seven"
    with pytest.raises(DataRejected) as caught:
        await backend.write(TASKS, [task_record(row_index=word)])
    assert caught.value.number == _SQLITE_CONSTRAINT_DATATYPE


async def test_a_number_beyond_64_bits_is_rejected(backend: SqliteBackend) -> None:
    with pytest.raises(DataRejected):
        await backend.write(TASKS, [task_record(row_index=2**63, digest=bytes(16))])


async def test_a_text_that_is_too_long_is_rejected(backend: SqliteBackend) -> None:
    def limit(connection: SqliteConnection) -> None:
        connection.driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)

    await backend._writer.run(limit)
    with pytest.raises(DataRejected) as caught:
        await backend.write(TASKS, [task_record(source_text="x" * 20_000)])
    assert caught.value.number == sqlite3.SQLITE_TOOBIG
    assert (await backend.write(TASKS, [task_record()])).stored == 1


@pytest.fixture
def not_a_database(path: Path) -> Iterator[Path]:
    content = b"this is not a database" * 1000
    path.write_bytes(content)
    yield path
    assert path.read_bytes() == content


async def test_a_file_that_is_no_database_needs_a_person(not_a_database: Path) -> None:
    backend = SqliteBackend(not_a_database)
    with pytest.raises(StorageSetupError) as caught:
        await backend.open()
    assert caught.value.number == sqlite3.SQLITE_NOTADB
    await backend.close()


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 200_000)


async def test_a_damaged_database_needs_a_person(backend: SqliteBackend, path: Path) -> None:
    await backend.write(TASKS, [task_record(f"task-{number}", source_text="x" * 3000) for number in range(200)])
    await backend.close()
    overwrite(path)
    damaged = SqliteBackend(path)
    with pytest.raises(StorageSetupError) as caught:  # noqa: PT012  # whichever of them meets the damage first
        await damaged.open()
        await damaged.count(TASKS)
        await damaged.aggregate(TASKS, group_by=["source_text"], measure=[COUNT])
    assert caught.value.number is not None
    assert caught.value.number & 0xFF == sqlite3.SQLITE_CORRUPT
    await damaged.close()


@pytest.fixture
def directory(path: Path) -> Path:
    path.mkdir()
    return path


async def test_a_directory_in_the_place_of_the_file_is_unavailable_and_open_may_be_tried_again(directory: Path) -> None:
    backend = SqliteBackend(directory)
    with pytest.raises(StorageUnavailable) as caught:
        await backend.open()
    assert caught.value.number == sqlite3.SQLITE_CANTOPEN
    await asyncio.to_thread(directory.rmdir)
    await backend.open()
    await backend.migrate()
    assert (await backend.health_check()).healthy
    await backend.close()


async def test_a_file_in_the_place_of_the_directory_needs_a_person(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    backend = SqliteBackend(tmp_path / "file" / "test.db")
    with pytest.raises(StorageSetupError):
        await backend.open()
    await backend.close()


async def test_a_table_that_was_dropped_is_not_taken_for_bad_data(backend: SqliteBackend) -> None:
    await on_writer(backend, "DROP TABLE translation_tasks")
    with pytest.raises(UnclassifiedStorageError):
        await backend.write(TASKS, [task_record()])
    await on_writer(backend, "DROP TABLE alembic_version")
    with pytest.raises(StorageSetupError, match="migrate"):
        await backend.write(TASKS, [task_record()])


def error(number: int) -> sqlite3.Error:
    exc = sqlite3.OperationalError("the text does not matter")
    exc.sqlite_errorcode = number
    return exc


@pytest.mark.parametrize(
    "number, expected",
    [
        (sqlite3.SQLITE_BUSY, StorageUnavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageUnavailable),
        (sqlite3.SQLITE_LOCKED, StorageUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageUnavailable),
        (sqlite3.SQLITE_FULL, StorageUnavailable),
        (sqlite3.SQLITE_CANTOPEN, StorageUnavailable),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageUnavailable),
        (sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY, DataRejected),
        (sqlite3.SQLITE_TOOBIG, DataRejected),
        (sqlite3.SQLITE_MISMATCH, DataRejected),
        (sqlite3.SQLITE_NOTADB, StorageSetupError),
        (sqlite3.SQLITE_CORRUPT_INDEX, StorageSetupError),
        (sqlite3.SQLITE_AUTH, StorageSetupError),
        (sqlite3.SQLITE_ERROR, UnclassifiedStorageError),
        (sqlite3.SQLITE_MISUSE, UnclassifiedStorageError),
    ],
)
def test_errors_are_told_apart_by_number(number: int, expected: type[PersistenceError]) -> None:
    found = translated(error(number))
    assert type(found) is expected
    assert found is not None
    assert "text does not matter" not in str(found)


def test_an_error_without_a_number_is_unclassified_and_others_are_not_ours() -> None:
    assert isinstance(translated(sqlite3.ProgrammingError("closed")), UnclassifiedStorageError)
    assert translated(ValueError("a mistake in the code")) is None

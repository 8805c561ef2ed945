"""A start, or a check, meets a database that is busy and a process that is out of resources."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

from persistence_service.errors import StorageUnavailable
from persistence_service.storage.sql import migrate
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.storage.sqlite.connection import SqliteConnection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path, busy_timeout_s=0.05, readers=1)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
def lock(path: Path, backend: SqliteBackend) -> Iterator[sqlite3.Connection]:  # it makes the file
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        yield other


@pytest.fixture
def migrations_read_anew() -> Iterator[None]:
    migrate._scripts.cache_clear()
    yield
    migrate._scripts.cache_clear()


async def test_a_migrated_database_is_opened_while_another_process_writes(
    backend: SqliteBackend, lock: sqlite3.Connection, path: Path
) -> None:
    await backend.migrate()
    lock.execute("BEGIN IMMEDIATE")
    second = SqliteBackend(path, busy_timeout_s=0.05)
    await second.open()
    await second.migrate()
    await second.close()


async def test_a_migration_waits_for_a_lock_no_longer_than_any_other_write(
    backend: SqliteBackend, lock: sqlite3.Connection
) -> None:
    lock.execute("BEGIN IMMEDIATE")
    async with asyncio.timeout(60):
        with pytest.raises(StorageUnavailable) as caught:
            await backend.migrate()
    assert caught.value.number == sqlite3.SQLITE_BUSY
    lock.execute("ROLLBACK")
    await backend.migrate()
    assert (await backend.health_check()).healthy


async def test_the_migrations_are_read_from_disk_once(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    await backend.migrate()
    monkeypatch.setattr(ScriptDirectory, "_load_revisions", lambda _: iter(()))  # as without file descriptors
    assert (await backend.health_check()).healthy


@pytest.mark.usefixtures("migrations_read_anew")
async def test_migrations_that_cannot_be_read_are_not_taken_for_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(_: ScriptDirectory) -> Any:  # noqa: ANN401  # it gives nothing
        raise OSError(24, "Too many open files")

    backend = SqliteBackend(path)
    for failing in (out_of_descriptors, lambda _: iter(())):
        with monkeypatch.context() as patched:
            patched.setattr(ScriptDirectory, "_load_revisions", failing)
            with pytest.raises(StorageUnavailable, match="migrations"):
                await backend.open()
    await backend.open()
    await backend.migrate()
    assert (await backend.health_check()).healthy
    await backend.close()


async def test_an_essential_job_that_fails_when_nobody_waits_any_more_is_no_unseen_error(
    backend: SqliteBackend,
) -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    leave = threading.Event()

    def fail(_: SqliteConnection) -> None:
        leave.wait()
        raise StorageUnavailable("away")

    job = backend._writer.submit_essential(fail)
    waiting = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(job), 0.01))
    with pytest.raises(TimeoutError):
        await waiting
    leave.set()
    await asyncio.wait([job])
    del job, waiting
    await backend._writer.run(lambda _: None)  # the thread forgets the job
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []

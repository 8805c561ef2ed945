"""Tables, migrations and the schema's file say the same; versions are respected."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.process
import multiprocessing.synchronize
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from persistence_service.errors import SchemaTooNew, StorageSetupError
from persistence_service.storage.collections import ALL_COLLECTIONS, SESSIONS, TASKS
from persistence_service.storage.query import Query
from persistence_service.storage.sql.migrate import newest_version
from persistence_service.storage.sql.tables import INDEXES, Schema
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.storage.sqlite.schema import sqlite_schema
from persistence_service.testing.samples import session_record

SCHEMA_FILE = Path(__file__).parents[3] / "database" / "sqlite_schema.sql"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


async def migrate(path: Path, *, busy_timeout_s: float = 5) -> None:
    backend = SqliteBackend(path, busy_timeout_s=busy_timeout_s)
    await backend.open()
    await backend.migrate()
    await backend.close()


def objects(path: Path) -> set[tuple[str, str, str]]:
    """Type, name and statement (blanks aside) of everything in the database."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(kind, name, "".join(sql.split())) for kind, name, sql in rows}


async def test_the_schema_file_is_what_the_code_generates() -> None:
    assert SCHEMA_FILE.read_text() == sqlite_schema(), "write it anew: see database/README.md"


async def test_the_schema_file_makes_what_the_migrations_make(path: Path, tmp_path: Path) -> None:
    await migrate(path)
    loaded = tmp_path / "loaded.db"
    with closing(sqlite3.connect(loaded)) as connection:
        connection.executescript(SCHEMA_FILE.read_text())
    assert objects(loaded) == objects(path)


async def test_a_database_made_from_the_schema_file_is_accepted(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA_FILE.read_text())
    backend = SqliteBackend(path)
    await backend.open()
    assert (await backend.health_check()).healthy
    await backend.migrate()
    assert (await backend.write(SESSIONS, [session_record()])).stored == 1
    await backend.close()


async def test_the_migrations_make_the_tables_of_the_collections(path: Path) -> None:
    await migrate(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        metadata = Schema(ALL_COLLECTIONS).metadata
        differences = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    engine.dispose()
    assert differences == []


async def test_what_migrate_would_run_is_told_and_not_run(path: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    planned = await backend.pending_sql()
    assert objects(path) == set()
    await backend.migrate()
    assert await backend.pending_sql() == ""
    await backend.close()
    by_hand = tmp_path / "by_hand.db"
    with closing(sqlite3.connect(by_hand)) as connection:
        connection.executescript(planned)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(newest_version(),)]
    assert objects(by_hand) == objects(path)


async def test_only_what_is_missing_is_told(path: Path) -> None:
    await migrate(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    backend = SqliteBackend(path)
    await backend.open()
    planned = await backend.pending_sql()
    assert "CREATE TABLE dead_letters" in planned
    assert "CREATE TABLE translation_sessions" not in planned
    await backend.close()


def test_no_index_is_a_prefix_of_another() -> None:
    for collection in ALL_COLLECTIONS:
        indexes = [*INDEXES.get(collection.name, {}).values(), (collection.key,)]
        for one in indexes:
            assert [other for other in indexes if other[: len(one)] == one] == [one]


async def test_an_empty_database_is_opened_and_says_what_to_do(path: Path) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    health = await backend.health_check()
    assert not health.healthy
    assert "migrate_on_start" in health.detail
    with pytest.raises(StorageSetupError, match="migrate_on_start"):
        await backend.query(TASKS, Query())
    with pytest.raises(StorageSetupError, match="migrate_on_start"):
        await backend.write(SESSIONS, [session_record()])
    await backend.migrate()
    assert (await backend.write(SESSIONS, [session_record()])).stored == 1
    await backend.close()


@pytest.fixture
async def too_new(path: Path) -> Path:
    await migrate(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    return path


async def test_a_database_of_a_later_version_is_not_opened(too_new: Path) -> None:
    before = objects(too_new)
    backend = SqliteBackend(too_new)
    with pytest.raises(SchemaTooNew, match="9999"):
        await backend.open()
    await backend.close()
    assert objects(too_new) == before


@pytest.mark.parametrize("foreign, reason", [("a1b2c3d4e5f6", "another program"), ("0001", "several rows")])
async def test_stamps_that_make_no_sense_are_refused_until_they_are_gone(path: Path, foreign: str, reason: str) -> None:
    await migrate(path)
    backend = SqliteBackend(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO alembic_version VALUES (?)", (foreign,))
        for _ in range(2):
            with pytest.raises(StorageSetupError, match=reason):
                await backend.open()
        connection.execute("DELETE FROM alembic_version WHERE version_num = ?", (foreign,))
    await backend.open()
    assert (await backend.write(SESSIONS, [session_record()])).stored == 1
    await backend.close()


async def test_a_database_that_a_later_version_migrates_meanwhile_is_not_migrated(path: Path) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    await backend.migrate()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match="9999"):
        await backend.migrate()
    health = await backend.health_check()
    assert not health.healthy
    assert "9999" in health.detail
    await backend.close()


def _migrate_in_process(path: Path, start: multiprocessing.synchronize.Barrier) -> None:
    start.wait()
    asyncio.run(migrate(path, busy_timeout_s=60))


@pytest.fixture
def processes(path: Path) -> Iterator[list[multiprocessing.process.BaseProcess]]:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    processes = [context.Process(target=_migrate_in_process, args=(path, start)) for _ in range(4)]
    for process in processes:
        process.start()
    yield list(processes)
    for process in processes:
        process.kill()
        process.join()


async def test_several_processes_may_open_and_migrate_a_new_database_at_once(
    path: Path, processes: list[multiprocessing.process.BaseProcess]
) -> None:
    for process in processes:
        process.join(300)  # each imports all there is, and a busy machine has little for four
    assert [process.exitcode for process in processes] == [0] * len(processes)
    backend = SqliteBackend(path)
    await backend.open()
    assert (await backend.health_check()).healthy
    await backend.close()

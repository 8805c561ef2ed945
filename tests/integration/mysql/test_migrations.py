"""Migrations on real servers: at once, interrupted, refused, planned."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count

import pytest

from persistence_service.errors import SchemaTooNew, StorageSetupError, StorageUnavailable
from persistence_service.settings import TlsMode
from persistence_service.storage.mysql.migration import migrate, plan
from persistence_service.storage.mysql.migration_connection import MigrationConnection
from persistence_service.storage.mysql.migration_lock import MigrationLock
from persistence_service.storage.mysql.options import MysqlOptions, TlsOptions
from persistence_service.storage.sql.migrate import newest_version
from tests.integration.mysql.migrating import (
    Interrupted,
    interrupted_after,
    load,
    migrated,
    options,
    rows,
    tables,
)
from tests.servers.server import Server

__all__ = ["options"]


def version(server: Server, database: str) -> list[str]:
    return [row[0] for row in rows(server, database, "alembic_version")]


@contextmanager
def account(server: Server, name: str, *privileges: str) -> Iterator[str]:
    """An account with these privileges alone, each `… ON …`."""
    server.sql(f"DROP USER IF EXISTS {name}")
    server.sql(f"CREATE USER {name} IDENTIFIED BY ''")
    for privilege in privileges:
        server.sql(f"GRANT {privilege} TO {name}")
    yield name
    server.sql(f"DROP USER {name}")


@contextmanager
def lock_held(options: MysqlOptions) -> Iterator[MigrationConnection]:
    """Somebody is migrating."""
    connection = MigrationConnection(options, options.addresses[0])
    with closing(connection):
        MigrationLock(connection).take(10)
        yield connection


async def test_ten_instances_may_start_at_once_on_an_empty_database(
    database_server: Server, options: MysqlOptions
) -> None:
    await asyncio.gather(*(migrated(options) for _ in range(10)))
    assert version(database_server, options.database) == [newest_version()]


async def test_the_database_may_have_any_name(database_server: Server, options: MysqlOptions) -> None:
    odd = database_server.options(f"{options.database} `%s:x")
    quoted = "`" + odd.database.replace("`", "``") + "`"
    database_server.sql(f"CREATE DATABASE {quoted}")
    await migrated(odd)
    assert database_server.sql(f"SELECT version_num FROM {quoted}.alembic_version") == [(newest_version(),)]
    database_server.sql(f"DROP DATABASE {quoted}")


async def test_a_migration_that_is_interrupted_anywhere_is_finished_by_the_next(
    database_server: Server, options: MysqlOptions
) -> None:
    await migrated(options)
    expected = tables(database_server, options.database)
    for change in count(1):
        other = database_server.options(database_server.new_database())
        try:
            with interrupted_after(change):
                await migrated(other)
        except Interrupted:
            await migrated(other)
        else:
            assert change > len(expected), "every table is a change, and more than that there is to do"
            break
        assert tables(database_server, other.database) == expected
        assert version(database_server, other.database) == [newest_version()]
        database_server.drop(other.database)


async def test_a_migration_keeps_the_rows_of_an_older_version(database_server: Server, options: MysqlOptions) -> None:
    await migrated(options)
    expected = tables(database_server, options.database)
    for table in ("dead_letter_parts", "dead_letters", "deleted_sessions", "settled_dead_letters"):
        database_server.sql(f"DROP TABLE {table}", options.database)
    database_server.sql(
        "ALTER TABLE translation_tasks DROP INDEX ix_tasks_status, ADD INDEX ix_tasks_status (session_id, status, updated_at)",
        options.database,
    )
    database_server.sql("UPDATE alembic_version SET version_num = '0001'", options.database)
    database_server.sql(
        "INSERT INTO translation_sessions (session_id, filename, file_path, status, llm_provider, processing_tasks,"
        " total_tasks, completed_tasks, failed_tasks, event_time, digest, created_at, updated_at)"
        " VALUES ('s', '', '', 'pending', '', 0, 0, 0, 0, '2026-01-01', '', '2026-01-01', '2026-01-01')",
        options.database,
    )
    await migrated(options)
    assert tables(database_server, options.database) == expected
    assert [row[0] for row in rows(database_server, options.database, "translation_sessions")] == ["s"]


async def test_a_schema_of_a_later_version_is_refused_and_left_alone(
    database_server: Server, options: MysqlOptions
) -> None:
    await migrated(options)
    database_server.sql("UPDATE alembic_version SET version_num = '9999'", options.database)
    before = tables(database_server, options.database)
    with pytest.raises(SchemaTooNew, match="9999"):
        await migrated(options)
    with pytest.raises(SchemaTooNew, match="9999"):
        await plan(options, options.addresses[0])
    assert tables(database_server, options.database) == before


OF_OTHERS = {
    "deleted_sessions": "TABLE deleted_sessions (id INT)",
    "dead_letters": "TABLE dead_letters (letter_id VARCHAR(64) PRIMARY KEY)",
    "dead_letter_parts": "TABLE dead_letter_parts (part_id VARCHAR(96) PRIMARY KEY, letter_id INT, data MEDIUMBLOB)",
    "settled_dead_letters": "VIEW settled_dead_letters AS SELECT 1 AS letter_id",
    "migration_lock": "TABLE migration_lock (id TINYINT NOT NULL PRIMARY KEY, more INT)",
    "name_locks": "TABLE name_locks (id INT NOT NULL PRIMARY KEY)",
}


@pytest.mark.parametrize("name", OF_OTHERS)
async def test_a_table_of_others_is_named_and_everything_left_as_it_was(
    database_server: Server, options: MysqlOptions, name: str
) -> None:
    database_server.sql(f"CREATE {OF_OTHERS[name]}", options.database)
    before = tables(database_server, options.database)
    for work in (migrate, plan):
        with pytest.raises(StorageSetupError, match=rf"Rename them, .*: {name}\b"):
            await work(options, options.addresses[0])
    assert tables(database_server, options.database) == before
    database_server.sql(f"DROP {OF_OTHERS[name].partition(name)[0]}{name}", options.database)
    await migrated(options)


async def test_what_another_program_stamped_is_refused_and_left_alone(
    database_server: Server, options: MysqlOptions
) -> None:
    database_server.sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)", options.database)
    database_server.sql("INSERT INTO alembic_version VALUES ('a1b2c3d4e5f6')", options.database)
    before = tables(database_server, options.database)
    for work in (migrate, plan):
        with pytest.raises(StorageSetupError, match=r"another program uses Alembic .* a database of its own"):
            await work(options, options.addresses[0])
    assert tables(database_server, options.database) == before


async def test_several_versions_are_refused_with_the_statement_that_mends_it(
    database_server: Server, options: MysqlOptions
) -> None:
    await migrated(options)
    for older in ("0001", "0002"):
        database_server.sql(f"INSERT INTO alembic_version VALUES ('{older}')", options.database)
    with pytest.raises(StorageSetupError, match="has several rows"):
        await plan(options, options.addresses[0])
    with pytest.raises(StorageSetupError, match="has several rows") as refusal:
        await migrated(options)
    database_server.sql("DELETE" + str(refusal.value).partition("DELETE")[2], options.database)
    await migrated(options)
    assert version(database_server, options.database) == [newest_version()]


async def test_an_account_that_may_only_read_is_enough_once_migrated(
    database_server: Server, options: MysqlOptions
) -> None:
    await migrated(options)
    with account(database_server, "runner", f"SELECT ON {options.database}.*") as name:
        await migrated(database_server.options(options.database, user=name))


async def test_an_account_that_may_only_read_and_write_rows_is_told_what_to_do(
    database_server: Server, options: MysqlOptions
) -> None:
    with (
        account(database_server, "runner", f"SELECT, INSERT, UPDATE, DELETE ON {options.database}.*") as name,
        pytest.raises(StorageSetupError, match="persistence-service migrate"),
    ):
        await migrated(database_server.options(options.database, user=name))
    assert tables(database_server, options.database) == {}


async def test_the_privileges_that_the_guide_names_are_enough_to_migrate(
    database_server: Server, options: MysqlOptions
) -> None:
    privileges = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES"
    with account(database_server, "migrator", f"{privileges} ON {options.database}.*") as name:
        await migrated(database_server.options(options.database, user=name))
    assert version(database_server, options.database) == [newest_version()]


async def test_a_database_that_does_not_exist_is_said(database_server: Server) -> None:
    with pytest.raises(StorageSetupError, match="does not exist; create it"):
        await migrated(database_server.options("test_of_nobody"))


async def test_a_server_that_is_away_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        nobody = MysqlOptions((taken.getsockname(),), "root", "", "ai_terminal")
        with pytest.raises(StorageUnavailable, match="can't connect to the database server"):
            await migrated(nobody)


async def test_a_certificate_that_nobody_vouches_for_is_refused(mysql_server: Server) -> None:
    checking = mysql_server.options("ai_terminal", tls=TlsOptions(TlsMode.VERIFY_IDENTITY))
    with pytest.raises(StorageSetupError, match="certificate"):
        await migrated(checking)


async def test_who_finds_another_at_work_waits_and_then_says_so(database_server: Server, options: MysqlOptions) -> None:
    with lock_held(options):
        with pytest.raises(StorageUnavailable, match="another instance"):
            await migrate(options, options.addresses[0], lock_wait_s=0)
        assert "alembic_version" not in tables(database_server, options.database)
    await migrated(options)


async def test_an_up_to_date_schema_waits_for_nobody(options: MysqlOptions) -> None:
    await migrated(options)
    with lock_held(options):
        await migrate(options, options.addresses[0], lock_wait_s=0)


async def test_the_lock_ends_with_its_holder(database_server: Server, options: MysqlOptions) -> None:
    with lock_held(options) as holder:
        holder.abandon()
        await migrated(options)
    assert version(database_server, options.database) == [newest_version()]


def test_a_lost_lock_is_noticed_before_the_next_step(options: MysqlOptions) -> None:
    with lock_held(options) as holder:
        holder.abandon()
        with pytest.raises(StorageUnavailable):
            MigrationLock(holder).confirm()


async def test_a_cancelled_migration_ends_at_once(database_server: Server, options: MysqlOptions) -> None:
    with lock_held(options) as holder:
        waiting = asyncio.create_task(migrated(options))
        question = (
            f"SELECT COUNT(*) FROM {database_server.processes} "
            f"WHERE db = '{options.database}' AND info LIKE 'SELECT id FROM migration_lock%'"
        )
        async with asyncio.timeout(120):
            while holder.run(question) == [(0,)]:  # noqa: ASYNC110  # the server has no event to wait for
                await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_what_migrate_would_run_is_told_and_not_run(database_server: Server, options: MysqlOptions) -> None:
    planned = await plan(options, options.addresses[0])
    assert tables(database_server, options.database) == {}
    await migrated(options)
    assert await plan(options, options.addresses[0]) == ""
    by_hand = database_server.new_database()
    load(database_server, f"USE {by_hand};\n{planned}")
    assert tables(database_server, by_hand) == tables(database_server, options.database)
    assert version(database_server, by_hand) == [newest_version()]


async def test_what_was_told_may_be_run_twice(database_server: Server, options: MysqlOptions) -> None:
    planned = f"USE {options.database};\n{await plan(options, options.addresses[0])}"
    load(database_server, planned)
    made = tables(database_server, options.database)
    load(database_server, planned)
    assert tables(database_server, options.database) == made
    assert version(database_server, options.database) == [newest_version()]


async def test_only_what_is_missing_is_told(database_server: Server, options: MysqlOptions) -> None:
    await migrated(options)
    database_server.sql("UPDATE alembic_version SET version_num = '0001'", options.database)
    planned = await plan(options, options.addresses[0])
    created = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", planned)
    assert "dead_letters" in created
    assert "translation_tasks" not in created
    assert "ALTER TABLE" not in planned, "the index is as it should be"

"""`persistence-service migrate` on real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from persistence_service.cli.app import app
from persistence_service.errors import SchemaTooNew, StorageSetupError
from persistence_service.storage.mysql.migration_connection import MigrationConnection
from persistence_service.storage.mysql.migration_lock import MigrationLock
from persistence_service.storage.sql.migrate import newest_version
from tests.integration.mysql.migrating import tables
from tests.servers.server import Server

ROOT = Path(__file__).parents[3]
Migrate = Callable[..., Result]


@pytest.fixture
def migrate(database_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Migrate:
    """Runs the command on a database."""
    monkeypatch.chdir(tmp_path)

    def run(database: str, *arguments: str, **changes: object) -> Result:
        settings = database_server.settings(database) | {f"database.{key}": value for key, value in changes.items()}
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return CliRunner().invoke(app, ["migrate", *options, *arguments])

    return run


@pytest.fixture
def database(database_server: Server) -> Iterator[str]:
    """An empty one."""
    name = database_server.new_database()
    yield name
    database_server.drop(name)


def test_it_says_from_which_version_to_which(migrate: Migrate, database: str) -> None:
    first, second = migrate(database), migrate(database)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == f"mysql: the schema was migrated from nothing to {newest_version()}\n"
    assert second.stdout == f"mysql: the schema is up to date ({newest_version()})\n"


def test_what_a_dry_run_prints_does_the_same_in_the_databases_own_client(
    migrate: Migrate, database: str, database_server: Server
) -> None:
    planned = migrate(database, "--dry-run")
    assert tables(database_server, database) == {}

    by_hand = database_server.new_database()
    subprocess.run(
        database_server.client(), input=f"USE {by_hand};\n{planned.stdout}", text=True, check=True, capture_output=True
    )
    migrate(database)

    assert tables(database_server, by_hand) == tables(database_server, database)
    assert migrate(by_hand, "--dry-run").stdout == ""


def test_an_account_without_the_privileges_is_told_what_to_do(
    migrate: Migrate, database: str, database_server: Server
) -> None:
    name = database.removeprefix("test_")
    database_server.sql(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'right'")
    database_server.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO '{name}'@'%'")
    error = migrate(database, user=name, password="right").exception
    database_server.sql(f"DROP USER '{name}'@'%'")

    assert isinstance(error, StorageSetupError)
    assert "persistence-service migrate" in str(error)


def test_an_account_without_any_right_on_the_database_is_told_which_and_what_to_grant(
    migrate: Migrate, database: str, database_server: Server
) -> None:
    name = database.removeprefix("test_")
    database_server.sql(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'right'")
    error = migrate(database, user=name, password="right").exception
    database_server.sql(f"DROP USER '{name}'@'%'")

    assert isinstance(error, StorageSetupError)
    assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{database}`.* TO '{name}'@…;" in str(error)


def test_a_schema_of_a_later_version_is_refused(migrate: Migrate, database: str, database_server: Server) -> None:
    migrate(database)
    database_server.sql("UPDATE alembic_version SET version_num = '9999'", database)

    assert isinstance(migrate(database).exception, SchemaTooNew)
    assert isinstance(migrate(database, "--dry-run").exception, SchemaTooNew)


def test_it_says_that_it_waits_while_another_is_migrating(
    database: str, database_server: Server, tmp_path: Path
) -> None:
    options = database_server.options(database)
    settings = [
        part for item in database_server.settings(database).items() for part in ("--set", "{}={}".format(*item))
    ]
    command = [sys.executable, str(ROOT / "main.py"), "migrate", *settings]
    with closing(MigrationConnection(options, options.addresses[0])) as other:
        MigrationLock(other).take(10)
        waiting = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert waiting.stderr is not None
        told = waiting.stderr.readline()
    said, _ = waiting.communicate(timeout=240)

    assert "another is migrating the database" in told
    assert (waiting.returncode, said) == (0, f"mysql: the schema was migrated from nothing to {newest_version()}\n")

"""`persistence-service migrate`: what it does to a database, and the SQL that it prints instead."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from persistence_service.cli.app import app
from persistence_service.errors import SchemaTooNew, StorageSetupError


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSISTENCE_SQLITE__PATH", "test.db")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["migrate", *arguments])


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def files(directory: Path) -> dict[str, bytes]:
    """What is in each, but for the index of a log, which readers mark."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


def test_it_says_from_which_version_to_which(tmp_path: Path) -> None:
    first, second = run(), run()

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.startswith("sqlite: the schema was migrated from nothing to ")
    assert second.stdout.startswith("sqlite: the schema is up to date")
    assert "translation_tasks" in tables(tmp_path / "test.db")


def test_a_dry_run_makes_no_file_and_its_output_is_what_a_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PERSISTENCE_SQLITE__PATH", "data/new.db")
        planned = run("--dry-run")
    assert planned.exit_code == 0
    assert list(tmp_path.iterdir()) == []

    with closing(sqlite3.connect(tmp_path / "by_hand.db")) as connection:
        connection.executescript(planned.stdout)
    run()
    assert tables(tmp_path / "by_hand.db") == tables(tmp_path / "test.db")


def test_a_dry_run_with_nothing_to_do_prints_no_sql() -> None:
    run()
    result = run("--dry-run")

    assert result.stdout == ""
    assert "up to date" in result.stderr


def test_a_dry_run_leaves_every_file_as_it_is(tmp_path: Path) -> None:
    """Also the journal mode, and the log of a database in use."""
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE others (a)")
        before = files(tmp_path)
        of_another = run("--dry-run")
        assert files(tmp_path) == before
        run()
        connection.execute("INSERT INTO others VALUES (1)")
        before = files(tmp_path)
        in_use = run("--dry-run")
        assert files(tmp_path) == before

    assert "CREATE TABLE translation_tasks" in of_another.stdout
    assert (in_use.exit_code, in_use.stdout) == (0, "")


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path: Path) -> None:
    (tmp_path / "test.db-wal").write_bytes(b"log")

    for result in (run(), run("--dry-run")):
        assert isinstance(result.exception, StorageSetupError)
    assert files(tmp_path) == {"test.db-wal": b"log"}


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.db").write_bytes(b"no database" * 1000)

    assert isinstance(run("--dry-run").exception, StorageSetupError)


def test_a_schema_of_a_later_version_is_refused(tmp_path: Path) -> None:
    run()
    with closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    assert isinstance(run().exception, SchemaTooNew)
    assert isinstance(run("--dry-run").exception, SchemaTooNew)


def test_a_backend_without_a_schema_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_STORAGE__BACKEND", "memory")
    migrated, planned = run(), run("--dry-run")

    assert (migrated.exit_code, planned.exit_code, planned.stdout) == (0, 0, "")

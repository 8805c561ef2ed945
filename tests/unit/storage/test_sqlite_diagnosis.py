"""What `SqliteBackend.diagnose` finds: each finding, provoked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from persistence_service.storage.powers import Finding, Level
from persistence_service.storage.sqlite import SqliteBackend, diagnosis


async def finding(path: Path, name: str) -> Finding:
    found = {each.name: each for each in await SqliteBackend(path).diagnose()}
    return found[name]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def make(path: Path) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    await backend.migrate()
    await backend.close()


async def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(tmp_path: Path) -> None:
    found = await SqliteBackend(tmp_path / "new" / "test.db").diagnose()

    assert {each.level for each in found} == {Level.OK}
    assert names(tmp_path) == []


async def test_a_database_at_rest_is_well_and_no_file_is_made_beside_it(tmp_path: Path) -> None:
    await make(tmp_path / "test.db")
    before = names(tmp_path)
    found = await SqliteBackend(tmp_path / "test.db").diagnose()

    assert {each.level for each in found} == {Level.OK}
    assert names(tmp_path) == before


async def test_a_database_in_use_is_well(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "test.db")
    await backend.open()
    await backend.migrate()
    found = await backend.diagnose()
    await backend.close()

    assert {each.level for each in found} == {Level.OK}


async def test_a_directory_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = await finding(tmp_path / "file" / "test.db", "directory")

    assert (found.level, bool(found.remedy)) == (Level.PROBLEM, True)


async def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_LITTLE_ROOM", 2**60)

    assert (await finding(tmp_path / "test.db", "free space")).level is Level.WARNING


async def test_a_file_that_is_no_database_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "test.db").write_bytes(b"no database" * 1000)

    assert (await finding(tmp_path / "test.db", "file")).level is Level.PROBLEM


async def test_a_log_without_its_database_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "test.db-wal").write_bytes(b"log")

    assert (await finding(tmp_path / "test.db", "file")).level is Level.PROBLEM


async def test_another_journal_mode_is_a_warning(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        connection.execute("CREATE TABLE anything (a)")

    assert (await finding(tmp_path / "test.db", "file")).level is Level.WARNING


@pytest.mark.parametrize(
    "version, level", [("0001", Level.WARNING), ("9999", Level.PROBLEM), ("a1b2c3d4e5f6", Level.PROBLEM)]
)
async def test_an_older_schema_is_a_warning_and_a_newer_one_or_anothers_a_problem(
    tmp_path: Path, version: str, level: Level
) -> None:
    await make(tmp_path / "test.db")
    with closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))

    assert (await finding(tmp_path / "test.db", "schema")).level is level


async def test_a_file_without_a_schema_is_a_warning(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "test.db").close()
    (tmp_path / "test.db").touch()

    assert (await finding(tmp_path / "test.db", "schema")).level is Level.WARNING

"""`persistence-service check`: what it finds, how it says so, and its exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from persistence_service.cli import journal_check
from persistence_service.cli.app import app
from persistence_service.journal.lock import DirectoryLock

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSISTENCE_JOURNAL__MIN_FREE", "0")
    monkeypatch.setenv("PERSISTENCE_JOURNAL__MAX_BYTES", "1MiB")
    monkeypatch.setenv("PERSISTENCE_JOURNAL__SEGMENT_BYTES", "64KiB")
    monkeypatch.setenv("PERSISTENCE_LIMITS__MAX_BODY_BYTES", "1MiB")
    monkeypatch.setattr(journal_check, "_SLOW_S", 60.0)  # how busy the disk is decides nothing here


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def found(*arguments: str) -> dict[str, dict[str, Any]]:
    """By part and name, as of --json."""
    document = json.loads(run("--json", *arguments).stdout)
    return {f"{finding['part']}: {finding['name']}": finding for finding in document["findings"]}


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_before_the_first_start_all_is_well_and_nothing_is_made(tmp_path: Path) -> None:
    result = run()

    assert result.exit_code == 0
    assert "all is well" in result.stdout
    assert files(tmp_path) == []


def test_a_problem_ends_with_1_and_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    result = run()

    assert result.exit_code == 1
    assert "problem" in result.stdout
    assert found()["journal: directory"]["remedy"]


def test_warnings_alone_end_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_DATABASE__HOST", "db.example")
    result = run("--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["level"] == "warning"


def test_a_schema_that_is_not_up_to_date_is_a_problem_where_the_service_may_not_migrate_it(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    old = ("--set", "sqlite.path=old.db")

    assert found(*old)["sqlite: schema"]["level"] == "warning"
    finding = found(*old, "--set", "storage.migrate_on_start=false")["sqlite: schema"]
    assert finding["level"] == "problem"
    assert "persistence-service migrate" in finding["remedy"]
    assert "migrate_on_start" not in finding["remedy"], "which was chosen"


def test_a_wrong_configuration_ends_with_2_and_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "check", "--set", "journal.max_bytes=x"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 2
    assert "journal.max_bytes" in done.stderr


def test_what_is_set_and_used_by_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_DATABASE__HOST", "db.example")

    assert "database.host" in found()["configuration: settings"]["detail"]


def test_a_file_of_settings_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text("sqlite:\n  path: a.db\nservice:\n  host: localhost\n  port: 8081\n")
    (tmp_path / ".env").write_text("PERSISTENCE_JOURNAL__DIRECTORY=here\n")
    detail = found("--config", "many.yaml")["configuration: settings"]["detail"]

    assert "many.yaml (3 of its lines 2 to 5)" in detail
    assert detail.count("many.yaml") == 1
    assert ".env line 1" in detail
    assert "environment PERSISTENCE_JOURNAL__MIN_FREE" in detail


def test_a_journal_that_a_service_owns_is_left_to_it(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "journal"
    directory.mkdir(parents=True)
    lock = DirectoryLock.take(directory)
    owned = found()["journal: owner"]
    is_still_held = lock.is_in_place
    lock.release()
    free = found()["journal: owner"]

    assert (owned["level"], free["level"], is_still_held) == ("ok", "ok", True)
    assert "a running service (pid " in owned["detail"]
    assert "no service" in free["detail"]
    assert files(directory) == ["lock"]


def test_a_journal_without_room_is_a_problem() -> None:
    assert found("--set", "journal.min_free=60TiB")["journal: free space"]["level"] == "problem"


def test_a_journal_that_may_outgrow_its_volume_is_a_warning() -> None:
    assert found("--set", "journal.max_bytes=60TiB")["journal: free space"]["level"] == "warning"


def test_a_journal_that_is_nearly_full_is_a_warning(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "journal"
    directory.mkdir(parents=True)
    (directory / f"{1:016}.seg").write_bytes(bytes(900 * 1024))

    assert found()["journal: size"]["level"] == "warning"


def test_a_disk_that_syncs_slowly_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_check, "_SLOW_S", 0.0)

    assert found()["journal: directory"]["level"] == "warning"


def test_a_disk_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)

    assert found()["journal: directory"]["level"] == "problem"
    assert files(tmp_path) == []


def test_a_backend_that_can_say_nothing_more_tells_its_health() -> None:
    assert found("--set", "storage.backend=memory")["memory: health"]["level"] == "ok"


def test_only_the_document_is_on_stdout_with_json() -> None:
    assert json.loads(run("--json").stdout)["level"] == "ok"


def test_every_workers_journal_counts(tmp_path: Path) -> None:
    root = tmp_path / "data" / "journal"
    for directory, size in ((root, 500_000), (root / "worker-2", 400_000)):
        directory.mkdir(parents=True)
        (directory / "0000000000000001.seg").write_bytes(bytes(size))
    lock = DirectoryLock.take(root / "worker-2")
    findings = found()
    lock.release()
    assert findings["journal: size"]["level"] == "warning", "together they are nearly journal.max_bytes"
    assert f"pid {os.getpid()}" in findings["journal: owner"]["detail"]

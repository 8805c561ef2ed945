"""`persistence-service journal replay`: what a journal holds is stored as its own service would have stored it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from persistence_service.buffer.intake import KIND_TASKS
from persistence_service.cli.app import app
from persistence_service.errors import ConfigurationError, JournalError, JournalLocked
from persistence_service.journal.journal import Journal
from persistence_service.journal.lock import DirectoryLock
from persistence_service.models.status import Status
from persistence_service.storage.sqlite.backend import SqliteBackend
from tests.unit.buffer.harness import open_rig, session_request, task_request, task_requests

_SERVICE_TIMES = {"created_at", "updated_at"}
_TABLES = ("translation_sessions", "translation_tasks", "dead_letters", "dead_letter_parts")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSISTENCE_SQLITE__PATH", "target.db")


@pytest.fixture
async def journal(tmp_path: Path) -> Path:
    """What a service left that never reached its database: updates, a late one, orphans, and a task id that two sessions claim."""
    times = [f"2026-01-31T10:00:0{second}Z" for second in range(4)]
    async with open_rig(tmp_path / "journal", start=False, segment_bytes=16 * 1024) as rig:
        accept = rig.buffer
        rig.background.append(asyncio.create_task(accept.replay()))
        await accept.accept_tasks(task_requests(50))
        await accept.accept_sessions(
            [session_request(event_time=times[1], game_info={"a": 1}), session_request("other", metadata={"m": [1, 2]})]
        )
        await accept.accept_sessions([session_request(status=Status.COMPLETED, event_time=times[2], completed_tasks=7)])
        await accept.accept_sessions([session_request(status=Status.FAILED, event_time=times[0], total_tasks=9)])
        for time, text in ((times[2], "new"), (times[1], "late"), (times[3], "newest")):
            await accept.accept_tasks(
                [task_request("T00001", row_index=1, event_time=time, target_text=text, confidence=0.5)]
            )
        await accept.accept_tasks([task_request("lonely", "nobody"), task_request("T00002", "other")])
        return await rig.crash()


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["journal", "replay", *arguments])


def replayed(*arguments: str) -> dict[str, Any]:
    result = replay(*arguments, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Everything in a database, but for when the service did what."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: sorted(
                ({key: value for key, value in dict(row).items() if key not in _SERVICE_TIMES} for row in found),
                key=repr,
            )
            for table in _TABLES
            for found in [connection.execute(f"SELECT * FROM {table}").fetchall()]  # names of ours
        }


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


async def stored_by_its_service(journal: Path, database: Path) -> None:
    backend = SqliteBackend(database, readers=1)
    await backend.open()
    await backend.migrate()
    copy = await asyncio.to_thread(shutil.copytree, journal, journal.with_name("copy"))
    async with open_rig(copy, inner=backend, orphan_grace_s=1) as rig:
        await rig.buffer.flush()
        await rig.pass_time(60)
        await rig.buffer.flush()
    await backend.close()


async def test_it_stores_what_the_service_would_have_stored_and_again_changes_nothing(
    journal: Path, tmp_path: Path
) -> None:
    await stored_by_its_service(journal, tmp_path / "expected.db")
    before = contents(journal)
    target = tmp_path / "target.db"
    first = await asyncio.to_thread(replayed, str(journal), "--to", "sqlite")
    after_one = rows(target)
    second = await asyncio.to_thread(replayed, str(journal), "--to", "sqlite")

    assert after_one == rows(tmp_path / "expected.db")
    assert rows(target) == after_one
    assert contents(journal) == before
    assert (first["sessions"], first["tasks"], first["dead_lettered"]) == (4, 55, 2)
    assert first["stored"] + first["merged"] + first["dead_lettered"] == 59
    assert (first["whole"], second) == (True, first)


def test_its_summary_says_what_was_read_and_what_became_of_it(journal: Path) -> None:
    result = replay(str(journal), "--to", "sqlite")
    assert result.exit_code == 0
    assert "4 sessions and 55 tasks" in result.stdout
    assert "2 became dead letters" in result.stdout


def test_a_dry_run_reads_and_writes_nothing(journal: Path, tmp_path: Path) -> None:
    result = replay(str(journal), "--to", "sqlite", "--dry-run")
    assert result.exit_code == 0
    assert "4 sessions and 55 tasks" in result.stdout
    assert not (tmp_path / "target.db").exists()


def test_journals_of_further_workers_are_replayed_with_the_first(journal: Path, tmp_path: Path) -> None:
    first = min(journal.glob("*.seg"))
    second = journal / "worker-2"
    shutil.copytree(journal, tmp_path / "second")
    (tmp_path / "second").rename(second)
    for path in journal.glob("*.seg"):
        if path != first:
            path.unlink()
    (second / first.name).unlink()
    document = replayed(str(journal), "--to", "sqlite")
    assert (document["sessions"], document["tasks"]) == (4, 55)
    assert document["losses"], "each has lost some, and the other does not know"


def test_losses_and_batches_of_other_versions_end_with_1(journal: Path) -> None:
    damaged = min(journal.glob("*.seg"))
    content = bytearray(damaged.read_bytes())
    content[5000] ^= 1
    damaged.write_bytes(content)
    before = contents(journal)
    result = replay(str(journal), "--to", "sqlite")
    assert result.exit_code == 1
    assert f"lost: {journal}: records 1 to 1 of segment 1: damaged" in result.stdout
    assert contents(journal) == before, "not even its quarantine is begun"


async def test_batches_of_another_version_are_counted_and_end_with_1(tmp_path: Path) -> None:
    journal = await Journal.open(
        tmp_path / "later", max_bytes=2**30, min_free=0, segment_bytes=2**20, clock=lambda: 1_700_000_000_000_000
    )
    for kind, payload in ((KIND_TASKS, b'[{"from":"the future"}]'), (99, b"")):
        await journal.append(kind, payload, items=1, accepted_at_us=1, high_water_us=1)
    await journal.close()
    result = await asyncio.to_thread(replay, str(tmp_path / "later"), "--to", "sqlite")
    assert result.exit_code == 1
    assert "of another version, and not read: 2 batches" in result.stdout


def test_a_journal_that_a_process_owns_is_refused(journal: Path) -> None:
    lock = DirectoryLock.take(journal)
    refused = replay(str(journal), "--to", "sqlite")
    lock.release()
    assert isinstance(refused.exception, JournalLocked)
    assert replay(str(journal), "--to", "sqlite").exit_code == 0


def test_memory_is_no_target(journal: Path) -> None:
    assert replay(str(journal), "--to", "memory").exit_code == 2


def test_a_backend_that_there_is_not_is_a_mistake_of_the_flag_that_names_it(journal: Path) -> None:
    error = replay(str(journal), "--to", "nosuch").exception

    assert isinstance(error, ConfigurationError)
    assert [problem.source for problem in error.problems] == ["command line --to"]


def test_two_targets_at_once_are_refused(journal: Path, tmp_path: Path) -> None:
    error = replay(str(journal), "--to", "sqlite", "--set", "storage.backend=mysql").exception

    assert isinstance(error, ConfigurationError)
    assert not (tmp_path / "target.db").exists()


def test_letters_in_files_beside_the_journal_are_told(journal: Path) -> None:
    (journal / "dead-letters").mkdir()
    (journal / "dead-letters" / f"{'a' * 32}.json").write_bytes(b"damaged")
    result = replay(str(journal), "--to", "sqlite")
    assert result.exit_code == 1
    assert "dead letters in files beside the journal, and left there: 1" in result.stdout


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    result = replay(str(tmp_path), "--to", "sqlite")
    assert "there is no journal" in str(result.exception)


@pytest.mark.parametrize(
    "url", ["http://", "https:///x", "http://:8001", "http://localhost:abc", "http://localhost:99999", "http://[::1"]
)
def test_what_is_no_address_of_a_service_is_a_mistake_of_usage(journal: Path, url: str) -> None:
    result = replay(str(journal), "--to", url)
    assert result.exit_code == 2
    assert "is no address of a service" in " ".join(result.stderr.replace("│", " ").split())


def test_a_file_in_place_of_a_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = replay(str(tmp_path / "file"), "--to", "sqlite")
    assert isinstance(result.exception, JournalError)
    assert "can't be read: Not a directory" in str(result.exception)

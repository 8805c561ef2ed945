"""`persistence-service journal`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from persistence_service.buffer.intake import KIND_TASKS
from persistence_service.cli.app import app
from persistence_service.errors import JournalError
from persistence_service.journal.journal import Journal

if TYPE_CHECKING:
    from typer.testing import Result

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def journal_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "journal"
    journal = await Journal.open(
        directory, max_bytes=2**30, min_free=0, segment_bytes=2**20, clock=lambda: 1_700_000_000_000_000
    )
    await journal.append(
        KIND_TASKS, b"[1,2]", items=2, accepted_at_us=1_700_000_000_000_000, high_water_us=1_700_000_000_000_001
    )
    await journal.close()
    return directory


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["journal", *arguments])


def test_inspect_names_segments_batches_and_items(journal_directory: Path) -> None:
    result = run("inspect", str(journal_directory))
    assert result.exit_code == 0
    assert "2 items in 1 batches" in result.output


def test_inspect_as_json_is_one_document(journal_directory: Path) -> None:
    document = json.loads(run("inspect", str(journal_directory), "--json").output)
    assert (document["items"], document["records"], document["kinds"]) == (2, 1, {"tasks": 1})
    assert [segment["items"] for segment in document["segments"]] == [2]


def test_inspect_takes_the_configured_directory(journal_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_JOURNAL__DIRECTORY", str(journal_directory))
    assert json.loads(run("inspect", "--json").output)["items"] == 2


def test_verify_finds_nothing_in_an_intact_journal(journal_directory: Path) -> None:
    result = run("verify", str(journal_directory))
    assert result.exit_code == 0
    assert "as it was written" in result.output


def test_verify_ends_with_1_and_names_the_damage(journal_directory: Path) -> None:
    (segment,) = journal_directory.glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[content.index(b"[1,2]") + 1] ^= 1
    segment.write_bytes(content)
    result = run("verify", str(journal_directory))
    assert result.exit_code == 1
    assert segment.name in result.output
    assert json.loads(run("verify", str(journal_directory), "--json").output)[0]["file"] == segment.name
    assert (
        "torn tail" in run("inspect", str(journal_directory)).output
        or "damaged" in run("inspect", str(journal_directory)).output
    )


def test_a_directory_that_cannot_be_read_ends_the_process_with_3_and_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "journal", "verify", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("persistence-service: the journal ")
    assert "Traceback" not in done.stderr


def test_wrong_configuration_ends_the_process_with_2_and_every_problem(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "serve", "--port", "x", "--set", "buffer.flush_intervall=3"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "command line --port: service.port" in done.stderr
    assert "buffer.flush_interval?" in done.stderr


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"], ["verify"], ["replay", "--to", "sqlite"]])
def test_a_folder_that_holds_no_journal_is_refused_by_every_command(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, str(tmp_path))

    assert isinstance(result.exception, JournalError)
    assert str(result.exception) == f"there is no journal in {tmp_path}"
    assert result.output == ""


@pytest.fixture
def two_workers(journal_directory: Path, tmp_path: Path) -> Path:
    """The journals of two workers, of which the second has a damaged batch."""
    second = journal_directory / "worker-2"
    shutil.copytree(journal_directory, tmp_path / "second")
    (tmp_path / "second").rename(second)
    (segment,) = second.glob("*.seg")
    segment.write_bytes(segment.read_bytes().replace(b"[1,2]", b"[1,3]"))
    return journal_directory


def test_inspect_shows_the_journals_of_further_workers(two_workers: Path) -> None:
    output = run("inspect", str(two_workers)).output
    assert "2 items in 1 batches" in output
    assert "0 items in 0 batches" in output
    document = json.loads(run("inspect", str(two_workers), "--json").output)
    assert document["items"] == 2
    assert [worker["directory"] for worker in document["workers"]] == [str(two_workers / "worker-2")]


def test_verify_names_the_worker_whose_journal_is_damaged(two_workers: Path) -> None:
    result = run("verify", str(two_workers), "--json")
    assert result.exit_code == 1
    assert {finding["file"] for finding in json.loads(result.output)} == {"worker-2/0000000000000001.seg"}


def test_verify_names_a_segment_that_is_missing(journal_directory: Path) -> None:
    (segment,) = journal_directory.glob("*.seg")
    segment.unlink()
    result = run("verify", str(journal_directory))
    assert result.exit_code == 1
    assert f"{segment.name}: missing: records 1 to ? of segment 1: segment missing" in result.output

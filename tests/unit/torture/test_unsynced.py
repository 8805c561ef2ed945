"""A power failure takes what no fsync has put on disk, and nothing else."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from errno import EIO
from pathlib import Path

import pytest

from persistence_service.testing.noted_files import FaultyNotedFiles
from persistence_service.torture.unsynced import SyncNotes, is_unsafe, lose_power


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder


@pytest.fixture
def files(notes: Path) -> Iterator[FaultyNotedFiles]:
    with closing(SyncNotes(notes)) as noting:
        yield FaultyNotedFiles(noting)


def test_what_was_written_since_the_last_fsync_is_gone(files: FaultyNotedFiles, notes: Path, journal: Path) -> None:
    fd = files.create(journal / "a")
    end = files.write_all(fd, [b"safe"], 0)
    files.sync(fd)
    assert not is_unsafe(notes)
    files.write_all(fd, [b"unsafe"], end)
    assert is_unsafe(notes)
    lost = lose_power(notes, journal)
    assert lost is not None
    assert (lost.bytes, (journal / "a").read_bytes()) == (len(b"unsafe"), b"safe")
    assert lost.since <= lost.until
    assert not is_unsafe(notes)
    assert lose_power(notes, journal) is None


def test_an_fsync_that_failed_has_put_nothing_on_disk(files: FaultyNotedFiles, notes: Path, journal: Path) -> None:
    fd = files.create(journal / "a")
    files.write_all(fd, [b"unsafe"], 0)
    files.fail("sync", EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.sync(fd)
    assert lose_power(notes, journal) is not None
    assert (journal / "a").read_bytes() == b""


def test_the_time_of_a_loss_is_that_of_the_first_write_that_is_not_safe(
    files: FaultyNotedFiles, notes: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((1.0, 2.0, 3.0, 4.0))
    monkeypatch.setattr("persistence_service.torture.unsynced.monotonic", lambda: next(times))
    first, second = files.create(journal / "a"), files.create(journal / "b")
    files.write_all(first, [b"x"], 0)  # at 1
    files.sync(first)
    files.write_all(second, [b"y"], 0)  # at 2
    files.write_all(first, [b"z"], 1)  # at 3
    files.write_all(second, [b"y"], 1)
    lost = lose_power(notes, journal)
    assert lost is not None
    assert (lost.bytes, lost.since, lost.until) == (3, 2.0, 4.0)


def test_a_file_keeps_what_is_on_disk_of_it_under_another_name(
    files: FaultyNotedFiles, notes: Path, journal: Path
) -> None:
    fd = files.create(journal / "new")
    files.write_all(fd, [b"safe"], 0)
    files.sync(fd)
    files.write_all(fd, [b"unsafe"], 4)
    files.rename(journal / "new", journal / "a")
    lose_power(notes, journal)
    assert (journal / "a").read_bytes() == b"safe"


def test_what_was_cut_off_on_purpose_is_safe_as_it_is(files: FaultyNotedFiles, notes: Path, journal: Path) -> None:
    fd = files.create(journal / "a")
    files.write_all(fd, [b"0123456789"], 0)
    files.truncate(journal / "a", 6)
    assert lose_power(notes, journal) is None
    assert (journal / "a").read_bytes() == b"012345"


def _removed(files: FaultyNotedFiles, path: Path) -> None:
    files.unlink(path)


def _replaced(files: FaultyNotedFiles, path: Path) -> None:
    files.close(files.create(path.with_name("other")))
    files.rename(path.with_name("other"), path)


@pytest.mark.parametrize("go", [_removed, _replaced])
def test_a_file_that_is_gone_is_not_taken_for_one_that_comes_later(
    files: FaultyNotedFiles, notes: Path, journal: Path, go: Callable[[FaultyNotedFiles, Path], None]
) -> None:
    files.write_all(files.create(journal / "a"), [b"unsafe"], 0)
    go(files, journal / "a")
    assert not is_unsafe(notes)


def test_what_one_process_left_unsafe_stays_so_for_the_next(
    files: FaultyNotedFiles, notes: Path, journal: Path
) -> None:
    files.write_all(files.create(journal / "a"), [b"unsafe"], 0)
    SyncNotes(notes).close()
    assert is_unsafe(notes)
    assert lose_power(notes, journal) is not None


def test_a_note_that_a_kill_has_torn_tells_nothing(files: FaultyNotedFiles, notes: Path, journal: Path) -> None:
    fd = files.create(journal / "a")
    files.write_all(fd, [b"safe"], 0)
    files.sync(fd)
    with notes.open("a") as file:
        file.write(f"{os.fstat(fd).st_ino} 2")
    assert lose_power(notes, journal) is None
    assert (journal / "a").read_bytes() == b"safe"


def test_files_of_which_nothing_is_noted_are_left_alone(files: FaultyNotedFiles, notes: Path, journal: Path) -> None:
    (journal / "quarantine").mkdir()
    (journal / "lock").write_bytes(b"pid")
    files.write_all(files.create(journal / "quarantine" / "a"), [b"unsafe"], 0)
    lost = lose_power(notes, journal)
    assert lost is not None
    assert lost.bytes == len(b"unsafe")
    assert (journal / "lock").read_bytes() == b"pid"

"""A journal that nobody writes is read as its owner would replay it, and stays as it is."""

from pathlib import Path

import pytest

from persistence_service.errors import JournalError, JournalLocked
from persistence_service.journal.lock import DirectoryLock
from persistence_service.journal.reading import JournalReader
from tests.unit.journal.damage import Original, make_original
from tests.unit.journal.kinds import SEGMENT_KINDS, damage_segment


@pytest.fixture
async def original(tmp_path: Path) -> Original:
    return await make_original(tmp_path / "original")


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_it_gives_every_record_each_time(original: Original) -> None:
    with JournalReader(original.path) as reader:
        for _ in range(2):
            assert {record.sequence: record.payload for record in reader.records()} == original.records
        assert (reader.losses, reader.is_empty) == ([], False)


@pytest.mark.parametrize("kind", SEGMENT_KINDS)
@pytest.mark.parametrize("index", [0, -1], ids=["oldest", "newest"])
def test_of_a_damaged_one_it_gives_what_is_intact_tells_the_rest_and_changes_nothing(
    original: Original, tmp_path: Path, kind: str, index: int
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    damage_segment(damaged, original, original, kind, index)
    before = contents(damaged)
    with JournalReader(damaged) as reader:
        found = {record.payload for record in reader.records()}
        assert found == original.intact(damaged)
        assert reader.losses or found == set(original.records.values())
    assert contents(damaged) == before


def test_while_it_is_read_no_process_gets_it_and_none_is_read_that_a_process_has(original: Original) -> None:
    with JournalReader(original.path), JournalReader(original.path), pytest.raises(JournalLocked):
        DirectoryLock.take(original.path)
    lock = DirectoryLock.take(original.path)
    with pytest.raises(JournalLocked), JournalReader(original.path):
        pass
    lock.release()


def test_without_a_lock_file_none_is_made(original: Original) -> None:
    (original.path / "lock").unlink()
    with JournalReader(original.path) as reader:
        assert len(list(reader.records())) == len(original.records)
    assert not (original.path / "lock").exists()


def test_without_a_lock_file_too_no_process_gets_it_while_it_is_read(original: Original) -> None:
    (original.path / "lock").unlink()
    with JournalReader(original.path), JournalReader(original.path), pytest.raises(JournalLocked, match="reads it"):
        DirectoryLock.take(original.path)
    DirectoryLock.take(original.path).release()


def test_no_process_gets_it_while_it_is_read_though_its_lock_file_is_removed(original: Original) -> None:
    with JournalReader(original.path):
        (original.path / "lock").unlink()
        with pytest.raises(JournalLocked):
            DirectoryLock.take(original.path)


def test_what_is_no_directory_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="can't be read"), JournalReader(tmp_path / "nowhere"):
        pass

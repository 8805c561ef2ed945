"""Letters in files: whole or not at all, on disk when written, and damage is told instead of stopping anybody."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.buffer.dead_letters import PART_BYTES, Letter, new_letter
from persistence_service.buffer.letter_files import DIRECTORY_NAME, DamagedFile, LetterFiles
from persistence_service.errors import DeadLetterDamaged
from persistence_service.journal.files import Files
from persistence_service.journal.journal import Journal
from persistence_service.models.dead_letter import DeadLetter, DeadLetterReason
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.testing.faulty_files import FaultyFiles
from persistence_service.testing.samples import HOSTILE_TEXTS, at, session_record, task_record


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    journal = tmp_path / "journal"
    journal.mkdir()
    return journal / DIRECTORY_NAME


def letter_of(record: Session | Task, *, detail: str = "too long", seconds: float = 0) -> Letter:
    collection = SESSIONS if isinstance(record, Session) else TASKS
    reason = DeadLetterReason.DATA_REJECTED
    return new_letter(collection, record, reason=reason, detail=detail, now=at(seconds), number=1406, column="filename")


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "語" * 40_000], ids=lambda text: ascii(text[:20]))
def test_a_letter_comes_back_with_its_record(directory: Path, text: str) -> None:
    letter = letter_of(task_record(source_text=text, confidence=0.1234, end_time=at(1)))
    LetterFiles(directory).write(letter)
    read = LetterFiles(directory).read(letter.letter.letter_id)
    assert read == letter
    assert read.record == letter.record


def test_a_file_in_the_place_of_the_directory_holds_no_letters_and_stands_in_the_way_of_none(directory: Path) -> None:
    directory.write_bytes(b"no directory")
    files, letter = LetterFiles(directory), letter_of(session_record("S"))
    assert (list(files.all()), files.read(letter.letter.letter_id)) == ([], None)
    files.write(letter)
    assert files.read(letter.letter.letter_id) == letter
    (aside,) = directory.parent.glob(f"{directory.name}.aside-*")
    assert aside.read_bytes() == b"no directory"


def test_all_letters_are_told_by_id(directory: Path) -> None:
    letters = [letter_of(session_record(f"s{number}")) for number in range(5)]
    files = LetterFiles(directory)
    assert list(files.all()) == []
    for letter in letters:
        files.write(letter)
    assert list(files.all()) == sorted((each.letter for each in letters), key=lambda each: each.letter_id)


def test_a_letter_written_again_takes_the_new_reason_and_keeps_its_age(directory: Path) -> None:
    files = LetterFiles(directory)
    files.write(letter_of(task_record(), detail="old", seconds=0))
    files.write(letter_of(task_record(), detail="new", seconds=9))
    (kept,) = files.all()
    assert isinstance(kept, DeadLetter)
    assert (kept.detail, kept.created_at, kept.updated_at) == ("new", at(0), at(9))


def test_a_written_letter_and_its_name_are_on_disk(directory: Path) -> None:
    calls: list[str] = []

    class Watched(FaultyFiles):
        def sync(self, fd: int) -> None:
            calls.append("content")
            super().sync(fd)

        def rename(self, source: Path, target: Path) -> None:
            calls.append("name")
            super().rename(source, target)

        def sync_directory(self, path: Path) -> None:
            calls.append(path.name)
            super().sync_directory(path)

    LetterFiles(directory, Watched()).write(letter_of(task_record()))
    assert calls == ["journal", "content", "name", DIRECTORY_NAME]


@pytest.mark.parametrize("operation", ["make_directory", "create", "writev", "sync", "rename"])
def test_a_failing_disk_leaves_the_old_letter_and_no_half_of_a_new_one(directory: Path, operation: str) -> None:
    files = FaultyFiles()
    letters = LetterFiles(directory, files)
    letters.write(letter_of(task_record(), detail="old"))
    files.fail(operation, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        letters.write(letter_of(task_record(), detail="new", seconds=1))
    files.heal()
    (kept,) = letters.all()
    assert isinstance(kept, DeadLetter)
    assert kept.detail == "old"
    assert [path.suffix for path in directory.iterdir()] == [".json"]
    letters.write(letter_of(task_record(), detail="new", seconds=1))


def test_what_a_crash_left_of_a_write_is_no_letter_and_does_not_stop_the_next(directory: Path) -> None:
    letter = letter_of(task_record())
    directory.mkdir()
    (directory / f"{letter.letter.letter_id}.new").write_bytes(b'{"letter":')
    files = LetterFiles(directory)
    assert list(files.all()) == []
    files.write(letter)
    assert files.read(letter.letter.letter_id) == letter


@given(st.data())
def test_a_changed_byte_is_told_as_damage_and_nothing_else_is_lost(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("letters") / DIRECTORY_NAME
    files = LetterFiles(directory)
    good, bad = letter_of(task_record("good")), letter_of(task_record("bad"))
    files.write(good)
    files.write(bad)
    path = directory / f"{bad.letter.letter_id}.json"
    content = bytearray(path.read_bytes().strip())
    place = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.booleans())
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[:place] if cut else content)
    found = {each.letter_id: each for each in files.all()}
    assert found[good.letter.letter_id] == good.letter
    assert isinstance(found[bad.letter.letter_id], DamagedFile)
    with pytest.raises(DeadLetterDamaged) as caught:
        files.read(bad.letter.letter_id)
    assert caught.value.letter_id == bad.letter.letter_id


def test_a_file_under_the_name_of_another_letter_is_damage(directory: Path) -> None:
    files = LetterFiles(directory)
    letter = letter_of(task_record())
    files.write(letter)
    (directory / f"{letter.letter.letter_id}.json").rename(directory / f"{'0' * 32}.json")
    assert [type(each) for each in files.all()] == [DamagedFile]


def test_a_block_that_the_disk_cannot_read_is_damage(directory: Path) -> None:
    files = FaultyFiles()
    letters = LetterFiles(directory, files)
    letter = letter_of(task_record())
    letters.write(letter)
    files.fail("read", errno.EIO)
    assert [type(each) for each in letters.all()] == [DamagedFile]


def test_nesting_beyond_the_parser_is_damage(directory: Path) -> None:
    directory.mkdir()
    (directory / f"{'a' * 32}.json").write_bytes(b'{"letter":' + b"[" * 100_000)
    assert list(LetterFiles(directory).all()) == [DamagedFile("a" * 32, "it is not as it was written")]


def test_a_damaged_letter_can_be_written_anew_and_removed(directory: Path) -> None:
    files = LetterFiles(directory)
    letter = letter_of(task_record())
    path = directory / f"{letter.letter.letter_id}.json"
    directory.mkdir()
    path.write_bytes(b"rubbish")
    assert files.remove(letter.letter.letter_id)
    path.write_bytes(b"rubbish")
    files.write(letter)
    assert files.read(letter.letter.letter_id) == letter


def test_a_removed_letter_is_gone_from_the_disk(directory: Path) -> None:
    system = FaultyFiles()
    files = LetterFiles(directory, system)
    letter = letter_of(task_record())
    files.write(letter)
    before = system.calls["sync_directory"]
    assert files.remove(letter.letter.letter_id)
    assert system.calls["sync_directory"] == before + 1
    assert not files.remove(letter.letter.letter_id)
    assert files.read(letter.letter.letter_id) is None


@pytest.mark.parametrize(
    "letter_id", ["", "..", "../head", "A" * 32, "a" * 31, "a" * 33, "a" * 32 + "\n", "/etc/passwd", "a" * 31 + "\0"]
)
def test_no_other_file_is_reached_through_an_id(directory: Path, letter_id: str) -> None:
    directory.mkdir()
    (directory.parent / "head").write_bytes(b"the journal's own")
    (directory.parent / "head.json").write_bytes(b"the journal's own")
    files = LetterFiles(directory)
    assert files.read(letter_id) is None
    assert not files.remove(letter_id)
    letter = letter_of(task_record())
    with pytest.raises(ValueError, match="no id"):
        files.write(Letter(msgspec.structs.replace(letter.letter, letter_id=letter_id), letter.parts))
    assert len(list(directory.parent.iterdir())) == 3


def test_a_letter_that_goes_while_all_are_told_is_left_out(directory: Path) -> None:
    files = LetterFiles(directory)
    letters = [letter_of(task_record(f"t{number}")) for number in range(3)]
    for letter in letters:
        files.write(letter)
    told = files.all()
    first = next(told)
    for letter in letters:
        files.remove(letter.letter.letter_id)
    assert [first, *told] == [first]


def test_large_records_are_kept_in_the_parts_that_the_backend_would_have(directory: Path) -> None:
    noise = "".join(map(chr, Random(1).choices(range(0x4E00, 0x9FA0), k=300_000)))
    letter = letter_of(task_record(source_text=noise))
    assert len(letter.parts) > 1
    assert max(len(part.data) for part in letter.parts) <= PART_BYTES
    LetterFiles(directory).write(letter)
    read = LetterFiles(directory).read(letter.letter.letter_id)
    assert read is not None
    assert list(read.parts) == list(letter.parts)


async def test_the_journal_takes_no_notice_of_them(tmp_path: Path) -> None:
    directory = tmp_path / "journal"

    async def open_journal() -> Journal:
        return await Journal.open(directory, max_bytes=2**20, min_free=0, segment_bytes=2**16, clock=lambda: 1)

    journal = await open_journal()
    files = LetterFiles(directory / DIRECTORY_NAME, Files())
    files.write(letter_of(task_record()))
    await journal.close()
    journal = await open_journal()
    assert journal.stats().losses == ()
    await journal.close()
    assert len(list(files.all())) == 1

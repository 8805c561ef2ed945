"""Whatever is done to a journal's files: it opens, again and again, replays what is intact, says what is gone, invents nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from errno import EACCES
from pathlib import Path

import pytest

from persistence_service.errors import JournalUnavailable
from persistence_service.journal.format import BODY_OFFSET, HEADER_BYTES, HEADER_OFFSETS
from tests.unit.journal.bench import Bench, put, replay_all
from tests.unit.journal.damage import Original, make_original, obey, opened, starts
from tests.unit.journal.kinds import AS_WHAT, SEGMENT_KINDS, SIDE_FILES, damage_segment, flip, link, replace

_PADDING_STEP = 1021
_FIELD_STEP = 4


@pytest.fixture
async def original(tmp_path: Path) -> Original:
    return await make_original(tmp_path / "original")


@pytest.fixture
async def other(tmp_path: Path) -> Original:
    """Another journal."""
    return await make_original(tmp_path / "other", "foreign")


def telling_offsets(size: int) -> list[int]:
    """Every byte of the records, every field of the headers, and some of the zeros between those."""
    return [
        *range(0, HEADER_BYTES, _FIELD_STEP),
        *range(HEADER_BYTES, HEADER_OFFSETS[1], _PADDING_STEP),
        *range(HEADER_OFFSETS[1], BODY_OFFSET, _FIELD_STEP),
        *range(BODY_OFFSET, size),
    ]


async def obey_each(original: Original, tmp_path: Path, damage: Callable[[Path, int], None], places: list[int]) -> None:
    for place in places:
        damaged = original.copy(tmp_path / "damaged")
        damage(damaged, place)
        try:
            await obey(original, damaged, times=2, crashing=False)
        except BaseException as exc:
            exc.add_note(f"damage at {place}")
            raise
        shutil.rmtree(damaged)


@pytest.mark.parametrize("index", [1, -1], ids=["older", "newest"])
async def test_a_segment_is_cut_at_any_byte(original: Original, tmp_path: Path, index: int) -> None:
    name = original.segments[index]

    def cut(damaged: Path, size: int) -> None:
        os.truncate(damaged / name, size)

    await obey_each(original, tmp_path, cut, telling_offsets(len(original.files[name])))


@pytest.mark.parametrize("index", [1, -1], ids=["older", "newest"])
async def test_a_bit_of_any_byte_is_flipped(original: Original, tmp_path: Path, index: int) -> None:
    name = original.segments[index]

    def flip_in(damaged: Path, offset: int) -> None:
        flip(damaged / name, offset)

    await obey_each(original, tmp_path, flip_in, telling_offsets(len(original.files[name])))


@pytest.mark.parametrize("index", [0, 1, 2], ids=["oldest", "middle", "newest"])
@pytest.mark.parametrize("kind", [*SEGMENT_KINDS, "an older copy of itself", "of another journal"])
async def test_a_segment_is_something_else(
    original: Original, other: Original, tmp_path: Path, kind: str, index: int
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    damage_segment(damaged, original, other, kind, index)
    await obey(original, damaged)


@pytest.mark.parametrize("kind", ["removed", "garbage", "empty", "a directory", "of another journal"])
async def test_all_segments_are_something_else(original: Original, other: Original, tmp_path: Path, kind: str) -> None:
    damaged = original.copy(tmp_path / "damaged")
    for index in range(len(original.segments)):
        damage_segment(damaged, original, other, kind, index)
    foreign = set(other.records.values()) if kind == "of another journal" else set()
    first, *_ = await starts(damaged, foreign, times=3, crashing=True)
    assert first.stats.losses


@pytest.mark.parametrize("what", AS_WHAT)
@pytest.mark.parametrize("name", [*SIDE_FILES, "quarantine"])
async def test_a_side_file_is_something_else_and_nothing_is_gone(
    original: Original, tmp_path: Path, name: str, what: str
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    AS_WHAT[what](damaged / name)
    told = await obey(original, damaged)
    assert told[0].stats.losses == ()


@pytest.mark.parametrize("name", ["quarantine", *(name for name in SIDE_FILES if name != "lock")])
async def test_a_link_that_leads_nowhere_in_the_place_of_a_side_file_stops_nothing(
    original: Original, tmp_path: Path, name: str
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    link(damaged / name, name)
    (damaged / original.segments[0]).unlink()
    await obey(original, damaged)


async def test_a_directory_in_the_place_of_the_lock_prevents_the_start_and_is_named(
    original: Original, tmp_path: Path
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    replace(damaged / "lock", None)
    for _ in range(2):
        with pytest.raises(JournalUnavailable, match="a directory named 'lock'"):
            await opened(damaged)
    shutil.rmtree(damaged / "lock")
    await obey(original, damaged)


async def test_a_segment_that_may_not_be_read_prevents_the_start_and_nothing_is_changed(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal)
    crashed = bench.crash()
    before = {path.name for path in crashed.iterdir()}
    bench.files.fail("open_existing", EACCES, after=1)
    with pytest.raises(JournalUnavailable, match="Permission denied"):
        await bench.open(crashed)
    bench.files.heal()
    assert {path.name for path in crashed.iterdir()} == before
    assert len(await replay_all(await bench.open(crashed))) == 1


@pytest.mark.parametrize("name", [name for name in SIDE_FILES if name != "lock"])
async def test_a_directory_in_the_place_of_a_side_file_stops_nothing(
    original: Original, tmp_path: Path, name: str
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    replace(damaged / name, None)
    told = await obey(original, damaged)
    assert told[0].stats.losses == ()


@pytest.mark.parametrize("kind", ["garbage", "a directory"])
async def test_damage_is_set_aside_although_there_is_a_file_in_the_place_of_the_quarantine(
    original: Original, other: Original, tmp_path: Path, kind: str
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    (damaged / "quarantine").write_bytes(b"no directory")
    damage_segment(damaged, original, other, kind, 1)
    (damaged / original.segments[0]).write_bytes(original.files[original.segments[0]][:-1])
    told = await obey(original, damaged)
    assert told[-1].stats.quarantined_files >= 2

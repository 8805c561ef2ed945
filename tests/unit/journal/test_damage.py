"""Whatever is done to a journal's files: it opens, again and again, replays what is intact, says what is gone, invents nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from persistence_service.journal.format import HEADER_BYTES, HEADER_OFFSETS
from tests.unit.journal.damage import Original, make_original, obey, starts

_PADDING_STEP = 509


@pytest.fixture
async def original(tmp_path: Path) -> Original:
    return await make_original(tmp_path / "original")


@pytest.fixture
async def other(tmp_path: Path) -> Original:
    """Another journal."""
    return await make_original(tmp_path / "other", "foreign")


def telling_offsets(size: int) -> list[int]:
    """Every byte that means something, and some of the zeros between the headers."""
    return [
        *range(HEADER_BYTES),
        *range(HEADER_BYTES, HEADER_OFFSETS[1], _PADDING_STEP),
        *range(HEADER_OFFSETS[1], size),
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

    def flip(damaged: Path, offset: int) -> None:
        content = bytearray(original.files[name])
        content[offset] ^= 1 << offset % 8
        (damaged / name).write_bytes(content)

    await obey_each(original, tmp_path, flip, telling_offsets(len(original.files[name])))


# ------------------------------------------------------------------------------------- whole files: one law, many kinds


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def replace(path: Path, content: bytes | None) -> None:
    """Another file stands under this name, or with None a directory that is not empty."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
        (path / "something").write_bytes(b"in it")
    else:
        path.write_bytes(content)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


SEGMENT_KINDS: dict[str, Callable[[Path, Path], object]] = {
    "removed": lambda path, _: path.unlink(),
    "swapped with another": swap,
    "renamed onto another": lambda path, another: path.rename(another),
    "copied over another": shutil.copy,
    "copied to a higher number": lambda path, _: shutil.copy(path, path.with_name(f"{99:016d}.seg")),
    "copied to the highest number": lambda path, _: shutil.copy(path, path.with_name("9" * 16 + ".seg")),
    "garbage": lambda path, _: replace(path, b"\x89garbage\x00" * 999),
    "empty": lambda path, _: replace(path, b""),
    "a directory": lambda path, _: replace(path, None),
    "a link to nowhere": lambda path, _: link(path, "nowhere"),
    "a link to itself": lambda path, _: link(path, path.name),
}


def damage_segment(damaged: Path, original: Original, other: Original, kind: str, index: int) -> None:
    """`other` is another journal; where two segments are concerned, the second is the one before, around the corner."""
    name = original.segments[index]
    if kind == "an older copy of itself":
        (damaged / name).write_bytes(original.older[name])
    elif kind == "of another journal":
        (damaged / name).write_bytes(other.files[other.segments[index]])
    else:
        SEGMENT_KINDS[kind](damaged / name, damaged / original.segments[index - 1])


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


SIDE_FILES = [
    "head",
    "lock",
    "shared",
    "dead-letters",
    "0000000000000001.released",
    "0000000000000009.seg.new",
    "head.new",
]
AS_WHAT: dict[str, Callable[[Path], None]] = {
    "missing": remove,
    "empty": lambda path: replace(path, b""),
    "garbage": lambda path: replace(path, b"\x89PS\n" * 99),
}


@pytest.mark.parametrize("what", AS_WHAT)
@pytest.mark.parametrize("name", [*SIDE_FILES, "quarantine"])
async def test_a_side_file_is_something_else_and_nothing_is_gone(
    original: Original, tmp_path: Path, name: str, what: str
) -> None:
    damaged = original.copy(tmp_path / "damaged")
    AS_WHAT[what](damaged / name)
    told = await obey(original, damaged)
    assert told[0].stats.losses == ()


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

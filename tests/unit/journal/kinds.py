"""What can be done to a journal's files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.unit.journal.damage import Original


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
    remove(path)
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


def flip(path: Path, offset: int) -> None:
    """One bit of the byte is the other one."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << offset % 8
    path.write_bytes(content)

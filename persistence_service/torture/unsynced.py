"""What a power failure takes: the bytes that no fsync has put on disk. Notes of it outlive the process that makes them.

A killed process leaves to the kernel all that it wrote, so that one which answers before its fsync would never be found out.
Names of files are not part of it: they stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final

_GONE: Final = "gone"
_SAFE: Final = "-"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Of a file the first `size` bytes are on disk; the first of the others was written at `unsafe_since`, if there is one.

    All times here are of the monotonic clock, which all processes of a machine share.
    """

    size: int
    unsafe_since: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """What the power failure at `until` took: so many bytes, all of them written since `since`."""

    bytes: int
    since: float
    until: float


class SyncNotes:
    """Of each file, by its inode, what is on disk; a line for each change, so that a kill tears the last one at most.

    Noted is before bytes are written, and when they are on disk: what a torn line says was never acknowledged. It goes on from
    what the process before has left at `path`.
    """

    def __init__(self, path: Path) -> None:
        self._on_disk = dict(noted(path))
        self._lock = Lock()
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text("".join(_line(inode, on_disk) for inode, on_disk in self._on_disk.items()))
        fresh.replace(path)
        self._file = path.open("ab", buffering=0)

    def close(self) -> None:
        """Nothing is noted any more."""
        self._file.close()

    def will_write(self, inode: int) -> None:
        """Bytes are about to be added to a file that `has` was told of."""
        on_disk = self._on_disk.get(inode)
        if on_disk is not None and on_disk.unsafe_since is None:
            self._note(inode, OnDisk(on_disk.size, monotonic()))

    def has(self, inode: int, size: int) -> None:
        """The first `size` bytes of it are on disk, and there are no others."""
        self._note(inode, OnDisk(size))

    def forget(self, inode: int) -> None:
        """It is removed, and another file may get its inode."""
        self._note(inode, None)

    def _note(self, inode: int, on_disk: OnDisk | None) -> None:
        with self._lock:
            if on_disk is not None:
                self._on_disk[inode] = on_disk
            elif self._on_disk.pop(inode, None) is None:
                return
            self._file.write(_line(inode, on_disk).encode())


def noted(path: Path) -> Mapping[int, OnDisk]:
    """What is noted at `path`, by inode: of each the last line that is whole."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    found: dict[int, OnDisk] = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        inode, size, since = line.split(" ")
        if size == _GONE:
            found.pop(int(inode), None)
        else:
            found[int(inode)] = OnDisk(int(size), None if since == _SAFE else float(since))
    return found


def is_unsafe(notes: Path) -> bool:
    """Whether a file has bytes that are not on disk."""
    return any(on_disk.unsafe_since is not None for on_disk in noted(notes).values())


def lose_power(notes: Path, directory: Path) -> Lost | None:
    """Cut all files in `directory` to what is on disk of them, while nobody uses them; None if that was all of each."""
    on_disk = noted(notes)
    lost, since = 0, []
    if not on_disk or not directory.is_dir():
        return None
    with notes.open("a") as file:
        for path in directory.rglob("*"):
            found = path.lstat()
            known = on_disk.get(found.st_ino)
            if known is None or found.st_size <= known.size or not path.is_file():
                continue
            os.truncate(path, known.size)
            file.write(_line(found.st_ino, OnDisk(known.size)))
            lost += found.st_size - known.size
            since.append(known.unsafe_since or 0.0)
    return Lost(lost, min(since), monotonic()) if lost else None


def _line(inode: int, on_disk: OnDisk | None) -> str:
    if on_disk is None:
        return f"{inode} {_GONE} {_SAFE}\n"
    return f"{inode} {on_disk.size} {_SAFE if on_disk.unsafe_since is None else on_disk.unsafe_since}\n"

"""Files that take notes of what is on disk, so that a power failure can take the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from persistence_service.journal.files import Files
from persistence_service.testing.faulty_files import FaultyFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from persistence_service.torture.unsynced import SyncNotes


class NotedFiles(Files):
    """Real files, each change of which is noted; those that were there before are taken for safe."""

    def __init__(self, notes: SyncNotes) -> None:
        self._notes = notes

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._notes.has(os.fstat(fd).st_ino, 0)
        return fd

    def writev(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self._notes.will_write(os.fstat(fd).st_ino)
        return super().writev(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        before = os.fstat(fd)
        super().sync(fd)
        self._notes.has(before.st_ino, before.st_size)

    def truncate(self, path: Path, size: int) -> None:
        super().truncate(path, size)
        self._notes.has(path.stat().st_ino, size)

    def rename(self, source: Path, target: Path) -> None:
        replaced = _inode(target)
        super().rename(source, target)
        self._forget(replaced)

    def unlink(self, path: Path) -> None:
        removed = _inode(path)
        super().unlink(path)
        self._forget(removed)

    def _forget(self, inode: int | None) -> None:
        if inode is not None:
            self._notes.forget(inode)


class FaultyNotedFiles(FaultyFiles, NotedFiles):
    """Faults first: what they keep from the disk is not noted as being there."""

    def __init__(self, notes: SyncNotes) -> None:
        FaultyFiles.__init__(self)
        NotedFiles.__init__(self, notes)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None

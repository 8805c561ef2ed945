"""The system calls the journal makes, in one replaceable place.

Tests put a double here that fails, writes short, or waits; nothing else of the journal touches the file system.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_VECTOR: Final = 512
"""Buffers in one writev; Linux allows 1024."""
BLOCK_BYTES: Final = 4096


class Files:
    """Blocking file operations; each raises the OSError of its system call."""

    def create(self, path: Path) -> int:
        """A new file, open for writing and reading; one that is there already is an error."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open_existing(self, path: Path) -> int:
        """An existing file, open for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def writev(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """One system call at `offset`; may write less than it was given."""
        return os.pwritev(fd, buffers, offset)

    def write_all(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """All of `buffers` written from `offset` on, whatever the kernel takes at a time; answers the end.

        After an error an unknown part of it has been written.
        """
        pending: list[bytes | memoryview] = [buffer for buffer in buffers if buffer]
        first = 0
        while first < len(pending):
            written = self.writev(fd, pending[first : first + MAX_VECTOR], offset)
            if written <= 0:
                raise OSError(errno.EIO, "the file took no more bytes")
            offset += written
            while first < len(pending) and written >= len(pending[first]):
                written -= len(pending[first])
                first += 1
            if written:
                pending[first] = memoryview(pending[first])[written:]
        return offset

    def sync(self, fd: int) -> None:
        """The file's data, and the metadata needed to read it, are on disk."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Names created, renamed and removed in the directory are on disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, path: Path, size: int) -> None:
        """The file ends at `size`, on disk too."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """The name is gone; one that was not there is no error."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def require_name(self, fd: int) -> None:
        """The file still has a name, so that somebody who comes later can find it.

        Raises:
            FileNotFoundError: it was removed, and its content goes when it is closed.
        """
        if not os.fstat(fd).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the file was removed while it was being written")

    def names(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`: fewer only at the end of the file."""
        parts: list[bytes] = []
        while length > 0:
            part = os.pread(fd, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def free_bytes(self, path: Path) -> int:
        """What an unprivileged process may still write to the volume."""
        return shutil.disk_usage(path).free


class FileSource:
    """A file as a `format.Source` that survives unreadable blocks: what the disk refuses to read is zeros.

    A disk error while reading must not stop the records beside it from being replayed; as zeros the block fails its
    checksum and is reported as damage.
    """

    def __init__(self, files: Files, file: Path | int) -> None:
        """`file` is a path, or a descriptor that stays open and the caller's."""
        self._files = files
        self._is_mine = not isinstance(file, int)
        self._fd = file if isinstance(file, int) else files.open_existing(file)
        self.size = files.size(self._fd)
        self.unreadable_blocks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._is_mine:
            self._files.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        try:
            return self._files.read(self._fd, offset, length)
        except OSError:
            return b"".join(self._blocks(offset, length))

    def _blocks(self, offset: int, length: int) -> list[bytes]:
        blocks: list[bytes] = []
        end = offset + length
        while offset < end:
            size = min(BLOCK_BYTES - offset % BLOCK_BYTES, end - offset)
            try:
                block = self._files.read(self._fd, offset, size)
            except OSError:
                self.unreadable_blocks += 1
                block = b""
            blocks.append(block.ljust(size, b"\0"))
            offset += size
        return blocks

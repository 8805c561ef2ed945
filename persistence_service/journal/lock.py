"""One process owns a journal's directory at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from persistence_service.errors import JournalLocked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME: Final = "lock"
_OWNER_BYTES: Final = 200


class DirectoryLock:
    """Exclusive ownership of a directory, ended by `release` or by the kernel when the process dies.

    It is an flock on a file that stays; the process id inside is for the message alone, never for a decision. A second lock
    within the same process is refused too. The descriptor is not inherited by programs this process starts.
    """

    def __init__(self, directory: Path, fd: int) -> None:
        self._directory = directory
        self._fd: int | None = fd

    @classmethod
    def take(cls, directory: Path) -> Self:
        """The lock of an existing directory.

        Raises:
            JournalLocked: another process has it, named in the error; nothing was changed, but that there is a lock file.
            OSError: the lock file cannot be opened.
        """
        return cls(directory, _locked(directory))

    def retake(self) -> bool:
        """The lock is on the file that others would try; answers whether that one was removed, and another had to be locked.

        Raises:
            JournalLocked: another process was first.
            OSError: the lock file cannot be opened.
        """
        if self.is_in_place:
            return False
        fd = _locked(self._directory)
        self.release()
        self._fd = fd
        return True

    @property
    def is_in_place(self) -> bool:
        """Held, on the file that others would try."""
        try:
            return self._fd is not None and os.path.samestat((self._directory / LOCK_NAME).stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """The directory is free for the next owner; doing it twice is no error."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextlib.contextmanager
def kept_from_owners(directory: Path) -> Iterator[None]:
    """No process owns the directory by its lock file, nor can one come to while the block runs, whether there is that file or not.

    Nothing is written, and a lock file is not made.

    Raises:
        JournalLocked: a process owns it.
        OSError: the lock file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        # Before the lock file is looked for: one that is made after that is of an owner who finds this.
        stack.callback(os.close, _open_directory(directory, fcntl.LOCK_SH))
        try:
            fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = None
        if fd is not None:
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JournalLocked(directory, _owner(fd)) from None
        yield


def _open_directory(directory: Path, kind: int) -> int:
    """The directory itself, with an flock of that kind where its file system has such: NFS has none for directories.

    Raises:
        JournalLocked: a command reads it, or a process becomes its owner at this moment.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise JournalLocked(directory, "one that reads it, or takes it at this moment") from None
    except OSError:
        pass  # without it the lock file alone says who has it
    return fd


def _owner(fd: int) -> str:
    return os.pread(fd, _OWNER_BYTES, 0).decode("utf-8", "replace").strip() or "unknown"


def _locked(directory: Path) -> int:
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except IsADirectoryError as error:
        raise OSError(
            error.errno, f"a directory named {LOCK_NAME!r} stands where its lock should; remove it"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(_open_directory(directory, fcntl.LOCK_EX))  # those who read it may have found no lock file
    except BlockingIOError:
        owner = _owner(fd)
        os.close(fd)
        raise JournalLocked(directory, owner) from None
    except BaseException:
        os.close(fd)
        raise
    # A full disk may refuse the pid: the lock holds without it.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
    return fd

"""Where the control sockets of a service are: a private directory that lasts as long as its supervisor.

Its supervisor holds a lock on it, which the kernel ends with the process. Programs that clean up directories for temporary
files leave out locked ones, too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from persistence_service.fleet.identity import WorkerIdentity

_PREFIX: Final = "persistence-service-"
_NOT_YET: Final = ".starting-"  # what has this before its name is not locked yet, and nobody removes it
_LONGEST_SOCKET_NAME: Final = 107
_LAST_RESORT: Final = Path("/tmp")  # noqa: S108  # a directory of our own is made in it
_log = structlog.get_logger(__name__)


@contextmanager
def control_directory(workers: int) -> Iterator[Path]:
    """A new directory for the sockets of so many workers, removed at the end; those that killed services left go first.

    Raises:
        OSError: there is no place for it.
    """
    parent = Path(tempfile.gettempdir())
    if not _is_short_enough(parent / (_PREFIX + "x" * 8), workers):
        parent = _LAST_RESORT
    remove_abandoned(parent)
    new = Path(tempfile.mkdtemp(prefix=_NOT_YET + _PREFIX, dir=parent))
    directory = new.with_name(new.name.removeprefix(_NOT_YET))
    fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(directory)
        yield directory
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)
        os.close(fd)


def _is_short_enough(directory: Path, workers: int) -> bool:
    longest = WorkerIdentity(0, workers, directory).socket_of(workers - 1)
    return len(os.fsencode(longest)) <= _LONGEST_SOCKET_NAME


def remove_abandoned(parent: Path) -> None:
    """Remove the directories of this user's services that run no more: unlocked, and nobody listens at a socket in them."""
    for directory in parent.glob(_PREFIX + "*"):
        with suppress(OSError):  # somebody else's, or just gone
            if _is_abandoned(directory):
                shutil.rmtree(directory)
                _log.info("control.removed", directory=str(directory), because="its service was killed")


def _is_abandoned(directory: Path) -> bool:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return not any(_is_listened_at(path) for path in directory.glob("*.sock"))
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _is_listened_at(path: Path) -> bool:
    """Workers outlive a supervisor that was killed, for as long as their stop takes."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        try:
            caller.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it has very many callers
            pass
        return True

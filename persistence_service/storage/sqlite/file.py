"""The database's file as all connections of a backend share it: whether it is the one they opened, and when all let go of it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import structlog

from persistence_service.errors import StorageSetupError, StorageUnavailable

_log = structlog.get_logger(__name__)

_Identity = tuple[int, int] | None  # device and inode; None if there is no such file


class FileIdentity(NamedTuple):
    """Which files are at the database's path."""

    database: _Identity
    log: _Identity
    shared_memory: _Identity


class DatabaseFile:
    """The file at `path` and the connections that a backend has to it, in generations.

    A connection works on the file that it opened, wherever that is moved, even if it is deleted; and what SQLite knows of the
    shared index (a file system that was read-only, say) lasts as long as one connection of the process. So after some errors
    all connections are closed before one is opened: `renew` begins a new generation, and `admit` waits for the old one's end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._real = str(
            path
        )  # without links, since SQLite names the other files after that; found out when it is opened
        self._changed = threading.Condition()
        self._close_idle: list[Callable[[], None]] = []
        self._current = 0
        self._ending = 0
        self._opened: FileIdentity | None = None  # what was opened last, of this generation or the one before
        self._is_shared = False  # whether a connection of this generation has confirmed it
        self.generation = 0

    def on_renewal(self, close_idle: Callable[[], None]) -> None:
        """Have `close_idle` called, by any thread, when a connection that is not at work has to be closed."""
        self._close_idle.append(close_idle)

    def renew(self, generation: int) -> None:
        """Have every connection closed before one is opened, those that are at work at their job's end.

        Does nothing if another thread has renewed `generation` already.
        """
        with self._changed:
            if generation != self.generation:
                return
            self.generation += 1
            self._ending += self._current
            self._current = 0
            self._is_shared = False
        for close_idle in self._close_idle:
            close_idle()

    def admit(self, wait_s: float) -> int:
        """Let a connection be opened now: gives its generation. Every call is followed by `retire` and `closed`.

        Raises:
            StorageUnavailable: connections of the old generation are still at work after `wait_s`; or there is another file now.
            StorageSetupError: opening the file, or making it, could lose what was stored; a person must look.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ending == 0, wait_s):
                raise StorageUnavailable("the connections to the database's former file are still in use")
            if not self._is_shared:
                self._real = os.path.realpath(self.path)
            found = self.identity()
            if self._opened is None:
                self._check_start(found)
            elif self._is_shared:
                self.check(self._opened, found)
            else:
                self._check_return(self._opened, found)
            self._current += 1
            return self.generation

    def confirm(self, generation: int) -> FileIdentity:
        """What a connection has opened; the first of a generation decides for the others.

        Raises:
            StorageUnavailable: the file was moved or replaced meanwhile.
        """
        with self._changed:
            found = self.identity()
            if generation == self.generation and not self._is_shared:
                if self._opened is not None and self._opened.database != found.database:
                    _log.warning("sqlite.file_replaced", path=str(self.path), now="the file that is there is used")
                self._opened = found
                self._is_shared = True
            if self._opened is None or found != self._opened:
                raise _moved()
            return found

    def retire(self, generation: int) -> None:
        """A connection is about to be closed: the next one is opened after that."""
        with self._changed:
            if generation == self.generation:
                self._current -= 1
                self._ending += 1
                if self._current == 0:
                    self._is_shared = False  # the last one may remove log and index

    def closed(self) -> None:
        """A retired connection is closed."""
        with self._changed:
            self._ending -= 1
            self._changed.notify_all()

    def check_start(self) -> None:
        """What `admit` checks before the file is opened, or made, for the first time.

        Raises:
            StorageSetupError: that could lose what was stored; a person must look.
        """
        with self._changed:
            self._real = os.path.realpath(self.path)
            self._check_start(self.identity())

    def identity(self) -> FileIdentity:
        """What is at the path now."""
        return FileIdentity(_identity(self.path), _identity(self._log_path), _identity(f"{self._real}-shm"))

    def check(self, opened: FileIdentity, found: FileIdentity | None = None) -> None:
        """Raises StorageUnavailable if the path does not lead to the files that were `opened`."""
        if (found or self.identity()) != opened:
            raise _moved()

    def uri(self) -> str:
        """How SQLite is told to open it: a file that was there once is not made anew."""
        mode = "rwc" if self._opened is None else "rw"
        return f"file:{quote(os.fsencode(self._real))}?mode={mode}"

    def uri_to_look(self) -> str:
        """How SQLite is told to read it and nothing else.

        Without a log nobody has it open, and even the index of one, which SQLite would make, is done without.
        """
        unchangeable = "&immutable=1" if self.identity().log is None else ""
        return f"file:{quote(os.fsencode(self._real))}?mode=ro{unchangeable}"

    def log_bytes(self) -> int:
        """What the log takes now."""
        return _size(self._log_path)

    @property
    def _log_path(self) -> str:
        return f"{self._real}-wal"

    def _check_start(self, found: FileIdentity) -> None:
        if found.log is not None and _size(self._log_path) and not _size(self._real):
            raise StorageSetupError(  # SQLite would delete the log, which may hold the newest transactions
                "the database's file (sqlite.path) is missing or empty, but its log beside it is there: put the database's file back, "
                "or remove the log to begin an empty database"
            )

    def _check_return(self, former: FileIdentity, found: FileIdentity) -> None:
        if found.database is None:
            raise StorageSetupError(
                "the database's file (sqlite.path) was moved or deleted while in use; what is accepted stays in the journal: put the file back, "
                "or restart the service to begin an empty database"
            )
        if found.database != former.database and found.log is not None and found.log == former.log:
            if not _size(self._log_path):
                return
            raise StorageSetupError(  # SQLite would apply it to the new file
                "the database's file (sqlite.path) was replaced while in use, and the log beside it belongs to the former file: put that back, "
                "or stop the service, remove the log unless the new file is a copy of the former one, and start it"
            )


def _moved() -> StorageUnavailable:
    return StorageUnavailable(
        "the database's file was moved or replaced while in use", number=sqlite3.SQLITE_READONLY_DBMOVED
    )


def _identity(path: Path | str) -> _Identity:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0

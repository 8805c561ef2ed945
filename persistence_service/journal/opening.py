"""Taking a journal's directory into possession: its lock, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from persistence_service.errors import JournalUnavailable
from persistence_service.journal.directory import JournalDirectory
from persistence_service.journal.lock import DirectoryLock
from persistence_service.journal.survey import Survey, take_stock

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from persistence_service.journal.files import Files


@dataclass(frozen=True, slots=True)
class Opened:
    """A directory that is this process's, ready for a new segment."""

    lock: DirectoryLock
    directory: JournalDirectory
    survey: Survey


def prepare(path: Path, files: Files) -> Opened:
    """The directory, made if need be, locked and surveyed. Blocking.

    Raises:
        JournalLocked, JournalVersionUnknown: it is not to be touched.
        JournalUnavailable: it can't be read or made ready.
    """
    directory = JournalDirectory(path, files)
    try:
        files.make_directory(path)
        lock = DirectoryLock.take(path)
        try:
            return Opened(lock, directory, take_stock(directory))
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        raise JournalUnavailable(f"the journal's directory {path} cannot be used: {error.strerror}") from error


def give_back(preparing: asyncio.Future[Opened]) -> None:
    """Nobody wants the directory that was prepared."""
    if not preparing.cancelled() and preparing.exception() is None:
        preparing.result().lock.release()

"""The end of a journal that nobody writes any more."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog

from persistence_service.journal.directory import HEAD_NAME
from persistence_service.journal.lock import LOCK_NAME

if TYPE_CHECKING:
    from persistence_service.journal.directory import JournalDirectory

log = structlog.get_logger(__name__)


def remove(directory: JournalDirectory) -> None:
    """The files of a locked journal that holds nothing are gone, and its directory if nothing else is in it. Blocking.

    A quarantine with something in it stays, for a person. A crash meanwhile leaves a journal that says of nothing that it is
    missing.
    """
    files, path = directory.files, directory.path
    try:
        listing = directory.listing()
        files.unlink(path / HEAD_NAME)  # first: it would say that the newest segment is missing
        files.sync_directory(path)
        for file in (*listing.segments.values(), *listing.released.values(), *listing.unfinished):
            files.unlink(file)
        files.unlink(path / LOCK_NAME)
        for each in (directory.quarantine, path):
            with contextlib.suppress(OSError):  # it is not empty, or was not there
                each.rmdir()
        files.sync_directory(path.parent)
    except OSError as error:
        log.warning("journal_not_removed", directory=str(path), error=str(error))

"""What damage leaves for a person: the journal's quarantine. A disk that does not let it be kept stops nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Self

import structlog

from persistence_service.journal.directory import segment_name
from persistence_service.journal.format import BODY_OFFSET, Damage, Flaw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from persistence_service.journal.directory import JournalDirectory
    from persistence_service.journal.files import FileSource
    from persistence_service.journal.segment import Loss, Segment

log = structlog.get_logger(__name__)

_COPY_BYTES: Final = 1024 * 1024


def count_quarantined(directory: JournalDirectory) -> int:
    """How many files earlier runs left there; one for a quarantine that can't be looked into, or is no directory."""
    try:
        return len(directory.files.names(directory.quarantine))
    except FileNotFoundError:
        return 0
    except OSError as error:
        _tell(directory.quarantine, error)
        return 1


def set_aside(directory: JournalDirectory, path: Path) -> bool:
    """Whether the file could be moved there; it does no harm where it is, since no later file gets its name."""
    try:
        target = directory.set_aside(path)
    except OSError as error:
        _tell(path, error)
        return False
    log.error("journal_file_quarantined", file=path.name, moved_to=str(target))
    return True


def note_loss(directory: JournalDirectory, loss: Loss) -> None:
    """A loss that nothing else in the quarantine tells of is written down there: later starts do not find it any more."""
    name = f"{loss.segment:016d}.lost"
    try:
        directory.note_in_quarantine(name, f"{loss}\n".encode())
    except OSError as error:
        _tell(directory.quarantine / name, error)


def clear(directory: JournalDirectory, unfinished: Sequence[Path]) -> None:
    """What a dying process was creating is gone; what none can have created is set aside."""
    for path in unfinished:
        try:
            directory.files.unlink(path)
        except OSError:
            set_aside(directory, path)


class DamageCopy:
    """A sparse copy of a damaged segment in quarantine: headers and damaged regions at their own offsets, the rest holes.

    If it can't be made, the segment itself is to be kept.
    """

    def __init__(self, directory: JournalDirectory, segment: Segment, source: FileSource) -> None:
        self._directory = directory
        self._files = directory.files
        self._source = source
        self._path = directory.quarantine / f"{segment_name(segment.number)}.damage"
        self._fd: int | None = None
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        try:
            self._directory.make_quarantine()
            self._files.unlink(self._path)  # of an earlier attempt, which found the same
            self._fd = self._files.create(self._path)
        except OSError as error:
            self._error = error
        self.keep(Damage(0, BODY_OFFSET, Flaw.MARKER))
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._fd is not None:
            self._files.close(self._fd)

    def keep(self, damage: Damage) -> None:
        offset, end = damage.offset, min(damage.offset + damage.length, self._source.size)
        with self._noting_errors():
            while self._fd is not None and self._error is None and offset < end:
                part = self._source.read(offset, min(_COPY_BYTES, end - offset))
                self._files.write_all(self._fd, (part,), offset)
                offset += len(part)

    def finish(self) -> bool:
        """Whether all of it is safely there."""
        with self._noting_errors():
            if self._fd is not None and self._error is None:
                self._files.sync(self._fd)
                self._files.sync_directory(self._directory.quarantine)
                self._files.sync_directory(self._directory.path)
        if self._error is not None:
            _tell(self._path, self._error)
        return self._error is None

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = error


def _tell(path: Path, error: OSError) -> None:
    log.error("journal_quarantine_failed", file=path.name, error=str(error))

"""Whether everything is there that a journal's own records say there is; looked at without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persistence_service.errors import JournalVersionUnknown
from persistence_service.journal.files import FileSource
from persistence_service.journal.format import Record, scan
from persistence_service.journal.segment import Loss
from persistence_service.journal.survey import survey_of

if TYPE_CHECKING:
    from persistence_service.journal.directory import JournalDirectory
    from persistence_service.journal.segment import Segment


def missing(directory: JournalDirectory) -> list[Loss]:
    """Segments that are named and not there, and records that should stand at the end of one. Blocking.

    Raises:
        OSError: the directory cannot be read.
    """
    first = _missing(directory)
    if not first:
        return []
    again = set(
        _missing(directory)
    )  # a running journal may remove a segment between two looks, but not the same one twice
    return [loss for loss in first if loss in again]


def _missing(directory: JournalDirectory) -> list[Loss]:
    try:
        survey = survey_of(directory)
    except JournalVersionUnknown:  # which is found elsewhere, and nothing can be said of the rest
        return []
    short = (_short_end(directory, segment, last) for segment, last in survey.expected_last.items())
    return [*survey.losses, *(loss for loss in short if loss is not None)]


def _short_end(directory: JournalDirectory, segment: Segment, last: int) -> Loss | None:
    seen = segment.first_sequence - 1
    try:
        with FileSource(directory.files, segment.home.path) as source:
            for item in scan(source, segment.home.keys, end=source.size):
                if isinstance(item, Record) and not item.is_control:
                    seen = max(seen, item.sequence)
    except FileNotFoundError:  # stored and removed meanwhile
        return None
    return Loss(segment.number, seen + 1, last, "segment cut short") if seen < last else None

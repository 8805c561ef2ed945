"""Reading a journal that nobody writes, without changing anything."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from persistence_service.errors import JournalError
from persistence_service.journal.directory import JournalDirectory
from persistence_service.journal.files import Files
from persistence_service.journal.lock import kept_from_owners
from persistence_service.journal.replay import SegmentScan
from persistence_service.journal.survey import survey_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from persistence_service.journal.format import Record
    from persistence_service.journal.segment import Loss


class JournalReader:
    """Everything intact in a directory, as its owner would replay it. Within its block no process can become the owner.

    Every method blocks.
    """

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self.path = path
        self._directory = JournalDirectory(path, files or Files())
        self._stack = ExitStack()
        self._losses: dict[Loss, None] = {}

    def __enter__(self) -> Self:
        """Find out what there is.

        Raises:
            JournalLocked: a process owns it.
            JournalVersionUnknown: a later version wrote it.
            JournalError: it can't be read.
        """
        try:
            self._stack.enter_context(kept_from_owners(self.path))
            self._survey = survey_of(self._directory)
        except OSError as error:
            self._stack.close()
            raise JournalError(f"the journal {self.path} can't be read: {error.strerror}") from error
        except BaseException:
            self._stack.close()
            raise
        self._losses.update(dict.fromkeys(self._survey.losses))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def bytes(self) -> int:
        """What `records` reads."""
        return sum(segment.size for segment in self._survey.segments)

    @property
    def is_empty(self) -> bool:
        """Nothing says that there ever was a journal."""
        return not self._survey.segments and not self._losses

    @property
    def losses(self) -> list[Loss]:
        """What is gone, as far as it was read."""
        return list(self._losses)

    def records(self) -> Iterator[Record]:
        """Every intact record of a caller, by sequence; from the beginning with each call.

        Raises:
            JournalError: a segment can't be opened.
        """
        for segment in self._survey.segments:
            scan = SegmentScan(
                self._directory,
                segment,
                expected_last=self._survey.expected_last.get(segment),
                unlisted=segment in self._survey.unlisted,
                keeping=False,
            )
            try:
                while batch := scan.next_batch():
                    yield from batch
            except OSError as error:
                raise JournalError(
                    f"segment {segment.number} of {self.path} can't be read: {error.strerror}"
                ) from error
            finally:
                scan.close()
            self._losses.update(dict.fromkeys(scan.result.losses))

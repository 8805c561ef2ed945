"""The segments on disk as the writing thread sees them: creating, moving and removing their files."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from persistence_service.errors import JournalLocked
from persistence_service.journal.directory import Head
from persistence_service.journal.files import FileSource
from persistence_service.journal.format import (
    KIND_VOID,
    RECORD_OVERHEAD,
    Damage,
    Record,
    encode_record,
    read_header,
    scan,
)
from persistence_service.journal.segment import Home, Loss, Segment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from persistence_service.journal.directory import JournalDirectory, NewSegment
    from persistence_service.journal.lock import DirectoryLock
    from persistence_service.journal.survey import Survey

log = structlog.get_logger(__name__)

_COPY_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class ActiveSegment:
    """The segment that is being written; `unsynced` when the operating system alone has its last records."""

    segment: Segment
    fd: int
    mark_in_header_us: int
    unsynced: bool = False


class SegmentStore:
    """Which segments are live and how their files come and go. Used by one thread at a time; methods block.

    `next_sequence` and `high_water_us` are of what was written, `live` in order of creation with the active one last.
    """

    def __init__(
        self, directory: JournalDirectory, survey: Survey, clock: Callable[[], int], lock: DirectoryLock
    ) -> None:
        self.directory = directory
        self._lock = lock
        self.files = directory.files
        self.next_sequence = survey.next_sequence
        self.high_water_us = survey.high_water_us
        self.live = list(survey.segments)
        self._journal_id = survey.journal_id
        self._next_number = survey.next_number
        self._unlisted = set(survey.unlisted)
        self._released = list(survey.released)
        self._to_remove: list[Segment] = []
        self._told_missing: set[int] = set()
        self._clock = clock

    @property
    def used_bytes(self) -> int:
        return sum(segment.size for segment in self.live)

    @property
    def has_postponed_removals(self) -> bool:
        return bool(self._to_remove)

    def claim_directory(self) -> None:
        """The directory is there and this process its owner, even if somebody removed it meanwhile.

        Raises:
            OSError: it cannot be made, or it is another process's or another journal's by now.
        """
        self.files.make_directory(self.directory.path)
        try:
            if not self._lock.retake():
                return
        except JournalLocked as error:
            raise OSError(errno.EBUSY, str(error)) from error
        try:
            self._take_over()
        except BaseException:
            self._lock.release()
            raise
        log.error("journal_directory_made_again", directory=str(self.directory.path))

    def _take_over(self) -> None:
        """What is in a directory that came to be since this journal was opened is not overwritten, and not mixed with it."""
        found = self.directory.listing()
        for path in found.segments.values():
            with FileSource(self.files, path) as source:
                header = read_header(source).header
            if header is None or header.journal_id != self._journal_id:
                raise FileExistsError(errno.EEXIST, "the directory holds another journal now", str(path))
        self._next_number = max([self._next_number - 1, *found.segments, *found.released]) + 1
        self.files.sync_directory(self.directory.path.parent)

    def create(self) -> ActiveSegment:
        """A new, empty segment, on disk under its name.

        Raises:
            OSError: there is no new segment, and everything else is as before.
        """
        new = self._begin(self.next_sequence, [segment for segment in self.live if segment not in self._unlisted])
        path = self.directory.publish(new)
        home = Home(path, new.header.number, new.keys, body=new.size)
        segment = Segment(home, first_sequence=new.header.first_sequence, size=new.size)
        self.live.append(segment)
        self._after_publishing(new)
        return ActiveSegment(segment, new.fd, new.header.high_water_us)

    def relocate(self, abandoned: ActiveSegment) -> tuple[ActiveSegment, list[Loss]]:
        """The segment's written records are on disk in another file, under the same handle; the old file is not used again.

        They are read through the old descriptor, which is closed then, so that it does not matter whether the old file still
        has a name. What cannot be read back is answered as loss, and then the old file is kept in quarantine.

        Raises:
            OSError: nothing changed; the old file is still the only copy.
        """
        segment = abandoned.segment
        others = [other for other in self.live if other is not segment and other not in self._unlisted]
        new = self._begin(segment.first_sequence, others)
        body = new.size
        try:
            losses = self._copy(abandoned, new)
        except BaseException:
            self.directory.discard(new)
            raise
        path = self.directory.publish(new)
        old = segment.home
        segment.home = Home(path, new.header.number, new.keys, body=body, shift=old.shift + body - old.body)
        segment.size = new.size
        self.live.remove(segment)
        self.live.append(segment)
        self._after_publishing(new)
        self._drop_abandoned(old.path, keep=bool(losses))
        with contextlib.suppress(OSError):
            self.files.close(abandoned.fd)
        return ActiveSegment(segment, new.fd, new.header.high_water_us), losses + self._missing()

    def remove(self, segment: Segment, active: ActiveSegment | None) -> None:
        """The segment's room is free, now or, if the disk refuses, at a later attempt."""
        self._to_remove.append(segment)
        self.remove_postponed(active)

    def remove_postponed(self, active: ActiveSegment | None) -> None:
        """Another attempt at what could not be removed yet.

        Without an active segment the newest one stays: it alone carries the high-water mark.
        """
        if self._to_remove and not self._lock.is_in_place:
            log.warning(
                "journal_removal_postponed", error="the directory was removed, or is not this process's any more"
            )
            return
        newest = self.live[-1] if self.live and active is None else None
        for segment in [segment for segment in self._to_remove if segment is not newest]:
            try:
                self._released.append(self.directory.mark_released(segment.home.path, segment.number))
            except OSError as error:
                log.warning("journal_removal_postponed", segment=segment.number, error=str(error))
                return
            self._to_remove.remove(segment)
            self.live.remove(segment)
            self._unlisted.discard(segment)

    def leave_empty(self, active: ActiveSegment | None) -> ActiveSegment:
        """One empty segment with the high-water mark is all that is left. Nothing in the others is needed any more."""
        others = [segment for segment in self.live if active is None or segment is not active.segment]
        # A manifest that still names segments which were released must not outlive the notes of their release.
        is_alone = not others and not self._released
        if (
            active is None
            or not active.segment.is_empty
            or active.mark_in_header_us != self.high_water_us
            or not is_alone
        ):
            old, self.live = self.live, []
            previous = active
            try:
                active = self.create()
            except OSError:
                self.live = old
                raise
            if previous is not None:
                self.files.close(previous.fd)
            with contextlib.suppress(OSError):  # what stays is in no manifest; the next start replays and removes it
                for segment in old:
                    self.files.unlink(segment.home.path)
            self._to_remove.clear()
        self._forget_released()
        with contextlib.suppress(OSError):
            self.files.sync_directory(self.directory.path)
        return active

    def _begin(self, first_sequence: int, live: list[Segment]) -> NewSegment:
        number = self._next_number
        self._next_number += 1
        return self.directory.begin(
            journal_id=self._journal_id,
            number=number,
            first_sequence=first_sequence,
            created_at_us=self._clock(),
            high_water_us=self.high_water_us,
            live=[segment.manifest_entry() for segment in live],
        )

    def _after_publishing(self, new: NewSegment) -> None:
        try:
            self.directory.write_head(Head(self._journal_id, new.header.number, new.header.first_sequence))
        except OSError as error:
            log.warning("journal_head_not_written", segment=new.header.number, error=str(error))
        self._forget_released()

    def _forget_released(self) -> None:
        """A manifest without them is on disk, so the notes of their removal may go."""
        with contextlib.suppress(OSError):
            while self._released:
                self.files.unlink(self._released[-1])
                self._released.pop()

    def _drop_abandoned(self, path: Path, *, keep: bool) -> None:
        try:
            if keep:
                log.error("journal_segment_quarantined", moved_to=str(self.directory.set_aside(path)))
            else:
                self.files.unlink(path)
        except FileNotFoundError:  # somebody removed it, and there is nothing to keep
            return
        except OSError as error:  # the next start replays it again, which is harmless
            log.warning("journal_abandoned_file_left", file=path.name, error=str(error))

    def _missing(self) -> list[Loss]:
        """The segments that are needed and whose files somebody removed, each told once."""
        try:
            there = set(self.files.names(self.directory.path))
        except OSError:  # the next start finds out
            return []
        losses = [
            Loss(
                segment.number,
                segment.first_sequence,
                segment.last_sequence if segment.end_known else None,
                "segment missing",
            )
            for segment in self.live
            if segment.home.path.name not in there
            and segment.number not in self._told_missing
            and (segment.pinned or segment.holds)
        ]
        self._told_missing.update(loss.segment for loss in losses)
        _log_losses(losses)
        return losses

    def _copy(self, abandoned: ActiveSegment, new: NewSegment) -> list[Loss]:
        segment = abandoned.segment
        old = segment.home
        losses: list[Loss] = []
        buffers: list[bytes] = []
        pending = 0
        expected = segment.first_sequence
        with FileSource(self.files, abandoned.fd) as source:
            for item in scan(source, old.keys, start=old.body, end=segment.size):
                if isinstance(item, Record) and item.sequence > expected:
                    losses.append(Loss(segment.number, expected, item.sequence - 1, "unreadable after a failed write"))
                expected = item.sequence + 1 if isinstance(item, Record) else expected
                buffers += _encode_copy(new, item, expected, pending)
                pending += item.length
                if pending >= _COPY_BYTES:
                    new.size = self.files.write_all(new.fd, buffers, new.size)
                    buffers, pending = [], 0
        new.size = self.files.write_all(new.fd, buffers, new.size)
        if expected <= segment.last_sequence:
            losses.append(Loss(segment.number, expected, segment.last_sequence, "unreadable after a failed write"))
        _log_losses(losses)
        return losses


def _log_losses(losses: list[Loss]) -> None:
    for loss in losses:
        log.error(
            "journal_loss", segment=loss.segment, first=loss.first_sequence, last=loss.last_sequence, reason=loss.reason
        )


def _encode_copy(new: NewSegment, item: Record | Damage, sequence: int, pending: int) -> tuple[bytes, bytes]:
    """The record for its new place; for damage a void record of the same length, so that all offsets move alike."""
    if isinstance(item, Damage):
        payload = bytes(item.length - RECORD_OVERHEAD)
        head = encode_record(
            new.keys,
            new.size + pending,
            sequence=sequence,
            accepted_at_us=0,
            high_water_us=0,
            kind=KIND_VOID,
            items=0,
            payload=payload,
        )
        return head, payload
    head = encode_record(
        new.keys,
        new.size + pending,
        sequence=item.sequence,
        accepted_at_us=item.accepted_at_us,
        high_water_us=item.high_water_us,
        kind=item.kind,
        items=item.items,
        payload=item.payload,
    )
    return head, item.payload

"""What an earlier run left in the directory, and making it ready for a new segment."""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from persistence_service.errors import JournalVersionUnknown
from persistence_service.journal.evidence import clear, count_quarantined, note_loss, set_aside
from persistence_service.journal.files import FileSource
from persistence_service.journal.format import (
    BODY_OFFSET,
    FIRST_SEQUENCE,
    KIND_MANIFEST,
    VERSION,
    Damage,
    ManifestEntry,
    SegmentHeader,
    SegmentKeys,
    decode_manifest,
    read_header,
    scan,
)
from persistence_service.journal.segment import Home, Loss, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from persistence_service.journal.directory import Head, JournalDirectory, Listing
    from persistence_service.journal.files import Files

log = structlog.get_logger(__name__)

_HIGHEST: Final = 10**15
"""No journal comes to such numbers, of which a name has room for few more: whoever gave one to a file is not to set the next."""
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV})
"""A name that leads to nothing that could be read, now or later: links to nowhere, sockets."""


@dataclass(slots=True)
class Survey:
    """What the next run starts from.

    `segments` are in the order of their sequences and pinned until they have been replayed. `unlisted` are those that the
    newest manifest does not name, left over from a failed disk: what is intact in them is replayed, what is not is no loss.
    `expected_last` has the last sequence of a segment where a manifest tells it. `quarantined_files` were there before.
    """

    journal_id: bytes
    next_number: int
    next_sequence: int
    high_water_us: int
    segments: list[Segment] = field(default_factory=list)
    unlisted: set[Segment] = field(default_factory=set)
    expected_last: dict[Segment, int] = field(default_factory=dict)
    released: list[Path] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    torn_tails: int = 0
    quarantined_bytes: int = 0
    quarantined_files: int = 0

    @property
    def newest(self) -> Segment:
        """Of those that were found, the one with the highest number, under its own name if it stands there twice."""
        return max(reversed(self.segments), key=lambda segment: segment.number)


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    named: int
    header: SegmentHeader | None
    size: int
    bad_copies: tuple[int, ...] = ()

    @property
    def is_well_named(self) -> bool:
        return self.header is not None and self.header.number == self.named


@dataclass(slots=True)
class _Contents:
    """What the scan of the newest segment told; `tail` is the damage it ends with."""

    manifest: tuple[ManifestEntry, ...] | None = None
    damaged: bool = False
    tail: Damage | None = None

    @property
    def is_gone(self) -> bool:
        """Not even its manifest is there, with which it came into being: what is missing was on disk, and is no torn tail."""
        return self.manifest is None and not self.damaged and (self.tail is None or self.tail.offset == BODY_OFFSET)


@dataclass(slots=True)
class _Look:
    """A survey, and what is to be done before a new segment may be begun. `strange` are no segments of this journal."""

    survey: Survey
    listing: Listing
    strange: list[_Found] = field(default_factory=list)
    torn: Damage | None = None
    remarks: list[Callable[[], object]] = field(default_factory=list)


def survey_of(directory: JournalDirectory) -> Survey:
    """As `take_stock`, but nothing is changed.

    Raises:
        JournalVersionUnknown: an intact header is of another version.
        OSError: the disk refuses.
    """
    return _look(directory).survey


def take_stock(directory: JournalDirectory) -> Survey:
    """The directory is ready for a new segment: the last run's torn tail is cut off, unreadable segments are set aside.

    Raises:
        JournalVersionUnknown: an intact header is of another version; nothing was changed.
        OSError: the disk refuses.
    """
    look = _look(directory)
    survey = look.survey
    for remark in look.remarks:
        remark()
    if look.torn is not None:
        _cut(directory.files, survey.newest, look.torn)
    elif survey.segments:
        _put_on_disk(directory.files, survey.newest)
    survey.quarantined_files = count_quarantined(directory)
    clear(directory, look.listing.unfinished)
    for item in look.strange:
        if set_aside(directory, item.path):
            survey.quarantined_bytes += item.size
        else:
            survey.quarantined_files += 1
    for loss in survey.losses:
        log.error(
            "journal_loss", segment=loss.segment, first=loss.first_sequence, last=loss.last_sequence, reason=loss.reason
        )
        if loss.segment not in {item.named for item in look.strange}:
            note_loss(directory, loss)
    return survey


def _look(directory: JournalDirectory) -> _Look:
    listing = directory.listing()
    head = directory.read_head()
    found = [_look_at(directory.files, path, number) for number, path in sorted(listing.segments.items())]
    journal_id = _journal_id(head, found)
    ours = [item for item in found if item.header is not None and item.header.journal_id == journal_id]
    strange = [item for item in found if item not in ours]

    look = _Look(_start(journal_id, listing, head, ours), listing, strange)
    look.remarks.extend(remark for item in found for remark in _remarks(item))
    survey = look.survey
    if head is not None and head.journal_id != journal_id:
        survey.losses.append(Loss(head.number, head.first_sequence, None, "segment of another journal in its place"))
        head = None
    if survey.segments:
        newest = survey.newest
        contents = _read_newest(directory.files, survey, newest)
        is_last = newest.number >= max([head.number if head else 0, *(item.named for item in _unreadable(strange))])
        if contents.is_gone:
            survey.losses.append(Loss(newest.number, newest.first_sequence, None, "damaged"))
        elif is_last and contents.tail is not None:
            look.torn, contents.tail = contents.tail, None
            newest.size = look.torn.offset
            survey.torn_tails += 1
        newest.pinned = not newest.is_empty or contents.damaged or contents.tail is not None
        if contents.manifest is None and (len(survey.segments) > 1 or strange):
            look.remarks.append(partial(log.warning, "journal_manifest_unreadable", segment=newest.number))
        _compare(survey, contents.manifest, listing, strange, is_last=is_last)
    _compare_head(survey, head, listing, strange)
    survey.segments.sort(key=lambda segment: (segment.first_sequence, segment.number))
    return look


def _look_at(files: Files, path: Path, named: int) -> _Found:
    try:
        with FileSource(files, path) as source:
            read, size = read_header(source), source.size
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        return _Found(path, named, None, 0)
    header = read.header
    if header is not None and header.version != VERSION:
        raise JournalVersionUnknown(path, header.version)
    return _Found(path, named, header, size, read.bad_copies)


def _remarks(item: _Found) -> Iterator[Callable[[], object]]:
    if item.header is not None and item.bad_copies:
        yield partial(log.warning, "journal_header_copy_damaged", segment=item.named, copy=item.bad_copies[0])
    if item.header is not None and not item.is_well_named:
        yield partial(log.warning, "journal_segment_misnamed", file=item.path.name, segment=item.header.number)


def _journal_id(head: Head | None, found: list[_Found]) -> bytes:
    """The head's where a segment has it too or there are none; else that of the newest segment."""
    headers = [item.header for item in found if item.header is not None]
    if head is not None and (not headers or any(header.journal_id == head.journal_id for header in headers)):
        return head.journal_id
    if headers:
        return max(headers, key=lambda header: header.number).journal_id
    return secrets.token_bytes(16)


def _start(journal_id: bytes, listing: Listing, head: Head | None, ours: list[_Found]) -> Survey:
    headers = [item.header for item in ours if item.header is not None]
    named = (number for number in (*listing.segments, *listing.released) if number < _HIGHEST)
    used = [0, *named, *(header.number for header in headers), head.number if head else 0]
    first = [FIRST_SEQUENCE, *(header.first_sequence for header in headers), head.first_sequence if head else 0]
    survey = Survey(
        journal_id,
        next_number=max(used) + 1,
        next_sequence=max(first),
        high_water_us=max([0, *(header.high_water_us for header in headers)]),
        released=list(listing.released.values()),
    )
    for item in sorted(ours, key=lambda item: (item.header.number if item.header else 0, item.is_well_named)):
        if item.header is not None:
            home = Home(item.path, item.header.number, SegmentKeys.derive(item.header.secret))
            segment = Segment(home, first_sequence=item.header.first_sequence, size=item.size)
            segment.sealed = segment.pinned = True
            segment.end_known = False
            survey.segments.append(segment)
    return survey


def _read_newest(files: Files, survey: Survey, newest: Segment) -> _Contents:
    """Only here are records read before the replay: the newest segment alone tells what came after its header."""
    contents = _Contents()
    newest.end_known = True
    with FileSource(files, newest.home.path) as source:
        for item in scan(source, newest.home.keys, end=source.size):
            if isinstance(item, Damage):
                contents.damaged = contents.damaged or contents.tail is not None
                contents.tail = item
                continue
            contents.damaged = contents.damaged or contents.tail is not None
            contents.tail = None
            survey.high_water_us = max(survey.high_water_us, item.high_water_us)
            if item.kind == KIND_MANIFEST:
                contents.manifest = decode_manifest(item.payload)
            elif not item.is_control:
                survey.high_water_us = max(survey.high_water_us, item.accepted_at_us)
                newest.last_sequence = max(newest.last_sequence, item.sequence)
                survey.next_sequence = max(survey.next_sequence, item.sequence + 1)
    return contents


def _cut(files: Files, newest: Segment, torn: Damage) -> None:
    files.truncate(newest.home.path, torn.offset)
    log.warning(
        "journal_torn_tail_truncated",
        segment=newest.number,
        offset=torn.offset,
        bytes=torn.length,
        sequence=newest.last_sequence + 1,
    )


def _put_on_disk(files: Files, newest: Segment) -> None:
    """A process that was killed may have left the end to the kernel alone, and the next manifest says that it is there."""
    try:
        fd = files.open_existing(newest.home.path)
        try:
            files.sync(fd)
        finally:
            files.close(fd)
    except OSError as error:
        newest.end_known = False
        log.warning("journal_end_not_on_disk", segment=newest.number, error=str(error))


def _compare(
    survey: Survey,
    manifest: tuple[ManifestEntry, ...] | None,
    listing: Listing,
    strange: list[_Found],
    *,
    is_last: bool,
) -> None:
    """What the newest manifest names against what is there."""
    newest = survey.newest
    if manifest is None:
        unreadable = (item.named for item in _unreadable(strange) if item.named < newest.number)
        survey.losses.extend(Loss(number, None, None, "segment unreadable") for number in unreadable)
        return
    readable = {segment.number: segment for segment in survey.segments}
    entries = {entry.number: entry for entry in manifest}
    survey.unlisted = {
        segment
        for segment in survey.segments
        if readable[segment.number] is not segment or (segment is not newest and segment.number not in entries)
    }
    aside = {item.named for item in strange}
    for entry in manifest:
        last = entry.last_sequence
        survey.next_sequence = max(survey.next_sequence, (last or 0) + 1)
        segment = readable.get(entry.number)
        if segment is not None:
            if last is not None:
                survey.expected_last[segment] = last
                segment.last_sequence = max(segment.last_sequence, last)
                segment.end_known = True
        elif entry.number in listing.released or (last is not None and last < entry.first_sequence):
            continue
        elif entry.number in aside:
            survey.losses.append(Loss(entry.number, entry.first_sequence, last, "segment unreadable"))
        elif is_last:  # an older manifest would also name segments that were removed on purpose since
            survey.losses.append(Loss(entry.number, entry.first_sequence, last, "segment missing"))


def _unreadable(strange: list[_Found]) -> list[_Found]:
    """Those that may have been ours."""
    return [item for item in strange if item.header is None]


def _compare_head(survey: Survey, head: Head | None, listing: Listing, strange: list[_Found]) -> None:
    """Segments that no manifest tells of: the newest one, and unreadable ones after the newest readable one.

    A head that is older than what is there tells nothing: it could not be written for a later one.
    """
    told = {loss.segment for loss in survey.losses}
    newest = max((segment.number for segment in survey.segments), default=0)
    last = head.number if head is not None else 0
    replaced = [item for item in strange if item.named == last or item in _unreadable(strange)]
    for item in replaced:
        if item.named not in told and item.named > newest:
            first = head.first_sequence if head is not None and item.named == last else None
            survey.losses.append(Loss(item.named, first, None, "segment unreadable"))
    there = {newest, *listing.released, *(item.named for item in replaced)}
    if head is not None and last > max(there):
        survey.losses.append(Loss(last, head.first_sequence, None, "segment missing"))

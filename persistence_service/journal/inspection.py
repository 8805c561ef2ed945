"""Looking into a journal's directory without owning or changing it."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from persistence_service.journal.completeness import missing
from persistence_service.journal.directory import JournalDirectory, segment_name
from persistence_service.journal.files import Files, FileSource
from persistence_service.journal.format import (
    BODY_OFFSET,
    VERSION,
    Damage,
    Flaw,
    Record,
    SegmentHeader,
    SegmentKeys,
    read_header,
    scan,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment as it was when it was read.

    `records`, `items` and `kinds` count callers' records. `problem` says why nothing of it could be read, else None. `tail`
    is damage that reaches the end of the newest segment: what a crash left, or what a live journal is writing just now.
    """

    file: str
    bytes: int
    header: SegmentHeader | None
    problem: str | None = None
    bad_header_copies: tuple[int, ...] = ()
    records: int = 0
    items: int = 0
    payload_bytes: int = 0
    kinds: dict[int, int] = field(default_factory=dict)
    first_sequence: int | None = None
    last_sequence: int | None = None
    first_accepted_us: int | None = None
    last_accepted_us: int | None = None
    damage: tuple[Damage, ...] = ()
    missing_sequences: int = 0
    tail: Damage | None = None


@dataclass(frozen=True, slots=True)
class JournalReport:
    """A directory as `inspect` saw it; a live journal may have gone on meanwhile."""

    directory: Path
    segments: tuple[SegmentReport, ...]
    quarantined_files: int
    quarantined_bytes: int

    @property
    def records(self) -> int:
        return sum(segment.records for segment in self.segments)

    @property
    def items(self) -> int:
        return sum(segment.items for segment in self.segments)

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)

    @property
    def kinds(self) -> dict[int, int]:
        total: Counter[int] = Counter()
        for segment in self.segments:
            total.update(segment.kinds)
        return dict(sorted(total.items()))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written, for a person to read."""

    file: str
    message: str


def inspect(directory: Path, files: Files | None = None) -> JournalReport:
    """What is in the directory, every record checked; needs no lock and changes nothing. Blocking.

    Raises:
        OSError: the directory cannot be read.
    """
    files = files or Files()
    place = JournalDirectory(directory, files)
    segments = place.listing().segments
    newest = max(segments, default=0)
    reports = [_inspect_segment(files, path, is_newest=number == newest) for number, path in sorted(segments.items())]
    sizes = _quarantined(place)
    return JournalReport(directory, tuple(report for report in reports if report), len(sizes), sum(sizes))


def verify(directory: Path, files: Files | None = None) -> tuple[Finding, ...]:
    """Every finding in the directory, none when all of it is as it was written; a torn tail is one. Blocking.

    Raises:
        OSError: the directory cannot be read.
    """
    place = JournalDirectory(directory, files or Files())
    segments = inspect(directory, files).segments
    found = [finding for segment in segments for finding in _findings(segment)]
    unreadable = {segment.file for segment in segments if segment.problem is not None}
    gone = [loss for loss in missing(place) if segment_name(loss.segment) not in unreadable]
    return (*found, *(Finding(segment_name(loss.segment), f"missing: {loss}") for loss in gone))


def _findings(segment: SegmentReport) -> Sequence[Finding]:
    found = []
    if segment.problem is not None:
        found.append(f"cannot be read: {segment.problem}")
    elif segment.bad_header_copies:
        found.append(f"copy {segment.bad_header_copies[0]} of the header is damaged; the other one is intact")
    if segment.header is not None and segment.problem is None and segment_name(segment.header.number) != segment.file:
        found.append(f"it is segment {segment.header.number}, by its header")
    found += [f"{damage.length} damaged bytes at {damage.offset} ({damage.reason})" for damage in segment.damage]
    if segment.missing_sequences:
        found.append(f"{segment.missing_sequences} record(s) are missing between intact ones")
    if segment.tail is not None:
        found.append(f"torn tail of {segment.tail.length} bytes at {segment.tail.offset} ({segment.tail.reason})")
    return [Finding(segment.file, message) for message in found]


def _inspect_segment(files: Files, path: Path, *, is_newest: bool) -> SegmentReport | None:
    try:
        source = FileSource(files, path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():  # a live journal has removed it meanwhile
            return None
        return SegmentReport(path.name, 0, None, error.strerror or type(error).__name__)
    with source:
        read = read_header(source)
        if read.header is None:
            return SegmentReport(path.name, source.size, None, "both copies of its header are damaged")
        if read.header.version != VERSION:
            return SegmentReport(path.name, source.size, read.header, f"format {read.header.version} is not known here")
        tally = _Tally(read.header.first_sequence)
        for item in scan(source, SegmentKeys.derive(read.header.secret), end=source.size):
            tally.take(item)
        tail: Damage | None = None
        if is_newest and tally.damage and tally.damage[-1].offset + tally.damage[-1].length == source.size:
            tail = tally.damage.pop()
        elif source.size < BODY_OFFSET:
            tally.damage.append(Damage(source.size, 0, Flaw.CUT))
        return SegmentReport(
            path.name,
            source.size,
            read.header,
            bad_header_copies=read.bad_copies,
            records=tally.records,
            items=tally.items,
            payload_bytes=tally.payload_bytes,
            kinds=dict(sorted(tally.kinds.items())),
            first_sequence=tally.first_sequence,
            last_sequence=tally.last_sequence,
            first_accepted_us=tally.first_accepted_us,
            last_accepted_us=tally.last_accepted_us,
            damage=tuple(tally.damage),
            missing_sequences=tally.missing,
            tail=tail,
        )


class _Tally:
    """Counts what a scan yields."""

    def __init__(self, first_sequence: int) -> None:
        self.records = self.items = self.payload_bytes = self.missing = 0
        self.kinds: Counter[int] = Counter()
        self.first_sequence: int | None = None
        self.last_sequence: int | None = None
        self.first_accepted_us: int | None = None
        self.last_accepted_us: int | None = None
        self.damage: list[Damage] = []
        self._expected = first_sequence

    def take(self, item: Record | Damage) -> None:
        if isinstance(item, Damage):
            self.damage.append(item)
        elif not item.is_control:
            self.records += 1
            self.items += item.items
            self.payload_bytes += len(item.payload)
            self.kinds[item.kind] += 1
            self.missing += max(0, item.sequence - self._expected)
            self._expected = max(self._expected, item.sequence + 1)
            if self.first_sequence is None:
                self.first_sequence, self.first_accepted_us = item.sequence, item.accepted_at_us
            self.last_sequence, self.last_accepted_us = item.sequence, item.accepted_at_us


def _quarantined(place: JournalDirectory) -> list[int]:
    try:
        names = place.files.names(place.quarantine)
    except OSError:  # there is none, or nobody can tell; what the segments hold is the question here
        return []
    return [(place.quarantine / name).lstat().st_size for name in names]


def newest_stamp(directory: Path, files: Files | None = None) -> int:
    """The newest time stamp in the directory's journal, µs since 1970, 0 without any; changes nothing. Blocking.

    Raises:
        OSError: the directory cannot be read.
    """
    files = files or Files()
    try:
        segments = JournalDirectory(directory, files).listing().segments
    except FileNotFoundError:
        return 0
    newest, stamp = max(segments, default=0), 0
    for number, path in segments.items():
        with contextlib.suppress(OSError), FileSource(files, path) as source:  # gone meanwhile, or never a segment
            header = read_header(source).header
            if header is None or header.version != VERSION:
                continue
            stamp = max(stamp, header.high_water_us)
            if number == newest:  # a header tells of all that was before its segment
                found = scan(source, SegmentKeys.derive(header.secret), end=source.size)
                marks = (max(item.high_water_us, item.accepted_at_us) for item in found if isinstance(item, Record))
                stamp = max([stamp, *marks])
    return stamp

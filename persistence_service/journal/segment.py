"""What the journal hands out: segments, positions in them, and what it found and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from persistence_service.journal.format import BODY_OFFSET, ManifestEntry

if TYPE_CHECKING:
    from pathlib import Path

    from persistence_service.journal.format import SegmentKeys


@dataclass(frozen=True, slots=True)
class Home:
    """Where a segment's bytes are now: its file, its keys, where its records begin, and what to add to offsets handed out."""

    path: Path
    number: int
    keys: SegmentKeys
    body: int = BODY_OFFSET
    shift: int = 0


class Segment:
    """A handle with identity: it stays the same when the journal moves the records to another file.

    Only the journal changes it. `holds` counts the items in it that are not stored yet; once it is sealed, nothing holds it
    and no replay has it still to read (`pinned`), its file is removed.
    """

    __slots__ = (
        "__weakref__",
        "end_known",
        "first_accepted_us",
        "first_sequence",
        "holds",
        "home",
        "last_sequence",
        "pinned",
        "removing",
        "sealed",
        "size",
    )

    def __init__(self, home: Home, *, first_sequence: int, size: int) -> None:
        self.home = home
        self.first_sequence = first_sequence
        self.last_sequence = first_sequence - 1
        self.end_known = True
        self.size = size
        self.holds = 0
        self.sealed = False
        self.pinned = False
        self.removing = False
        self.first_accepted_us: int | None = None

    @property
    def number(self) -> int:
        return self.home.number

    @property
    def is_empty(self) -> bool:
        """No record of a caller is in it."""
        return self.last_sequence < self.first_sequence

    @property
    def is_removable(self) -> bool:
        return self.sealed and not self.pinned and not self.removing and self.holds == 0

    def manifest_entry(self) -> ManifestEntry:
        return ManifestEntry(self.number, self.first_sequence, self.last_sequence if self.end_known else None)

    def __repr__(self) -> str:
        return f"<Segment {self.number} sequences {self.first_sequence}..{self.last_sequence} holds {self.holds}>"


class Position(NamedTuple):
    """Where a record is: enough to read it again and to release its segment. `length` is the record's, header included."""

    segment: Segment
    offset: int
    length: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """A record of an earlier run; the journal holds `items` on its segment until the consumer releases them."""

    position: Position
    kind: int
    items: int
    accepted_at_us: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that were acknowledged, or may have been, and cannot be read any more.

    Sequences from `first_sequence` to `last_sequence`, both included; an end that nothing tells is None.
    """

    segment: int
    first_sequence: int | None
    last_sequence: int | None
    reason: str

    def __str__(self) -> str:
        first, last = ("?" if end is None else str(end) for end in (self.first_sequence, self.last_sequence))
        return f"records {first} to {last} of segment {self.segment}: {self.reason}"


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Counters since open and the state now.

    `bytes` is what the segments take on disk, `pending_bytes` what waits to be written. `failing` says why the last attempt
    to write failed, None while writing works; `full` that there is
    no room, for the last record that was refused or for any. `quarantined_files` are those that earlier runs left, until a
    person removes them. `losses` holds the first findings only, with
    `lost_ranges` counting all. `oldest_unstored_us` is when the oldest record of the oldest held segment was accepted: not
    later than the oldest unstored record.
    """

    bytes: int
    segments: int
    unstored_items: int
    pending_bytes: int
    appended_records: int
    appended_bytes: int
    groups: int
    fsyncs: int
    fsync_seconds_total: float
    failing: str | None
    full: bool
    replaying: bool
    torn_tails: int
    damaged_regions: int
    quarantined_bytes: int
    quarantined_files: int
    lost_ranges: int
    losses: tuple[Loss, ...]
    oldest_unstored_us: int | None

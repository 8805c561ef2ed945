"""The bytes of a journal segment: pure functions, no I/O. `docs/journal-format.md` is the same thing for people.

A segment is two copies of its header and then records. What makes a record trustworthy is not stored in the clear where a
payload could imitate it: the marker and the checksum's key come from the segment's random secret, and the checksum also
covers the offset at which the record stands. So a payload that contains the image of a record, even of one of the same
segment, is never taken for a record.

The checksum is keyed BLAKE2b (RFC 7693), 16 bytes.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC: Final = b"\x89PSJ\r\n\x1a\n"
VERSION: Final = 1

HEADER_BYTES: Final = 96
HEADER_OFFSETS: Final = (0, 4096)
"""Where the two copies stand: in different sectors and pages, so that one bad page leaves the other."""
BODY_OFFSET: Final = HEADER_OFFSETS[1] + HEADER_BYTES

RECORD_OVERHEAD: Final = 64
MAX_PAYLOAD_BYTES: Final = 256 * 1024 * 1024
FIRST_SEQUENCE: Final = 1

MAX_CALLER_KIND: Final = 199
KIND_MANIFEST: Final = 200
KIND_VOID: Final = 201

WINDOW_BYTES: Final = 1024 * 1024

_HEADER = struct.Struct(">8sII16sQQqq16s")
_RECORD = struct.Struct(">8sIIQqqHHI")
_OFFSET = struct.Struct(">Q")
_MANIFEST_ENTRY = struct.Struct(">QQQ")
_UNKNOWN_SEQUENCE: Final = 2**64 - 1
_MARKER_BYTES: Final = 8
_CHECKSUM_BYTES: Final = 16
_CHECKSUM_AT: Final = RECORD_OVERHEAD - _CHECKSUM_BYTES


class Source(Protocol):
    """Bytes that can be read anywhere; a read at or over the end answers with what there is."""

    def read(self, offset: int, length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says about itself. Times are µs since the epoch.

    `high_water_us` is the newest time stamp handed out before the segment began; `first_sequence` is the sequence of its
    first record of a caller.
    """

    journal_id: bytes
    number: int
    first_sequence: int
    created_at_us: int
    high_water_us: int
    secret: bytes
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class HeaderRead:
    """The header that both copies, or the intact one of them, give; None when neither is intact."""

    header: SegmentHeader | None
    bad_copies: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SegmentKeys:
    """What a segment's secret is used for: the marker of its records, and the keyed hash they are checked with."""

    marker: bytes
    hasher: blake2b

    @classmethod
    def derive(cls, secret: bytes) -> Self:
        marker = blake2b(secret, digest_size=_MARKER_BYTES, person=b"psj marker").digest()
        key = blake2b(secret, digest_size=32, person=b"psj record").digest()
        return cls(marker, blake2b(key=key, digest_size=_CHECKSUM_BYTES))

    def checksum(self, offset: int, head: bytes, payload: bytes) -> bytes:
        hasher = self.hasher.copy()
        hasher.update(_OFFSET.pack(offset) + head)
        hasher.update(payload)
        return hasher.digest()


@dataclass(frozen=True, slots=True)
class Record:
    """An intact record: it was written at this offset of this segment, exactly so. `length` is all of it, header included."""

    offset: int
    length: int
    sequence: int
    accepted_at_us: int
    high_water_us: int
    kind: int
    items: int
    payload: bytes

    @property
    def is_control(self) -> bool:
        return self.kind > MAX_CALLER_KIND


class Flaw(StrEnum):
    """Why the first bytes of a damaged region are not a record."""

    MARKER = "marker"
    CUT = "cut"
    CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True)
class Damage:
    """A region without an intact record; it ends at the next intact record, or at the end of what was scanned."""

    offset: int
    length: int
    reason: Flaw


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A segment that was live when the manifest was written; `last_sequence` below `first_sequence`: without a record."""

    number: int
    first_sequence: int
    last_sequence: int | None


def encode_header(header: SegmentHeader) -> bytes:
    """The first `BODY_OFFSET` bytes of a segment: both copies and the zeros between them."""
    fields = _HEADER.pack(
        MAGIC,
        header.version,
        0,
        header.journal_id,
        header.number,
        header.first_sequence,
        header.created_at_us,
        header.high_water_us,
        header.secret,
    )
    copy = fields + _header_checksum(fields)
    return copy.ljust(HEADER_OFFSETS[1], b"\0") + copy


def decode_header(copy: bytes) -> SegmentHeader | None:
    """The header in one copy, of whatever version, or None when the copy is damaged.

    The layout of these 96 bytes is the same in every version, so that an unknown version can be told from damage.
    """
    if len(copy) != HEADER_BYTES or copy[_HEADER.size :] != _header_checksum(copy[: _HEADER.size]):
        return None
    magic, version, _reserved, journal_id, number, first, created, mark, secret = _HEADER.unpack(copy[: _HEADER.size])
    if magic != MAGIC:
        return None
    return SegmentHeader(journal_id, number, first, created, mark, secret, version)


def read_header(source: Source) -> HeaderRead:
    """Both copies read and checked; the first intact one counts."""
    copies = [decode_header(source.read(offset, HEADER_BYTES)) for offset in HEADER_OFFSETS]
    bad = tuple(index for index, copy in enumerate(copies) if copy is None)
    return HeaderRead(next((copy for copy in copies if copy is not None), None), bad)


def encode_record(
    keys: SegmentKeys,
    offset: int,
    *,
    sequence: int,
    accepted_at_us: int,
    high_water_us: int,
    kind: int,
    items: int,
    payload: bytes,
) -> bytes:
    """The 64 bytes that go before `payload` when the record is written at `offset`; valid nowhere else."""
    head = _RECORD.pack(keys.marker, len(payload), items, sequence, accepted_at_us, high_water_us, kind, 0, 0)
    return head + keys.checksum(offset, head[_MARKER_BYTES:], payload)


def encode_manifest(entries: tuple[ManifestEntry, ...]) -> bytes:
    """The payload of a manifest."""
    return b"".join(
        _MANIFEST_ENTRY.pack(
            entry.number,
            entry.first_sequence,
            _UNKNOWN_SEQUENCE if entry.last_sequence is None else entry.last_sequence,
        )
        for entry in entries
    )


def decode_manifest(payload: bytes) -> tuple[ManifestEntry, ...]:
    """The entries of an intact manifest; what is over a multiple of an entry's length is ignored."""
    whole = len(payload) - len(payload) % _MANIFEST_ENTRY.size
    return tuple(
        ManifestEntry(number, first, None if last == _UNKNOWN_SEQUENCE else last)
        for number, first, last in _MANIFEST_ENTRY.iter_unpack(payload[:whole])
    )


def scan(source: Source, keys: SegmentKeys, *, end: int, start: int = BODY_OFFSET) -> Iterator[Record | Damage]:
    """Every intact record between `start` and `end` in order, and every region between them that holds none.

    Never yields a record that was not written there, and never raises for what the bytes are; two Damages are never
    neighbours. Memory is bounded by the longest record plus `WINDOW_BYTES`.
    """
    window = _Window(source, end)
    position = start
    damaged_from: int | None = None
    reason = Flaw.MARKER
    while position < end:
        found = _record_at(window, keys, position)
        if isinstance(found, Record):
            if damaged_from is not None:
                yield Damage(damaged_from, position - damaged_from, reason)
                damaged_from = None
            yield found
            position += found.length
            continue
        if damaged_from is None:
            damaged_from, reason = position, found
        position = window.find(keys.marker, position + 1)
    if damaged_from is not None:
        yield Damage(damaged_from, end - damaged_from, reason)


def records_at(source: Source, keys: SegmentKeys, offsets: Iterable[int], *, end: int) -> Iterator[Record | Flaw]:
    """The record at each of the ascending `offsets`, or why there is none; what lies between them is read over up to `end`."""
    window = _Window(source, end)
    return (_record_at(window, keys, offset) for offset in offsets)


def _record_at(window: _Window, keys: SegmentKeys, offset: int) -> Record | Flaw:
    head = window.read(offset, RECORD_OVERHEAD)
    if head[:_MARKER_BYTES] != keys.marker:
        return Flaw.MARKER
    if len(head) < RECORD_OVERHEAD:
        return Flaw.CUT
    _marker, length, items, sequence, accepted_at, mark, kind, _flags, _reserved = _RECORD.unpack(head[:_CHECKSUM_AT])
    if length > MAX_PAYLOAD_BYTES or offset + RECORD_OVERHEAD + length > window.end:
        return Flaw.CUT
    payload = window.read(offset + RECORD_OVERHEAD, length)
    expected = keys.checksum(offset, head[_MARKER_BYTES:_CHECKSUM_AT], payload)
    if len(payload) < length or not hmac.compare_digest(head[_CHECKSUM_AT:], expected):
        return Flaw.CHECKSUM
    return Record(offset, RECORD_OVERHEAD + length, sequence, accepted_at, mark, kind, items, payload)


def _header_checksum(fields: bytes) -> bytes:
    return blake2b(fields, digest_size=_CHECKSUM_BYTES, person=b"psj header").digest()


class _Window:
    """A forward reader over a source that keeps one stretch of it in memory."""

    def __init__(self, source: Source, end: int, window_bytes: int = WINDOW_BYTES) -> None:
        self.end = end
        self._source = source
        self._window_bytes = window_bytes
        self._start = 0
        self._buffer = b""

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.end - offset)
        if length > self._window_bytes:
            return self._source.read(offset, length)
        if offset < self._start or offset + length > self._start + len(self._buffer):
            self._start = offset
            self._buffer = self._source.read(offset, min(self._window_bytes, self.end - offset))
        at = offset - self._start
        return self._buffer[at : at + length]

    def find(self, needle: bytes, offset: int) -> int:
        """Where `needle` next begins at or after `offset`; `end` when nowhere."""
        while offset + len(needle) <= self.end:
            self.read(offset, len(needle))
            at = self._buffer.find(needle, offset - self._start)
            if at >= 0:
                return self._start + at
            searched = self._start + len(self._buffer) - len(needle) + 1
            if searched <= offset:
                break
            offset = searched
        return self.end

"""Segments built in memory, for the laws of the format."""

from collections.abc import Sequence
from dataclasses import dataclass

from persistence_service.journal.format import (
    BODY_OFFSET,
    Damage,
    Record,
    SegmentHeader,
    SegmentKeys,
    encode_header,
    encode_record,
    scan,
)

HEADER = SegmentHeader(
    journal_id=bytes(range(16)),
    number=7,
    first_sequence=100,
    created_at_us=1_700_000_000_000_000,
    high_water_us=1_700_000_000_000_123,
    secret=bytes(range(16, 32)),
)
KEYS = SegmentKeys.derive(HEADER.secret)


@dataclass
class BytesSource:
    """Bytes in memory as a `format.Source`."""

    data: bytes

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + max(0, length)]


def record_bytes(offset: int, payload: bytes, sequence: int = 100) -> bytes:
    head = encode_record(
        KEYS,
        offset,
        sequence=sequence,
        accepted_at_us=1_700_000_000_000_200 + sequence,
        high_water_us=1_700_000_000_000_300 + sequence,
        kind=1,
        items=3,
        payload=payload,
    )
    return head + payload


def segment_bytes(payloads: Sequence[bytes]) -> tuple[bytes, list[Record]]:
    """A whole segment and the records that a reader must find in it."""
    data = encode_header(HEADER)
    records = []
    for sequence, payload in enumerate(payloads, start=100):
        image = record_bytes(len(data), payload, sequence)
        accepted, mark = 1_700_000_000_000_200 + sequence, 1_700_000_000_000_300 + sequence
        records.append(Record(len(data), len(image), sequence, accepted, mark, 1, 3, payload))
        data += image
    return data, records


def scan_bytes(data: bytes, keys: SegmentKeys = KEYS, start: int = BODY_OFFSET) -> list[Record | Damage]:
    return list(scan(BytesSource(data), keys, end=len(data), start=start))


def records_of(found: Sequence[Record | Damage]) -> list[Record]:
    return [item for item in found if isinstance(item, Record)]


def damage_of(found: Sequence[Record | Damage]) -> list[Damage]:
    return [item for item in found if isinstance(item, Damage)]

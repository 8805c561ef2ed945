"""The laws of a segment's bytes: what is read was written, and damage costs what it touches and no more."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.journal import format as fmt
from persistence_service.journal.format import (
    BODY_OFFSET,
    HEADER_BYTES,
    HEADER_OFFSETS,
    RECORD_OVERHEAD,
    Flaw,
    ManifestEntry,
    Record,
    SegmentKeys,
    decode_manifest,
    encode_header,
    encode_manifest,
    read_header,
    records_at,
    scan,
)
from tests.unit.journal.images import (
    HEADER,
    KEYS,
    BytesSource,
    damage_of,
    record_bytes,
    records_of,
    scan_bytes,
    segment_bytes,
)

payload_lists = st.lists(st.binary(max_size=200), min_size=1, max_size=8)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(payload_lists)
def test_what_was_written_is_read_back_exactly(payloads: list[bytes]) -> None:
    data, records = segment_bytes(payloads)
    assert scan_bytes(data) == records
    assert read_header(BytesSource(data)).header == HEADER


@given(payload_lists, st.data())
def test_a_cut_at_any_byte_loses_only_the_cut_record_and_those_after(
    payloads: list[bytes], data: st.DataObject
) -> None:
    image, records = segment_bytes(payloads)
    cut = data.draw(st.integers(0, len(image)))
    found = scan_bytes(image[:cut])
    assert records_of(found) == [record for record in records if record.offset + record.length <= cut]
    assert len(damage_of(found)) <= 1
    for damage in damage_of(found):
        assert damage.offset + damage.length == cut
        assert damage.offset in {record.offset for record in records}


@given(payload_lists, st.data())
def test_one_flipped_bit_never_yields_an_unwritten_record_and_loses_one_at_most(
    payloads: list[bytes], data: st.DataObject
) -> None:
    image, records = segment_bytes(payloads)
    bit = data.draw(
        st.one_of(
            st.integers(BODY_OFFSET * 8, len(image) * 8 - 1),
            st.integers(0, HEADER_BYTES * 8 - 1),
            st.integers(HEADER_OFFSETS[1] * 8, BODY_OFFSET * 8 - 1),
        )
    )
    damaged = flip(image, bit)
    header = read_header(BytesSource(damaged)).header
    assert header == HEADER
    found = scan_bytes(damaged, SegmentKeys.derive(header.secret))
    touched = [record for record in records if record.offset <= bit // 8 < record.offset + record.length]
    assert records_of(found) == [record for record in records if record not in touched]
    assert [(damage.offset, damage.length) for damage in damage_of(found)] == [
        (record.offset, record.length) for record in touched
    ]


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 200), st.booleans())
def test_a_payload_that_embeds_records_of_the_same_segment_is_never_taken_for_one(
    inner: bytes, prefix: bytes, claimed_offset: int, spoil_length: bool
) -> None:
    # The worst case: whoever made the payload knows the segment's secret, but not where the payload will stand.
    forged = record_bytes(BODY_OFFSET + claimed_offset, inner, 4711)
    where = BODY_OFFSET + RECORD_OVERHEAD + len(prefix)
    if where == BODY_OFFSET + claimed_offset:
        prefix += b"."
    image, records = segment_bytes([prefix + forged, b"after"])
    assert scan_bytes(image) == records
    spoilt = flip(image, (BODY_OFFSET + (9 if spoil_length else 50)) * 8)
    found = scan_bytes(spoilt)
    assert records_of(found) == records[1:]


@given(st.binary(max_size=3000))
def test_arbitrary_bytes_yield_damage_and_nothing_else(garbage: bytes) -> None:
    data = encode_header(HEADER) + garbage
    found = scan_bytes(data)
    assert not records_of(found)
    assert sum(damage.length for damage in damage_of(found)) == len(garbage)
    assert read_header(BytesSource(garbage)).header is None


@given(st.lists(st.one_of(st.binary(max_size=90), st.just(KEYS.marker)), max_size=12))
def test_garbage_full_of_true_markers_yields_damage_and_nothing_else(parts: list[bytes]) -> None:
    garbage = b"".join(parts)
    found = scan_bytes(encode_header(HEADER) + garbage)
    assert not records_of(found)
    assert len(damage_of(found)) == bool(garbage)


@given(payload_lists, payload_lists, st.binary(min_size=1, max_size=200))
def test_intact_records_on_both_sides_of_damage_are_found(
    before: list[bytes], after: list[bytes], garbage: bytes
) -> None:
    image, records = segment_bytes([*before, garbage, *after])
    bad = records[len(before)]
    spoilt = image[: bad.offset] + bytes(bad.length) + image[bad.offset + bad.length :]
    assert records_of(scan_bytes(spoilt)) == [record for record in records if record is not bad]


@given(payload_lists, st.integers(1, 300))
def test_the_size_of_the_window_changes_nothing(payloads: list[bytes], window: int) -> None:
    image, _ = segment_bytes(payloads)
    spoilt = flip(image, (BODY_OFFSET + 20) * 8)
    expected = scan_bytes(spoilt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt._Window.__init__, "__defaults__", (max(window, RECORD_OVERHEAD),))
        assert scan_bytes(spoilt) == expected


def test_a_record_elsewhere_than_it_was_written_is_damage() -> None:
    image, _ = segment_bytes([b"one", b"two"])
    moved = image[:BODY_OFFSET] + image[BODY_OFFSET + RECORD_OVERHEAD + 3 :]
    assert not records_of(scan_bytes(moved))


@pytest.mark.parametrize(
    "spoilt_byte,reason", [(0, Flaw.MARKER), (8, Flaw.CUT), (11, Flaw.CHECKSUM), (30, Flaw.CHECKSUM)]
)
def test_damage_says_what_is_wrong_with_its_first_bytes(spoilt_byte: int, reason: Flaw) -> None:
    image, _ = segment_bytes([b"x" * 300, b"after"])
    found = scan_bytes(flip(image, (BODY_OFFSET + spoilt_byte) * 8))
    assert [damage.reason for damage in damage_of(found)] == [reason]


def test_a_header_is_read_from_either_copy() -> None:
    image = encode_header(HEADER)
    for index, offset in enumerate(HEADER_OFFSETS):
        read = read_header(BytesSource(flip(image, offset * 8 + 77)))
        assert (read.header, read.bad_copies) == (HEADER, (index,))
    both = flip(flip(image, 5), HEADER_OFFSETS[1] * 8)
    assert read_header(BytesSource(both)).header is None


def test_an_intact_header_of_another_version_is_told_from_damage() -> None:
    later = replace(HEADER, version=2)
    assert read_header(BytesSource(encode_header(later))).header == later


def test_other_magic_is_no_header() -> None:
    fields = b"something else here!".ljust(80, b".")
    assert read_header(BytesSource(fields + fmt._header_checksum(fields))).header is None


@given(st.lists(st.tuples(st.integers(1, 2**63), st.integers(1, 2**63), st.none() | st.integers(0, 2**63))))
def test_a_manifest_is_read_back(entries: list[tuple[int, int, int | None]]) -> None:
    manifest = tuple(ManifestEntry(*entry) for entry in entries)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert decode_manifest(encode_manifest(manifest) + b"later fields") == manifest


def test_records_are_read_at_their_positions_alone() -> None:
    image, (one, two, three) = segment_bytes([b"one", b"two", b"three"])
    source = BytesSource(image)
    assert list(records_at(source, KEYS, [two.offset], end=three.offset)) == [two]
    assert list(records_at(source, KEYS, [two.offset], end=three.offset - 1)) == [Flaw.CUT]
    offsets = [one.offset, one.offset, two.offset + 1, three.offset]
    assert list(records_at(source, KEYS, offsets, end=len(image))) == [one, one, Flaw.MARKER, three]


def test_scanning_keeps_no_more_than_a_window_in_memory() -> None:
    image, records = segment_bytes([bytes([number]) * 5000 for number in range(40)])
    lengths = []

    class Measured(BytesSource):
        def read(self, offset: int, length: int) -> bytes:
            lengths.append(length)
            return super().read(offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt._Window.__init__, "__defaults__", (8192,))
        assert list(scan(Measured(image), KEYS, end=len(image))) == records
    assert max(lengths) <= 8192


def test_control_records_are_told_from_callers() -> None:
    record = Record(0, 64, 1, 0, 0, fmt.KIND_MANIFEST, 0, b"")
    assert record.is_control
    assert not replace(record, kind=fmt.MAX_CALLER_KIND).is_control

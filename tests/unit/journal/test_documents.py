"""`docs/journal-format.md` says what the code does."""

import re
from pathlib import Path

from persistence_service.journal import format as fmt
from persistence_service.journal.directory import _HEAD_MAGIC
from persistence_service.journal.format import (
    BODY_OFFSET,
    HEADER_BYTES,
    HEADER_OFFSETS,
    MAGIC,
    ManifestEntry,
    SegmentHeader,
    SegmentKeys,
    encode_header,
    encode_manifest,
    encode_record,
)

PAGE = (Path(__file__).parents[3] / "docs" / "journal-format.md").read_text("utf-8")

HEADER = SegmentHeader(
    journal_id=bytes.fromhex("00112233445566778899aabbccddeeff"),
    number=7,
    first_sequence=41,
    created_at_us=1_700_000_000_000_000,
    high_water_us=1_700_000_000_000_005,
    secret=bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
)


def example() -> bytes:
    keys = SegmentKeys.derive(HEADER.secret)
    image = encode_header(HEADER)
    manifest, payload = encode_manifest((ManifestEntry(6, 38, 40),)), b'{"tasks":[]}'
    image += encode_record(
        keys,
        len(image),
        sequence=41,
        accepted_at_us=HEADER.created_at_us,
        high_water_us=HEADER.high_water_us,
        kind=fmt.KIND_MANIFEST,
        items=0,
        payload=manifest,
    )
    image += manifest
    image += encode_record(
        keys,
        len(image),
        sequence=41,
        accepted_at_us=1_700_000_000_000_010,
        high_water_us=1_700_000_000_000_012,
        kind=2,
        items=1,
        payload=payload,
    )
    return image + payload


def dump(image: bytes, start: int, end: int) -> str:
    lines = (f"{at:08x}  {image[at : min(at + 16, end)].hex(' ')}" for at in range(start, end, 16))
    return "\n".join(lines)


def test_the_example_is_what_the_code_writes() -> None:
    image = example()
    header, records = re.findall(r"```hex\n(.*?)\n```", PAGE, re.DOTALL)
    assert header == dump(image, 0, HEADER_BYTES)
    assert records == dump(image, BODY_OFFSET, len(image))
    assert image[HEADER_BYTES : HEADER_OFFSETS[1]] == bytes(4000)
    assert image[HEADER_OFFSETS[1] : BODY_OFFSET] == image[:HEADER_BYTES]


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    for fact in (
        f"`{MAGIC.hex(' ')}`",
        f"`{_HEAD_MAGIC.hex(' ')}`",
        f"at most {fmt.MAX_PAYLOAD_BYTES:,}",
        f"version of the format: {fmt.VERSION}",
        f"| {fmt.KIND_MANIFEST} manifest |",
        f"| {fmt.KIND_VOID} void |",
        f"from offset {BODY_OFFSET}",
        f"Kinds 1 to {fmt.MAX_CALLER_KIND} ",
    ):
        assert fact in PAGE

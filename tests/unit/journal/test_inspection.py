"""Looking into a journal changes nothing, needs no lock, and sees what is there."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from persistence_service.journal.directory import JournalDirectory
from persistence_service.journal.files import Files
from persistence_service.journal.format import BODY_OFFSET, RECORD_OVERHEAD, encode_header
from persistence_service.journal.inspection import inspect, verify
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.journal.bench import NOW_US, Bench, put
from tests.unit.journal.images import HEADER


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


async def test_a_live_journal_is_seen_as_it_is_and_not_touched(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    await asyncio.gather(*(put(journal, bytes(400), items=3, at=number) for number in range(3)))
    before = contents(bench.path)
    report = inspect(bench.path)
    assert contents(bench.path) == before
    assert (report.records, report.items, report.kinds) == (3, 9, {1: 3})
    assert report.bytes == journal.stats().bytes
    last = report.segments[-1]
    assert (last.first_sequence, last.last_sequence, last.payload_bytes) == (3, 3, 400)
    assert (last.first_accepted_us, last.last_accepted_us) == (NOW_US + 2, NOW_US + 2)
    assert last.header is not None
    assert last.header.number == 3
    assert (report.quarantined_files, report.quarantined_bytes) == (0, 0)
    assert verify(bench.path) == ()


async def test_everything_that_is_wrong_is_found(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 2000)
    positions = [await put(journal, bytes(400)) for _ in range(17)]
    crashed = bench.crash()
    paths = bench.segments(crashed)
    one = bytearray(paths[0].read_bytes())
    one[positions[1].offset + 90] ^= 1
    one[5] ^= 1
    paths[0].write_bytes(one)
    paths[1].write_bytes(b"ruined")
    paths[2].write_bytes(encode_header(replace(HEADER, version=9)))
    os.truncate(paths[3], 100)
    with paths[-1].open("ab") as file:
        file.write(b"torn")
    (crashed / "quarantine").mkdir()
    (crashed / "quarantine" / "bad").write_bytes(b"12345")
    before = contents(crashed)
    findings = [(finding.file[15], finding.message) for finding in verify(crashed)]
    assert contents(crashed) == before
    assert findings == [
        ("1", "copy 0 of the header is damaged; the other one is intact"),
        ("1", f"{400 + RECORD_OVERHEAD} damaged bytes at {positions[1].offset} (checksum)"),
        ("1", "1 record(s) are missing between intact ones"),
        ("2", "cannot be read: both copies of its header are damaged"),
        ("3", "cannot be read: format 9 is not known here"),
        ("4", "copy 1 of the header is damaged; the other one is intact"),
        ("4", "0 damaged bytes at 100 (cut)"),
        ("5", f"torn tail of 4 bytes at {paths[-1].stat().st_size - 4} (marker)"),
    ]
    report = inspect(crashed)
    assert (report.quarantined_files, report.quarantined_bytes) == (1, 5)


async def test_a_segment_that_goes_meanwhile_is_left_out(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal)
    files = FaultyFiles()
    files.fail("open_existing", 2)
    assert inspect(bench.path, files).segments == ()


def test_an_unreadable_head_is_none(tmp_path: Path) -> None:
    files = FaultyFiles()
    (tmp_path / "head").write_bytes(b"x")
    files.fail("read", 5)
    assert JournalDirectory(tmp_path, files).read_head() is None


def test_free_room_is_what_the_volume_has(tmp_path: Path) -> None:
    assert Files().free_bytes(tmp_path) > 0

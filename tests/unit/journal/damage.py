"""A journal as a crash left it, copies of it that are damaged, and the law that each of them obeys."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from structlog.testing import capture_logs

from persistence_service.journal import Journal, JournalStats, Loss
from persistence_service.journal.files import Files
from persistence_service.journal.format import (
    BODY_OFFSET,
    HEADER_BYTES,
    HEADER_OFFSETS,
    RECORD_OVERHEAD,
    Record,
    SegmentKeys,
    read_header,
    scan,
)
from persistence_service.journal.inspection import newest_stamp, verify
from tests.unit.journal.bench import NOW_US, payloads, put, replay_all
from tests.unit.journal.images import BytesSource

SEGMENTS = 3
IN_EACH = 3
_PAYLOAD_BYTES = 20


class UnsyncedFiles(Files):
    """The real file system without waiting for the disk: here a crash is a copy of what the system holds."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)


async def opened(path: Path) -> Journal:
    """The journal in `path`; a segment holds `IN_EACH` records of `record`."""
    size = BODY_OFFSET + RECORD_OVERHEAD * (IN_EACH + 1) + SEGMENTS * 24 + _PAYLOAD_BYTES * (IN_EACH - 1)
    return await Journal.open(
        path, max_bytes=1 << 30, min_free=0, segment_bytes=size, clock=lambda: NOW_US, files=UnsyncedFiles()
    )


def record(name: str, number: int) -> bytes:
    """A payload that no other record has."""
    return f"{name} {number}".encode().ljust(_PAYLOAD_BYTES, b".")


class Original:
    """A whole journal: its files, which are never changed, and what each record is. No dataclass, for it is long as text."""

    def __init__(
        self, path: Path, files: dict[str, bytes], older: dict[str, bytes], places: dict[str, list[Record]]
    ) -> None:
        self.path = path
        self.files = files
        self.older = older
        self.places = places

    @property
    def segments(self) -> list[str]:
        """The names, oldest first."""
        return sorted(self.places)

    @property
    def newest(self) -> str:
        return self.segments[-1]

    @property
    def records(self) -> dict[int, bytes]:
        """Every payload by its sequence."""
        return {place.sequence: place.payload for places in self.places.values() for place in places}

    def copy(self, target: Path) -> Path:
        """A copy to be damaged; returns where it is."""
        shutil.copytree(self.path, target)
        return target

    def intact(self, damaged: Path) -> set[bytes]:
        """The payloads that stand there, below an intact header, as they were written and where they were written."""
        found: set[bytes] = set()
        for path in damaged.glob("*.seg"):
            content = path.read_bytes() if path.is_file() else b""
            name = self.identity(content)
            if name is not None:
                places = self.places[name]
                found.update(place.payload for place in places if _is_intact(content, self.files[name], place))
        return found

    def identity(self, content: bytes) -> str | None:
        """Which of the segments these bytes are by their header, whatever else they hold."""
        for name in self.places:
            original = self.files[name]
            if any(content[at : at + HEADER_BYTES] == original[at : at + HEADER_BYTES] for at in HEADER_OFFSETS):
                return name
        return None

    def is_shortened(self, damaged: Path) -> bool:
        """Whether the newest segment ends between two records, as it once did: nothing tells that from a process that died then."""
        path = damaged / self.newest
        content = path.read_bytes() if path.is_file() else b""
        ends = [place.offset for place in self.places[self.newest]]
        return len(content) in ends and self.files[self.newest].startswith(content)


def _is_intact(content: bytes, original: bytes, place: Record) -> bool:
    end = place.offset + place.length
    return content[place.offset : end] == original[place.offset : end]


async def make_original(path: Path, name: str = "kept") -> Original:
    """A journal of `SEGMENTS` segments, each also as it was before its last record; the first had a predecessor that was stored."""
    journal = await opened(path)
    stored = [await put(journal, record("stored", number)) for number in range(IN_EACH)]
    older: dict[str, bytes] = {}
    for number in range(SEGMENTS * IN_EACH):
        position = await put(journal, record(name, number))
        if number == 0:
            for each in stored:
                journal.release(each.segment, 1)
        if number % IN_EACH == IN_EACH - 2:
            segment = position.segment.home.path
            older[segment.name] = segment.read_bytes()
    await _died(journal, path)
    files = _contents(path)
    places = {each: list(records_in(files[each])) for each in older}
    assert [len(each) for each in places.values()] == [IN_EACH] * SEGMENTS
    return Original(path, files, older, places)


def _contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


async def _died(journal: Journal, path: Path) -> None:
    """The directory is as a process leaves it that is killed now."""
    left = path.with_name(path.name + ".left")
    shutil.copytree(path, left, symlinks=True)
    await journal.close()
    shutil.rmtree(path)
    left.rename(path)


def records_in(segment: bytes) -> Iterator[Record]:
    """The records of callers in a segment's bytes."""
    header = read_header(BytesSource(segment)).header
    assert header is not None
    for item in scan(BytesSource(segment), SegmentKeys.derive(header.secret), end=len(segment)):
        if isinstance(item, Record) and not item.is_control:
            yield item


@dataclass
class Told:
    """What one start said of the damage."""

    stats: JournalStats
    events: list[str]
    torn_from: list[int] = field(default_factory=list)

    def tells(self, sequence: int) -> bool:
        """Whether this record is among those that are said to be gone."""
        return any(_covers(loss, sequence) for loss in self.stats.losses) or any(
            sequence >= torn for torn in self.torn_from
        )


def _covers(loss: Loss, sequence: int) -> bool:
    return (loss.first_sequence or 0) <= sequence and (loss.last_sequence is None or sequence <= loss.last_sequence)


async def starts(path: Path, expected: set[bytes], *, times: int, crashing: bool) -> list[Told]:
    """Start on the journal again and again: each start replays `expected`, and what the starts before it appended, and no more."""
    told: list[Told] = []
    appended: set[bytes] = set()
    for number in range(times):
        with capture_logs() as events:
            journal = await opened(path)
            try:
                assert set(payloads(await replay_all(journal))) == expected | appended
                appended.add(record("new", number))
                await put(journal, record("new", number))
                stats = journal.stats()
                if crashing:
                    await _died(journal, path)
            finally:
                await journal.close()
        assert stats.failing is None
        torn = [event["sequence"] for event in events if event["event"] == "journal_torn_tail_truncated"]
        told.append(Told(stats, [event["event"] for event in events], torn))
    return told


async def obey(original: Original, damaged: Path, *, times: int = 3, crashing: bool = True) -> list[Told]:
    """The law of damage: everything intact comes back at every start, nothing else does, and the first start says what is gone.

    Each start ends in a crash, or in an orderly stop. Returns what each of them said.
    """
    intact = original.intact(damaged)
    shortened = original.is_shortened(damaged)
    findings = verify(damaged)
    assert newest_stamp(damaged) in (0, NOW_US)
    told = await starts(damaged, intact, times=times, crashing=crashing)
    gone = [sequence for sequence, payload in original.records.items() if payload not in intact]
    untold = [sequence for sequence in gone if not told[0].tells(sequence)]
    assert not untold or shortened, f"gone without a word: {untold}, told: {told[0].stats.losses} {told[0].torn_from}"
    assert findings or shortened or not gone, "verify finds what a start will tell"
    for again in told[1:]:
        assert again.stats.torn_tails == 0, "what was cut off once is not cut off again"
        assert again.stats.quarantined_files or not told[0].stats.losses, "a loss is remembered"
    return told

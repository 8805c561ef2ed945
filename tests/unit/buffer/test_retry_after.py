"""How long a sender should wait that finds the journal full, against how long it takes indeed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import JournalFull, StorageUnavailable
from persistence_service.journal.requests import Barrier
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import KIB, Rig, open_rig, session_request, task_request

RECORDS_PER_S = 100.0
BATCH = 20


class SmallDisk(FaultyFiles):
    """A volume of `capacity` bytes with nothing but the journal on it."""

    capacity = 1 << 40

    def free_bytes(self, path: Path) -> int:
        return self.capacity - sum(file.stat().st_size for file in path.iterdir() if file.is_file())


async def settled(rig: Rig) -> None:
    """The journal has removed what it was told to."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rig.journal._writer.submit(Barrier(done))
    await done


def batch(number: int) -> list[Any]:
    return [task_request(f"T{number}-{index}", source_text="x" * KIB) for index in range(BATCH)]


async def fill(rig: Rig) -> JournalFull:
    for number in range(1000):
        try:
            await rig.buffer.accept_tasks(batch(number))
        except JournalFull as exc:
            return exc
    raise AssertionError("the journal is never full")


async def seconds_until_accepted(rig: Rig, pytest_patch: pytest.MonkeyPatch) -> float:
    """By the clock of a backend that takes `RECORDS_PER_S`; a sender tries again and again."""
    began = rig.timing.monotonic()
    accepted_s: float | None = None
    write = rig.backend.before_write

    async def slow(records: Sequence[Any]) -> None:
        nonlocal accepted_s
        await settled(rig)
        if accepted_s is None:
            try:
                await rig.buffer.accept_tasks(batch(10_000))
                accepted_s = rig.timing.monotonic() - began
            except JournalFull:
                pass
        rig.timing.advance(len(records) / RECORDS_PER_S)
        await write(records)

    pytest_patch.setattr(rig.backend, "before_write", slow)
    await rig.buffer.flush()
    assert accepted_s is not None
    return accepted_s


@pytest.mark.parametrize("limit", ["max_bytes", "min_free"])
@pytest.mark.parametrize("segment_kib", [64, 256])
async def test_a_full_journal_says_how_long_it_takes_within_a_factor_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, segment_kib: int
) -> None:
    disk = SmallDisk()
    if limit == "min_free":
        disk.capacity = 1024 * KIB
    async with open_rig(
        tmp_path,
        files=disk,
        max_bytes=1024 * KIB if limit == "max_bytes" else 1 << 40,
        segment_bytes=segment_kib * KIB,
        bounds=MemoryBounds(records=100_000, size_bytes=1 << 30),
        size=10_000,
        chunk_bytes=20 * KIB,
        interval_s=3600,
    ) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.flush()
        rig.flusher.items_per_s = RECORDS_PER_S
        rig.backend.hold()
        full = await fill(rig)
        rig.backend.release()
        took_s = await seconds_until_accepted(rig, monkeypatch)
        assert full.retry_after_s is not None
        assert took_s / 2 <= full.retry_after_s <= took_s * 2 + 0.5


async def test_while_the_backend_is_away_it_says_when_that_is_tried_again(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_bytes=256 * KIB, segment_bytes=64 * KIB, interval_s=1) as rig:
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_sessions([session_request()])
        for _ in range(12):
            await rig.pass_time(31)
        full = await fill(rig)
        assert rig.flusher.next_attempt_in_s > 5
        assert full.retry_after_s == pytest.approx(rig.flusher.next_attempt_in_s)


async def test_without_a_rate_it_says_a_few_seconds(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_bytes=256 * KIB, segment_bytes=64 * KIB) as rig:
        rig.backend.hold()
        full = await fill(rig)
        assert full.retry_after_s == 5
        rig.backend.release()


async def test_records_that_merge_are_written_the_faster(tmp_path: Path) -> None:
    async with open_rig(tmp_path, interval_s=3600, size=10_000) as rig:
        await rig.buffer.accept_sessions([session_request()])
        for _ in range(10):
            await rig.buffer.accept_tasks(batch(0))

        def slow(record: object) -> bool:
            rig.timing.advance(1 / RECORDS_PER_S)
            return False

        rig.backend.reject(slow)
        await rig.buffer.flush()
        (of_sessions, of_tasks) = (RECORDS_PER_S, 10 * RECORDS_PER_S)
        assert rig.flusher.items_per_s == pytest.approx(of_sessions + 0.2 * (of_tasks - of_sessions))

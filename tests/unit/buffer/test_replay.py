"""What the last run left in the journal comes back, whatever state it and the backend are in."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import Replaying, StorageUnavailable
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import (
    KIB,
    Rig,
    image_of,
    let_all_run,
    open_rig,
    session_request,
    task_request,
    task_requests,
    until,
)

AWAY = StorageUnavailable("gone")


async def left_behind(directory: Path, batches: int, *, session: bool = True) -> Path:
    """A journal with a session and ten tasks a batch, none of them stored."""
    async with open_rig(directory) as rig:
        if session:
            await rig.buffer.accept_sessions([session_request()])
        for number in range(batches):
            await rig.buffer.accept_tasks(task_requests(10, prefix=f"T{number}-"))
        return await rig.crash()


@asynccontextmanager
async def unreadable_for_now(tmp_path: Path, files: FaultyFiles) -> AsyncIterator[Rig]:
    """A run whose disk does not let it read three batches of the last one, until `files` are healed."""
    image = await left_behind(tmp_path / "journal", 3)
    async with open_rig(image, files=files, start=False) as rig:
        files.fail("open_existing", errno.EIO)
        await rig.start(replay=False)
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await until(lambda: len(rig.timing.seconds_to_deadlines) == 1)
        yield rig


async def test_what_was_not_stored_before_a_crash_is_stored_after_it(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 3)
    async with open_rig(image) as rig:
        assert rig.buffer.stats().tasks_count == 30
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 30
        assert rig.journal.stats().unstored_items == 0


async def test_what_is_older_than_the_interval_is_flushed_by_age_however_often_the_service_restarts(
    tmp_path: Path,
) -> None:
    directory, timing = tmp_path / "journal", ManualTiming()
    flushes = []
    for session_id in ("oldest", "newer", "newest"):
        async with open_rig(directory, timing=timing, interval_s=30) as rig:
            await rig.buffer.accept_sessions([session_request(session_id)])
            await rig.pass_time(11)
            flushes.append(rig.metrics.flushes)
            directory = await rig.crash()
    assert flushes == [{}, {}, {"age": 1}]


async def test_what_is_old_already_is_flushed_by_age_once_all_of_the_journal_is_taken_in(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 30)
    later = ManualTiming()
    later.advance(100)
    async with open_rig(image, timing=later) as rig:
        await rig.pass_time(1)
        assert rig.metrics.flushes == {"age": 1}
        assert len((await rig.stored())[1]) == 300


async def test_a_journal_that_cant_be_read_now_delays_no_flush_by_age(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with unreadable_for_now(tmp_path, files) as rig:
        await rig.buffer.accept_sessions([session_request("new")])
        for _ in range(31):
            rig.timing.advance(1)
            await let_all_run()
        await until(lambda: rig.metrics.flushes == {"age": 1})
        files.heal()
        rig.timing.advance(60)
        await until(lambda: not rig.buffer.replaying)
        await rig.rests()


async def test_a_batch_is_not_older_than_nothing_when_the_clock_was_set_back(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 1)
    async with open_rig(image, timing=ManualTiming(wall_us=1_700_000_000_000_000)) as rig:
        assert rig.buffer.oldest_unstored_age_s() == 0
        await rig.pass_time(29)
        assert not rig.metrics.flushes
        await rig.pass_time(2)
        assert rig.metrics.flushes == {"age": 1}


async def test_a_segment_that_is_put_back_is_taken_in_beside_what_got_its_sequences_meanwhile(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 2)
    (newest,) = image.glob("*.seg")
    aside = newest.rename(tmp_path / newest.name)
    async with open_rig(image) as rig:
        assert rig.journal.stats().lost_ranges == 1
        await rig.buffer.accept_tasks(task_requests(10, prefix="since"))
        image = await rig.crash()
    aside.rename(image / newest.name)
    async with open_rig(image) as rig:
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 30


async def test_replaying_what_is_stored_already_changes_nothing(tmp_path: Path) -> None:
    inner = MemoryBackend()
    await inner.open()
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request(status=Status.PENDING)])
        image = image_of(rig.directory)
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED)])
        await rig.buffer.flush()
        before = await rig.stored_task("T")
    async with open_rig(image, inner=inner) as rig:
        await rig.buffer.flush()
        assert await rig.stored_task("T") == before
    await inner.close()


async def test_a_long_replay_is_as_fast_as_the_disk_and_its_memory_is_bounded(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 10)
    async with open_rig(image, bounds=MemoryBounds(records=45), size=45, start=False) as rig:
        rig.backend.go_away(AWAY)
        await rig.start(replay=False)
        with pytest.raises(Replaying):
            rig.buffer.require_replayed()
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await until(lambda: not rig.buffer.replaying)
        rig.buffer.require_replayed()
        assert (rig.buffer.stats().total_count, rig.buffer.stats().memory_records) == (101, 41)
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        await rig.buffer.accept_sessions([session_request(f"new{number}") for number in range(22)])
        rig.backend.come_back()
        await rig.buffer.flush()
        assert [len(keys) for keys in await rig.stored()] == [23, 100]


async def test_others_have_their_turn_after_each_batch_of_a_replay(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 20)
    async with open_rig(image, start=False) as rig:
        await rig.start(replay=False)
        seen: list[int] = []
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        while rig.buffer.replaying:
            seen.append(rig.buffer.stats().tasks_count)
            await asyncio.sleep(0)
        steps = [after - before for before, after in pairwise(seen)]
        assert max(steps) == 10


async def test_a_segment_that_cant_be_read_now_is_read_later(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with unreadable_for_now(tmp_path, files) as rig:
        with pytest.raises(Replaying):
            await rig.buffer.flush()
        rig.timing.advance(60)
        await until(lambda: len(rig.timing.seconds_to_deadlines) == 1)
        files.heal()
        rig.timing.advance(60)
        await until(lambda: not rig.buffer.replaying)
        assert (await rig.buffer.flush()).waiting == 0
        assert len((await rig.stored())[1]) == 30


async def test_a_flush_during_replay_includes_all_of_it(tmp_path: Path) -> None:
    image = await left_behind(tmp_path / "journal", 20)
    async with open_rig(image, start=False) as rig:
        await rig.start(replay=False)
        flush = asyncio.create_task(rig.buffer.flush())
        await let_all_run()
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await flush
        assert len((await rig.stored())[1]) == 200


async def test_batches_that_this_version_cant_read_keep_their_place_and_are_counted(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal") as rig:
        await rig.journal.append(77, b"[]", items=2, accepted_at_us=1, high_water_us=1)
        await rig.journal.append(1, b"{not json", items=1, accepted_at_us=1, high_water_us=1)
        await rig.buffer.accept_sessions([session_request()])
        image = await rig.crash()
        for segment in list(rig.journal._held):  # the books of this run are of no interest
            rig.journal.release(segment, segment.holds - 1)
    async with open_rig(image) as rig:
        assert rig.buffer.stats().unreadable == 2
        await rig.buffer.flush()
        assert rig.journal.stats().unstored_items == 3
        assert await rig.stored() == (["S"], [])


async def test_big_batches_are_replayed_one_after_the_other_when_memory_is_small(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal") as rig:
        for number in range(4):
            await rig.buffer.accept_sessions([session_request(f"S{number}", metadata={"text": "x" * 6 * KIB})])
        image = await rig.crash()
    async with open_rig(image, bounds=MemoryBounds(size_bytes=10 * KIB, pressure=1)) as rig:
        await rig.buffer.flush()
        assert len((await rig.stored())[0]) == 4


async def test_a_batch_that_a_mistake_of_ours_keeps_out_of_replay_stays_journaled_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await left_behind(tmp_path / "journal", 2)
    async with open_rig(image, start=False) as rig:
        decode, calls = rig.buffer._tasks.decode, 0

        def fail_once(payload: bytes) -> list[Task]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ZeroDivisionError
            return decode(payload)

        monkeypatch.setattr(rig.buffer._tasks, "decode", fail_once)
        await rig.start()
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 10
        assert rig.buffer.stats().unmerged == 1
        assert rig.journal.stats().unstored_items == 10
        rig.journal.release(next(iter(rig.journal._held)), 10)

"""The way in: stamps, room, the journal, and clients that go away."""

import asyncio
import errno
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from persistence_service.buffer import manager
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.buffer.timing import EventClock, SystemTiming
from persistence_service.errors import (
    JournalFull,
    JournalUnavailable,
    PayloadTooLarge,
    StorageUnavailable,
    ValidationFailed,
)
from persistence_service.models.status import Status
from persistence_service.models.times import format_time, to_micros
from persistence_service.settings import Durability
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import KIB, let_all_run, open_rig, session_request, task_request, task_requests, until

DAY_US = 24 * 3600 * 1_000_000
AWAY = StorageUnavailable("gone")


# --------------------------------------------------------------------------------------------------------- clock


def test_stamps_never_repeat_and_never_go_back_when_the_wall_clock_does() -> None:
    timing = ManualTiming(wall_us=1000)
    clock = EventClock(timing, 0)
    assert clock.reserve(3) == 1000
    assert clock.reserve(1) == 1003
    timing.set_wall(5)
    assert clock.reserve(2) == 1004
    timing.set_wall(2000)
    assert clock.reserve(1) == 2000
    assert clock.high_water_us == 2000


async def test_an_event_time_behind_a_stamp_is_taken_after_the_wall_clock_jumped_back(tmp_path: Path) -> None:
    """Torture, seed 1002: who had been told of a deletion, and sent later event times, was refused for good."""
    timing = ManualTiming()
    async with open_rig(tmp_path, timing=timing) as rig:
        before = timing.wall_us()
        timing.set_wall(before + 2 * DAY_US)
        stamp = await rig.buffer.next_stamp()
        timing.set_wall(before)
        assert rig.buffer.now_us() == to_micros(stamp)
        behind = stamp + timedelta(microseconds=7)
        await rig.buffer.accept_sessions([session_request(event_time=format_time(behind))])
        with pytest.raises(ValidationFailed):
            await rig.buffer.accept_sessions([session_request(event_time=format_time(behind + timedelta(days=1)))])


async def test_stamps_go_on_over_a_restart_after_the_wall_clock_jumped_back(tmp_path: Path) -> None:
    timing = ManualTiming()
    async with open_rig(tmp_path / "journal", timing=timing) as rig:
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(3)])
        seen = await rig.buffer.session("S2")
        assert seen is not None
        newest = to_micros(seen.event_time)
        image = await rig.crash()
        rig.clock.reserve(1)
    timing.set_wall(1_000_000)
    async with open_rig(image, timing=timing) as rig:
        receipt = await rig.buffer.accept_sessions([session_request("S2", total_tasks=7)])
        assert to_micros(receipt.accepted_at) == newest + 1
        seen = await rig.buffer.session("S2")
        assert seen is not None
        assert to_micros(seen.event_time) == newest + 1


async def test_the_machines_own_clocks() -> None:
    timing = SystemTiming()
    assert timing.wall_us() > 1_700_000_000_000_000
    assert timing.monotonic() <= timing.monotonic()
    event = asyncio.Event()
    assert not await timing.wait(event, 0)
    event.set()
    assert await timing.wait(event, None)


# --------------------------------------------------------------------------------------------------------- room


async def test_nothing_is_refused_for_lack_of_memory(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=10), size=10) as rig:
        rig.backend.go_away(AWAY)
        for number in range(5):
            await rig.buffer.accept_sessions([session_request(f"S{number}-{n}") for n in range(8)])
        assert rig.buffer.accepting
        assert rig.buffer.stats().usage_percent == 80
        rig.backend.come_back()
        await rig.pass_time(30)
        await until(lambda: rig.buffer.stats().total_count == 0)


async def test_a_batch_that_finds_no_room_starts_a_flush_at_once(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=10), size=10) as rig:
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(7)])
        await rig.buffer.accept_sessions([session_request(f"T{n}") for n in range(5)])
        await until(lambda: bool(rig.metrics.flushes))
        assert (rig.metrics.flushes, rig.buffer.stats().total_count) == ({"memory": 1}, 0)


async def test_each_record_is_charged_its_own_size_however_it_came_and_whatever_it_merged_with(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal", bounds=MemoryBounds(size_bytes=150 * KIB, pressure=2)) as rig:
        await rig.buffer.accept_sessions([session_request()])
        small = [task_request(f"T{n}", source_text="x") for n in range(50)]
        big = task_request("big", source_text="x" * 60 * KIB)
        await rig.buffer.accept_tasks([big, *small], Durability.JOURNAL)
        assert rig.tasks._waiting["big"].size > 60 * KIB
        assert rig.tasks._waiting["T1"].size < KIB
        charged = rig.buffer.stats().size_bytes
        await rig.buffer.accept_tasks(small)  # what merges gives back what it brought, and not the big one's share
        assert charged <= rig.buffer.stats().size_bytes <= charged + 50 * len(".000001")
        charged = rig.buffer.stats().size_bytes
        image = await rig.crash()
    async with open_rig(image) as rig:
        assert rig.buffer.stats().size_bytes == charged


async def test_a_merged_session_is_charged_what_it_takes_now(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(game_info={"text": "x" * KIB})])
        await rig.buffer.accept_sessions([session_request(metadata={"text": "y" * KIB})])
        record = await rig.buffer.session("S")
        assert rig.buffer.stats().size_bytes == len(msgspec.json.encode(record)) > 2 * KIB


async def test_what_was_accepted_earlier_and_comes_later_sets_created_at(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal") as rig:
        first = await rig.buffer.accept_tasks([task_request()])
        image = await rig.crash()
    async with open_rig(image, start=False) as rig:
        await rig.start(replay=False)
        rig.timing.advance(60)
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED)])
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await until(lambda: not rig.buffer.replaying)
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert (task.status, task.created_at) == (Status.COMPLETED, first.accepted_at)


async def test_a_batch_that_the_journal_could_not_hold_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "MAX_PAYLOAD_BYTES", 1000)
    async with open_rig(tmp_path) as rig:
        with pytest.raises(PayloadTooLarge):
            await rig.buffer.accept_tasks(task_requests(10))


async def test_a_batch_with_one_invalid_item_is_refused_whole(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        with pytest.raises(ValidationFailed):
            await rig.buffer.accept_sessions([session_request(), session_request("S2", event_time="yesterday")])
        assert rig.buffer.stats().total_count == 0


# ------------------------------------------------------------------------------------------------------ the journal


async def test_a_client_that_goes_away_while_its_batch_is_written_changes_nothing(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with open_rig(tmp_path, files=files) as rig:
        gate = files.gate("sync")
        accepting = asyncio.create_task(rig.buffer.accept_sessions([session_request()]))
        await let_all_run()
        await asyncio.to_thread(gate.wait_until_entered)
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        assert rig.buffer.stats().total_count == 0
        gate.open()
        await until(lambda: rig.buffer.stats().total_count == 1)
        await rig.buffer.flush()
        assert await rig.stored() == (["S"], [])


@pytest.mark.parametrize("number, error", [(errno.EIO, JournalUnavailable), (errno.ENOSPC, JournalFull)])
async def test_a_batch_that_is_not_journaled_is_not_merged(tmp_path: Path, number: int, error: type[Exception]) -> None:
    files = FaultyFiles()
    async with open_rig(tmp_path, files=files) as rig:
        files.fail("writev", number)
        with pytest.raises(error):
            await rig.buffer.accept_sessions([session_request()])
        accepting = asyncio.create_task(rig.buffer.accept_sessions([session_request()]))
        await let_all_run()
        accepting.cancel()  # nobody hears of the second failure
        await asyncio.gather(accepting, return_exceptions=True)
        await until(lambda: rig.journal.stats().pending_bytes == 0)
        assert rig.buffer.stats().total_count == 0
        assert rig.buffer.stats().size_bytes == 0
        files.heal()
        await until(lambda: rig.journal.stats().failing is None)
        await rig.buffer.accept_sessions([session_request()])


async def test_a_full_journal_refuses_at_once_and_is_emptied_without_being_asked(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path, max_bytes=64 * KIB, segment_bytes=32 * KIB) as rig:

        async def fill() -> None:
            for number in range(100):
                await rig.buffer.accept_sessions([session_request(f"S{number}", metadata={"text": "x" * KIB})])

        with pytest.raises(JournalFull) as caught:
            await fill()
        assert caught.value.retry_after_s is not None
        await until(lambda: rig.journal.stats().bytes < 16 * KIB)
        await rig.buffer.accept_sessions([session_request()])


async def test_a_mistake_of_ours_in_merging_leaves_no_sender_waiting_and_the_batch_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(tmp_path / "journal") as rig:
        with monkeypatch.context() as patch:
            patch.setattr(rig.buffer._sessions, "merge", lambda *_, **__: 1 / 0)
            async with asyncio.timeout(60):
                with pytest.raises(ZeroDivisionError):
                    await rig.buffer.accept_sessions([session_request()])
        assert rig.buffer.stats().unmerged == 1
        assert rig.journal.stats().unstored_items == 1
        await rig.buffer.accept_sessions([session_request("next")])
        image = await rig.crash()
        rig.journal.release(next(iter(rig.journal._held)), 1)  # the books of this run are of no interest
    async with open_rig(image) as rig:
        await rig.buffer.flush()
        assert (await rig.stored())[0] == ["S", "next"]


@pytest.mark.parametrize("ack", list(Durability))
async def test_every_durability_journals_and_merges(tmp_path: Path, ack: Durability) -> None:
    async with open_rig(tmp_path) as rig:
        receipt = await rig.buffer.accept_sessions([session_request()], ack)
        assert (receipt.count, receipt.durability) == (1, ack)
        assert rig.journal.stats().appended_records == 1

"""What has no room in memory waits in the journal alone, is found there, and comes back in order."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import JournalUnavailable, StorageUnavailable
from persistence_service.settings import Durability
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.clocks import ManualTiming
from tests.unit.buffer.harness import (
    KIB,
    Rig,
    let_all_run,
    open_rig,
    session_request,
    task_request,
    task_requests,
    until,
)

AWAY = StorageUnavailable("gone")
SMALL = MemoryBounds(records=20, pressure=2)


async def outage(rig: Rig, batches: int, *, prefix: str = "T") -> None:
    """A session, then batches of ten tasks while the backend is away."""
    rig.backend.go_away(AWAY)
    await rig.buffer.accept_sessions([session_request()])
    for number in range(batches):
        await rig.buffer.accept_tasks(task_requests(10, prefix=f"{prefix}{number:03}-"))


# ------------------------------------------------------------------------------------------------------ bounds


async def test_an_outage_costs_disk_and_no_memory_and_everything_is_acknowledged(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=50, size_bytes=30 * KIB), size=20) as rig:
        await outage(rig, 50)
        stats = rig.buffer.stats()
        assert (stats.total_count, stats.sessions_count, stats.tasks_count) == (501, 1, 500)
        assert stats.memory_records <= 50
        assert stats.size_bytes <= 30 * KIB
        assert stats.spilled_records == 501 - stats.memory_records
        assert stats.spilled_bytes > 0
        assert rig.buffer.accepting
        rig.backend.come_back()
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 500
        assert rig.journal.stats().unstored_items == 0


async def test_bytes_are_bounded_as_records_are(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(size_bytes=40 * KIB, pressure=2)) as rig:
        rig.backend.go_away(AWAY)
        for number in range(10):
            await rig.buffer.accept_sessions([session_request(f"S{number}", metadata={"text": "x" * 6 * KIB})])
        assert 30 * KIB < rig.buffer.stats().size_bytes <= 40 * KIB
        rig.backend.come_back()
        await rig.buffer.flush()
        assert len((await rig.stored())[0]) == 10


async def test_memory_stays_bounded_while_it_is_read_back(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=5) as rig:
        await outage(rig, 50)
        rig.backend.come_back()
        most = 0

        def watch(record: object) -> bool:
            nonlocal most
            most = max(most, rig.buffer.stats().memory_records)
            return False

        rig.backend.reject(watch)
        await rig.buffer.flush()
        assert 0 < most <= 20


async def test_a_batch_larger_than_the_bounds_is_taken_in_all_the_same(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=5), size=5) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks(task_requests(30))
        await rig.buffer.accept_tasks(task_requests(3, prefix="U"))
        assert rig.buffer.stats().spilled_records == 33
        rig.backend.come_back()
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 33


# ------------------------------------------------------------------------------------------------------- order


async def test_what_waits_is_stored_in_the_order_of_acceptance_and_full(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 30)
        rig.backend.come_back()
        await rig.buffer.flush()
        stored = [
            record.task_id for name, records in rig.backend.written for record in records if hasattr(record, "task_id")
        ]
        assert stored == sorted(stored)
        assert len(stored) == 300


async def test_batches_that_come_during_the_drain_are_accepted_and_wait_behind_it(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 10)
        rig.backend.come_back()
        rig.backend.hold()
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        for number in range(5):
            await rig.buffer.accept_tasks(task_requests(2, prefix=f"later{number}-"))
        later = asyncio.create_task(rig.buffer.accept_tasks([task_request("waited for")], Durability.STORAGE))
        await let_all_run()
        rig.backend.release()
        await flush
        assert (await later).durability is Durability.STORAGE
        await until(lambda: rig.buffer.stats().total_count == 0)
        stored = [
            record.task_id for name, records in rig.backend.written for record in records if hasattr(record, "task_id")
        ]
        assert stored[-1] == "waited for"
        assert len(stored) == 111


async def test_a_drain_goes_on_by_itself_when_the_backend_is_back(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 20)
        await rig.pass_time(31)
        assert rig.flusher.failure is not None
        rig.backend.come_back()
        await rig.pass_time(31)
        await until(lambda: rig.buffer.stats().total_count == 0)
        assert rig.metrics.flushes.total() >= 1


async def test_segments_go_as_what_waits_in_them_is_stored(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10, segment_bytes=16 * KIB) as rig:
        await outage(rig, 60)
        before = rig.journal.stats().segments
        assert before > 5
        rig.backend.hold()
        rig.backend.come_back()
        flushing = asyncio.create_task(rig.buffer.flush())
        for _ in range(30):
            await rig.backend.held()
            rig.backend.release()
            rig.backend.hold()
        await rig.backend.held()
        assert rig.waiting.spill.total > 0
        await until(lambda: rig.journal.stats().segments < before - 5, "removal, one after the other")
        rig.backend.release()
        await flushing
        await until(lambda: rig.journal.stats().segments <= 2)


# -------------------------------------------------------------------------------------------- asked and waited for


async def test_a_sender_that_waits_for_storage_is_answered_when_its_batch_has_been_drained(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 5)
        batch = [task_request("good"), task_request("orphan", "nobody")]
        accepting = asyncio.create_task(rig.buffer.accept_tasks(batch, Durability.STORAGE))
        await until(lambda: rig.buffer.stats().tasks_count == 52)
        assert rig.waiting.spill.total > 0
        rig.backend.come_back()
        await rig.pass_time(1)
        receipt = await accepting
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (1, "waiting", "unknown_session")
        ]


async def test_a_sender_whose_batch_still_waits_on_disk_when_its_time_is_over_hears_that(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10, ack_timeout_s=3) as rig:
        await outage(rig, 5)
        accepting = asyncio.create_task(rig.buffer.accept_tasks(task_requests(2, prefix="late"), Durability.STORAGE))
        await until(lambda: rig.buffer.stats().tasks_count == 52)
        await let_all_run()
        for _ in range(4):
            await rig.pass_time(1)
        receipt = await accepting
        assert receipt.durability is Durability.JOURNAL
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (index, "waiting", "storage_unavailable") for index in range(2)
        ]


async def test_shutting_down_in_an_outage_leaves_all_of_it_in_the_journal(tmp_path: Path) -> None:
    inner = MemoryBackend()
    await inner.open()
    async with open_rig(tmp_path / "journal", bounds=SMALL, size=10, inner=inner) as rig:
        await outage(rig, 10)
        await rig.pass_time(1)
        rig.buffer.begin_shutdown()
        await rig.flusher.stop(drain_s=0.0)
    async with open_rig(tmp_path / "journal", bounds=SMALL, size=10, inner=inner) as rig:
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 100
    await inner.close()


async def test_what_waited_in_the_journal_waits_there_after_a_crash_too(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal", bounds=SMALL, size=10) as rig:
        await outage(rig, 10)
        image = await rig.crash()
    async with open_rig(image, bounds=SMALL, size=10, start=False) as rig:
        rig.backend.go_away(AWAY)
        await rig.start()
        assert rig.buffer.stats().memory_records <= 20
        assert rig.buffer.stats().total_count == 101
        seen = await rig.unstored_task("T009-00009")
        assert seen is not None
        rig.backend.come_back()
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 100


# ------------------------------------------------------------------------------------------------------- damage


async def test_what_is_damaged_on_disk_is_told_as_loss_and_the_others_go_on(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 6)
        batch = list(rig.waiting.spill.first(3))[2]
        with batch.position.segment.home.path.open("r+b") as file:
            file.seek(batch.position.offset + batch.position.length // 2)
            file.write(b"damage")
        rig.backend.come_back()
        await rig.buffer.flush()
        assert [loss.first_sequence for loss in rig.journal.stats().losses] == [batch.position.sequence]
        assert len((await rig.stored())[1]) == 50
        assert rig.journal.stats().unstored_items == 0


async def test_a_journal_that_cant_be_read_now_holds_up_nothing_but_what_waits_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 6)
        in_memory = rig.buffer.stats().memory_records - 1

        async def cant(positions: object) -> list[bytes]:
            raise JournalUnavailable("not now")

        with monkeypatch.context() as patch:
            patch.setattr(rig.journal, "read_many", cant)
            rig.backend.come_back()
            await rig.pass_time(31)
            assert len((await rig.stored())[1]) == in_memory
        await rig.pass_time(31)
        await until(lambda: rig.buffer.stats().total_count == 0)
        assert len((await rig.stored())[1]) == 60


# ------------------------------------------------------------------------------------------------------- figures


async def test_the_age_of_the_oldest_unstored_record_counts_what_waits_on_disk_and_orphans(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL) as rig:
        await rig.buffer.accept_tasks([task_request("T", "unknown")])
        await rig.buffer.flush()
        await rig.pass_time(7)
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(7)
        await outage(rig, 6)
        await rig.pass_time(5)
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(12)


@pytest.mark.parametrize("records", [1, 60], ids=["in memory", "on disk too"])
async def test_the_age_of_what_a_former_run_accepted_goes_on_after_a_restart_of_the_machine(
    tmp_path: Path, records: int
) -> None:
    async with open_rig(tmp_path / "journal", bounds=SMALL) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request("S")])
        for number in range(1, records):
            await rig.buffer.accept_tasks([task_request(f"T{number:05}", "S")])
        image = await rig.crash()
        accepted_us = rig.timing.wall_us()
    later = ManualTiming(wall_us=accepted_us + 20_000_000, monotonic_s=5)
    async with open_rig(image, bounds=SMALL, timing=later, start=False) as rig:
        rig.backend.go_away(AWAY)
        await rig.start()
        assert rig.buffer.stats().total_count == records
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(20, abs=1)
        await rig.pass_time(5)
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(25, abs=1)


async def test_the_journal_is_full_when_its_growth_says(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, max_bytes=1024 * KIB) as rig:
        assert rig.buffer.seconds_until_journal_full() is None
        rig.backend.go_away(AWAY)
        for number in range(8):
            await rig.buffer.accept_sessions([session_request(f"S{number}", metadata={"text": "x" * 16 * KIB})])
            await rig.pass_time(10)
        used, grown_per_s = rig.journal.used_bytes, 16 * KIB / 10
        foreseen = rig.buffer.seconds_until_journal_full()
        assert foreseen == pytest.approx((1024 * KIB - used) / grown_per_s, rel=0.3)
        rig.journal._room.max_bytes = used
        assert rig.buffer.seconds_until_journal_full() == 0


async def test_the_figures_add_up(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=40, pressure=2), size=40, max_dead_letters=0) as rig:
        rig.backend.reject(lambda record: getattr(record, "column_name", "") == "poison")
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request("bad", column_name="poison"), task_request("orphan", "nobody")])
        await rig.buffer.flush()
        await outage(rig, 6)
        stats = rig.buffer.stats()
        assert (stats.sessions_count, stats.tasks_count, stats.total_count) == (1, 62, 63)
        assert (stats.set_aside, stats.waiting_for_session) == (1, 1)
        assert stats.memory_records + stats.spilled_records + stats.waiting_for_session == 63
        assert stats.usage_percent == 100 * stats.memory_records / 40
        rig.backend.come_back()


async def test_thousands_that_are_damaged_are_all_counted_in_few_lines(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, interval_s=3600) as rig:
        await outage(rig, 100)
        spilled = rig.waiting.spill.total
        for segment in rig.journal._held:
            segment.home.path.write_bytes(b"\0" * segment.home.path.stat().st_size)
        rig.backend.come_back()
        with capture_logs() as lines:
            await rig.buffer.flush()
        assert rig.journal.stats().lost_ranges == spilled // 10 > 90
        assert rig.journal.stats().unstored_items == 0
        assert 1 <= [line["event"] for line in lines].count("journal_loss") <= 3

"""More refusals than may become dead letters: they wait in the journal, out of the way, and are tried again slowly."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import (
    PersistenceError,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.dead_letter import DeadLetter
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.settings import Durability
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import KIB, Rig, image_of, open_rig, session_request, task_request, task_requests, until


def is_poison(record: Any) -> bool:  # noqa: ANN401  # any record
    return getattr(record, "column_name", "") == "poison"


def poisoned(number: int, prefix: str = "bad") -> list[Any]:
    return [task_request(f"{prefix}{n:05}", column_name="poison") for n in range(number)]


async def flood(rig: Rig, number: int) -> None:
    """A session, and so many tasks of it that the database refuses."""
    rig.backend.reject(is_poison)
    await rig.buffer.accept_sessions([session_request()])
    for start in range(0, number, 500):
        await rig.buffer.accept_tasks(poisoned(min(500, number - start), f"bad{start:05}-"))


async def test_over_the_rate_they_are_set_aside_with_one_alarm_and_good_ones_go_on(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=10) as rig:
        with capture_logs() as lines:
            await flood(rig, 35)
            report = await rig.buffer.flush()
            assert (report.dead_lettered, report.waiting) == (10, 25)
            for number in range(3):
                await rig.buffer.accept_tasks([task_request(f"good{number}"), *poisoned(1, f"more{number}-")])
                assert (await rig.buffer.flush()).tasks_written == 1
        assert [line["event"] for line in lines].count("dead_letters.stopped") == 1
        stats = rig.buffer.stats()
        assert (stats.set_aside, stats.tasks_count, stats.spilled_records) == (28, 28, 28)
        assert stats.dead_lettering_stopped
        assert stats.size_bytes == 0, "they are on disk alone"
        assert rig.flusher.failure is None


async def test_orphans_and_conflicts_do_not_count_for_the_rate(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=1) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks(task_requests(20, "A"))
        await rig.buffer.accept_tasks(task_requests(20, "B"))
        assert (await rig.buffer.flush()).dead_lettered == 20
        assert not rig.buffer.stats().dead_lettering_stopped


async def test_after_a_minute_as_many_again_become_dead_letters_until_all_are(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=10) as rig:
        with capture_logs() as lines:
            await flood(rig, 25)
            await rig.buffer.flush()
            for expected in (20, 25):
                await rig.pass_time(59)
                assert len(await rig.letters()) < expected
                await rig.pass_time(2)
                assert len(await rig.letters()) == expected
            assert rig.buffer.stats().total_count == 0
            assert rig.journal.stats().unstored_items == 0
            await rig.pass_time(61)
            await rig.buffer.flush()
        events = [line["event"] for line in lines if line["event"].startswith("dead_letters.")]
        assert events == ["dead_letters.stopped", "dead_letters.resumed"]
        assert not rig.buffer.stats().dead_lettering_stopped


async def test_the_alarm_is_raised_once_although_sessions_and_tasks_are_refused(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=5) as rig:
        rig.backend.reject(lambda record: isinstance(record, Session | Task) and record.session_id != "S")
        await rig.buffer.accept_sessions([session_request()])
        with capture_logs() as lines:
            for number in range(4):
                await rig.buffer.accept_sessions([session_request(f"X{number}-{n}") for n in range(3)])
                await rig.buffer.accept_sessions([session_request(f"Y{number}-{n}") for n in range(6)])
                await rig.buffer.flush()
        assert [line["event"] for line in lines].count("dead_letters.stopped") == 1


async def test_once_the_database_takes_them_all_groups_are_stored_quickly(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=10) as rig:
        await flood(rig, 1010)
        await rig.buffer.flush()
        assert rig.buffer.stats().set_aside == 1000
        rig.backend.reject(None)
        await rig.pass_time(61)
        await until(lambda: rig.buffer.stats().total_count == 0)
        assert len((await rig.stored())[1]) == 1000
        assert rig.journal.stats().unstored_items == 0
        await rig.pass_time(1)
        assert not rig.buffer.stats().dead_lettering_stopped


@pytest.mark.parametrize("rate", [0, 10])
async def test_the_alarm_lasts_until_nothing_is_set_aside_any_more(tmp_path: Path, rate: int) -> None:
    async with open_rig(tmp_path, max_dead_letters=rate) as rig:
        await flood(rig, 130)
        await rig.buffer.flush()
        for _ in range(20):  # the rate would allow more again, before they are tried
            await rig.pass_time(7)
            await rig.buffer.accept_sessions([session_request("other")])
            await rig.buffer.flush()
            assert rig.buffer.stats().dead_lettering_stopped
        assert rig.waiting.set_aside.queue
        rig.backend.reject(None)
        for _ in range(4):
            await rig.pass_time(61)
        assert rig.buffer.stats().total_count == 0
        assert not rig.buffer.stats().dead_lettering_stopped


async def test_many_small_groups_are_no_slower_than_one(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=10) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        for number in range(50):
            await rig.buffer.accept_tasks(poisoned(1, f"bad{number}-"))
            await rig.buffer.flush()
        assert rig.buffer.stats().set_aside == 40
        for _ in range(5):
            await rig.pass_time(61)
        assert len(await rig.letters()) == 50
        assert rig.buffer.stats().total_count == 0


async def test_that_some_became_dead_letters_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=200) as rig:
        await flood(rig, 500)
        await rig.buffer.flush()
        assert rig.buffer.stats().set_aside == 300
        await rig.pass_time(61)
        await rig.pass_time(1)
        assert len(await rig.letters()) == 400


async def test_memory_is_bounded_in_a_flood(tmp_path: Path) -> None:
    bounds = MemoryBounds(records=500, size_bytes=8 * KIB * KIB)
    async with open_rig(tmp_path, max_dead_letters=10, bounds=bounds, size=250) as rig:
        most = 0

        def watch(record: Any) -> bool:  # noqa: ANN401  # any record
            nonlocal most
            most = max(most, rig.sessions.total + rig.tasks.total)
            return is_poison(record)

        await flood(rig, 5_000)
        rig.backend.reject(watch)
        await rig.buffer.flush()
        assert most <= 2 * 500
        assert rig.buffer.stats().memory_records == 0
        assert rig.buffer.stats().set_aside >= 5_000 - 20


@pytest.mark.parametrize("error", [StorageSetupError("no table", number=1146), UnclassifiedStorageError("what?")])
async def test_memory_is_bounded_while_dead_letters_cant_be_written_and_good_ones_go_on(
    tmp_path: Path, error: PersistenceError
) -> None:
    def letters_fail(record: Any) -> bool:  # noqa: ANN401  # any record
        if isinstance(record, DeadLetter):
            raise error
        return False

    bounds = MemoryBounds(records=100)
    async with open_rig(tmp_path, orphan_grace_s=0, bounds=bounds, size=50, interval_s=5) as rig:
        rig.backend.reject(letters_fail)
        await rig.buffer.accept_sessions([session_request()])
        for number in range(20):
            await rig.buffer.accept_tasks(task_requests(50, "nobody", prefix=f"o{number}-"))
            await rig.buffer.accept_tasks([task_request(f"good{number}")])
            await rig.pass_time(6)
            await rig.pass_time(6)
            assert rig.tasks.total <= 100 + 25 + 50
        await rig.pass_time(6)
        assert len((await rig.stored())[1]) == 20
        assert rig.buffer.stats().tasks_count == 1000
        assert rig.buffer.stats().dead_lettering_stopped
        rig.backend.reject(None)
        for _ in range(30):
            await rig.pass_time(61)
        assert len(await rig.letters()) == 1000
        assert not rig.buffer.stats().dead_lettering_stopped
        assert rig.buffer.stats().total_count == 0


async def test_memory_is_bounded_when_what_arrives_in_an_outage_contradicts_what_waits(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=200, pressure=2)) as rig:
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(100)])
        await rig.buffer.accept_tasks([task_request("T", "S0")])
        for number in range(1, 500):
            await rig.buffer.accept_tasks([task_request("T", f"S{1 + number % 99}", row_index=number)])
        assert rig.sessions.total + rig.tasks.total <= 200
        most = 0

        def watch(record: Any) -> bool:  # noqa: ANN401  # any record
            nonlocal most
            most = max(most, rig.tasks.total)
            return False

        rig.backend.come_back()
        rig.backend.reject(watch)
        await rig.buffer.flush()
        assert most <= 50 + 200, "and what one stretch of the journal brings"
        assert {letter.session_id for letter in await rig.letters()} == {f"S{n}" for n in range(1, 100)}
        assert rig.buffer.stats().total_count == 0


async def test_orphans_alone_never_keep_away_what_they_wait_for(tmp_path: Path) -> None:
    async with asyncio.timeout(60), open_rig(tmp_path, bounds=MemoryBounds(records=20, pressure=2)) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks(task_requests(5, "late", prefix="orphan"))
        await rig.buffer.flush()
        assert rig.tasks.orphans == 5
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_tasks(task_requests(20))
        await rig.buffer.accept_sessions([session_request("late")])
        assert rig.buffer.stats().spilled_records == 1
        rig.backend.come_back()
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 25


async def test_old_segments_go_although_bad_records_wait(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, segment_bytes=4 * KIB) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        for number in range(60):
            good = task_requests(3, prefix=f"good{number}-")
            await rig.buffer.accept_tasks([*good, *poisoned(1)] if number == 0 else good)
            await rig.buffer.flush()
        assert rig.buffer.stats().set_aside == 1
        first = next(iter(rig.journal._held))
        assert first.number >= 1
        await until(lambda: rig.journal.stats().segments <= 4)


async def test_however_large_they_are_they_go_to_the_journal_in_parts(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, segment_bytes=KIB * KIB) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        large = [task_request(f"bad{n}", column_name="poison", source_text="x" * KIB * KIB) for n in range(11)]
        for task in large:
            await rig.buffer.accept_tasks([task])
        await rig.buffer.flush()
        groups = list(rig.waiting.set_aside.queue.first(100))
        assert sum(group.items for group in groups) == 11
        assert [group.items for group in groups if group.position.length > 5 * KIB * KIB] == []
        assert len(groups) < 11


async def scatter(rig: Rig, batches: int) -> None:
    """So many flushes, each with one bad record among many good ones that fill the journal's segments."""
    rig.backend.reject(is_poison)
    await rig.buffer.accept_sessions([session_request()])
    for number in range(batches):
        good = [task_request(f"ok{number}-{n}", source_text="z" * 300) for n in range(20)]
        await rig.buffer.accept_tasks([*good, *poisoned(1, f"bad{number}-")])
        await rig.buffer.flush()


async def test_a_few_bad_records_among_many_good_ones_never_fill_the_journal(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal", max_dead_letters=0, max_bytes=256 * KIB, segment_bytes=8 * KIB) as rig:
        await scatter(rig, 100)
        assert rig.buffer.stats().set_aside == 100
        await until(lambda: rig.journal.used_bytes <= 160 * KIB)
        assert {batch.items for batch in rig.waiting.set_aside.queue.first(100)} != {1}
        image = image_of(rig.directory)
    async with open_rig(image) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.flush()
        assert {key for key in (await rig.stored())[1] if key.startswith("bad")} == {
            f"bad{n}-00000" for n in range(100)
        }


async def test_a_group_that_is_drawn_together_and_damaged_is_told_as_loss(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, segment_bytes=8 * KIB) as rig:
        await scatter(rig, 30)
        batch = rig.waiting.set_aside.queue.oldest
        assert batch is not None
        with batch.position.segment.home.path.open("r+b") as file:
            file.seek(batch.position.offset + batch.position.length // 2)
            file.write(b"damage")
        rig.journal._room.max_bytes = rig.journal.used_bytes + 16 * KIB
        await rig.buffer.accept_tasks(task_requests(1))
        await rig.buffer.flush()
        assert [loss.first_sequence for loss in rig.journal.stats().losses] == [batch.position.sequence]
        assert rig.buffer.stats().set_aside == 29


async def test_what_fills_the_journal_by_itself_is_not_written_over_and_over(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, max_bytes=192 * KIB, segment_bytes=8 * KIB) as rig:
        await flood(rig, 300)
        await rig.buffer.flush()
        assert rig.waiting.set_aside.queue.size_bytes > 96 * KIB
        await until(lambda: not rig.journal.stats().full)
        before = rig.journal.stats().appended_records
        for number in range(5):
            await rig.buffer.accept_sessions([session_request(f"S{number}")])
            await rig.buffer.flush()
        assert rig.journal.stats().appended_records == before + 5


async def test_a_full_journal_does_not_prevent_it(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, max_bytes=64 * KIB, segment_bytes=16 * KIB) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks(poisoned(80))
        rig.journal._room.max_bytes = 1
        report = await rig.buffer.flush()
        assert report.waiting == 80
        assert rig.buffer.stats().size_bytes == 0


async def test_on_a_full_disk_bad_records_stay_in_memory_and_good_ones_go_on(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with open_rig(tmp_path, max_dead_letters=0, files=files, interval_s=5) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([*poisoned(20), *task_requests(20)])
        files.fail("writev", errno.ENOSPC)
        receipt = asyncio.create_task(rig.buffer.flush())
        assert (await receipt).waiting == 20
        assert len((await rig.stored())[1]) == 20
        await rig.rests()
        assert rig.buffer.stats().set_aside == rig.tasks.refused == 20
        assert rig.flusher.failure is not None
        files.heal()
        await until(lambda: rig.journal.stats().failing is None)
        await rig.pass_time(31)
        await until(lambda: rig.tasks.refused == 0)
        assert rig.buffer.stats().set_aside == 20
        assert rig.journal.stats().unstored_items == 20


async def test_on_a_full_disk_what_waits_in_the_journal_is_not_all_drawn_into_memory(tmp_path: Path) -> None:
    files = FaultyFiles()
    bounds = MemoryBounds(records=40)
    async with open_rig(tmp_path, max_dead_letters=0, files=files, bounds=bounds, size=20) as rig:
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_sessions([session_request()])
        for number in range(100):
            await rig.buffer.accept_tasks(poisoned(10, f"bad{number}-"))
        await rig.buffer.accept_tasks(task_requests(10))
        rig.backend.come_back()
        rig.backend.reject(is_poison)
        files.fail("writev", errno.ENOSPC)
        for _ in range(10):
            await rig.pass_time(31)
        assert rig.tasks.total <= 2 * 40
        files.heal()
        await until(lambda: rig.journal.stats().failing is None)
        for _ in range(3):
            await rig.pass_time(31)
        await until(lambda: not rig.waiting.spill)
        assert len((await rig.stored())[1]) == 10
        assert rig.buffer.stats().set_aside == 1000


async def test_they_do_not_come_back_to_memory_while_the_database_is_away(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, bounds=MemoryBounds(records=300), size=100) as rig:
        await flood(rig, 1000)
        await rig.buffer.flush()
        assert rig.buffer.stats().set_aside == 1000
        rig.backend.go_away(StorageUnavailable("gone"))
        for _ in range(20):
            await rig.pass_time(61)
        assert rig.waiting.room.unflushed <= 300
        rig.backend.come_back()
        rig.backend.reject(None)
        await rig.pass_time(61)
        await until(lambda: rig.buffer.stats().total_count == 0)


async def test_they_wait_behind_what_is_new_and_waits_on_disk(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0, bounds=MemoryBounds(records=20, pressure=2), size=20) as rig:
        await flood(rig, 5)
        await rig.buffer.flush()
        rig.backend.go_away(StorageUnavailable("gone"))
        for number in range(4):
            await rig.buffer.accept_tasks(task_requests(10, prefix=f"new{number}-"))
        await rig.waiting.set_aside.try_again()
        assert rig.waiting.set_aside.queue.total == 5
        rig.backend.come_back()
        await rig.buffer.flush()
        await rig.waiting.set_aside.try_again()
        assert rig.waiting.set_aside.queue.total == 0


async def test_a_replay_that_takes_longer_than_their_pause_is_not_held_up(tmp_path: Path) -> None:
    async with asyncio.timeout(60), open_rig(tmp_path, max_dead_letters=0, start=False) as rig:
        await rig.start(replay=False)
        await flood(rig, 30)
        with pytest.raises(TimeoutError):
            await rig.flusher.flush(timeout_s=0)
        await rig.pass_time(1)
        for _ in range(3):
            await rig.pass_time(61)
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await until(lambda: not rig.buffer.replaying)


async def test_they_are_tried_again_after_a_crash(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal", max_dead_letters=0) as rig:
        await flood(rig, 30)
        await rig.buffer.flush()
        assert rig.buffer.stats().set_aside == 30
        image = await rig.crash()
    async with open_rig(image, max_dead_letters=0) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 30


async def test_a_group_that_is_damaged_on_disk_is_told_as_loss(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0) as rig:
        await flood(rig, 130)
        await rig.buffer.flush()
        batch = rig.waiting.set_aside.queue.oldest
        assert batch is not None
        with batch.position.segment.home.path.open("r+b") as file:
            file.seek(batch.position.offset + batch.position.length // 2)
            file.write(b"damage")
        rig.backend.reject(None)
        await rig.pass_time(61)
        await until(lambda: rig.buffer.stats().total_count == 0)
        assert [loss.first_sequence for loss in rig.journal.stats().losses] == [batch.position.sequence]
        assert len((await rig.stored())[1]) == 30


async def test_a_sender_that_waits_for_storage_hears_that_they_wait(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        receipt = await rig.buffer.accept_tasks([*poisoned(1), task_request()], Durability.STORAGE)
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (0, "waiting", "data_rejected")
        ]

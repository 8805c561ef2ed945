"""Deleted records in the buffer: they meet nothing that is newer, and are found in no read."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from persistence_service.buffer.deleted import DeletedSessions
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import DataRejected, StorageUnavailable, UnclassifiedStorageError
from persistence_service.models.status import Status
from persistence_service.models.times import parse_time
from persistence_service.models.tombstone import Tombstone
from persistence_service.settings import Durability
from persistence_service.storage.collections import SESSIONS, TOMBSTONES
from persistence_service.storage.query import Equals
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import When
from tests.unit.buffer.harness import Rig, open_rig, session_request, task_request

OLD, DELETED, NEW = (f"2026-01-0{day}T00:00:00Z" for day in (1, 2, 3))
_UP_TO = parse_time(DELETED)


async def delete(rig: Rig, session_id: str = "S", up_to: datetime = _UP_TO) -> None:
    """As the service for deletions does it, when nothing else is going on."""
    await rig.backend.inner.write(TOMBSTONES, [Tombstone(session_id, up_to, up_to, up_to, up_to)])
    await rig.backend.inner.delete(SESSIONS, [Equals("session_id", session_id)])
    rig.buffer.note_deleted(session_id, up_to)


async def test_a_task_begun_anew_is_stored_although_the_deleted_one_was_completed_and_still_buffered(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD)])
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED, event_time=OLD)])
        await delete(rig)
        assert rig.buffer.stats().total_count == 0
        await rig.buffer.accept_sessions([session_request(event_time=NEW)])
        await rig.buffer.accept_tasks([task_request(event_time=NEW)])
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED, event_time=OLD)])  # a late retry
        seen = await rig.unstored_task("T")
        assert seen is not None
        assert seen.status is Status.PENDING
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert task.status is Status.PENDING
        assert rig.metrics.gone == {"translation_sessions": 1, "translation_tasks": 2}


async def test_a_deleted_task_in_flight_is_no_conflict_for_one_of_another_session(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD), session_request("B")])
        await rig.buffer.flush()
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_tasks([task_request(event_time=OLD)])
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        await delete(rig)
        await rig.buffer.accept_tasks([task_request(session_id="B")])
        rig.backend.come_back()
        report = await rig.buffer.flush()
        assert report.dead_lettered == 0
        task = await rig.stored_task("T")
        assert task is not None
        assert task.session_id == "B"


async def test_a_deleted_task_that_waits_again_is_not_mixed_with_one_of_another_session(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD), session_request("B")])
        await rig.buffer.flush()
        rig.backend.hold()
        rig.backend.fail_next(UnclassifiedStorageError("what?", number=1), when=When.BEFORE_COMMIT)
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED, event_time=OLD)])
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        rig.buffer.note_deleted("S", _UP_TO)
        await rig.buffer.accept_tasks([task_request(session_id="B")])
        rig.backend.release()
        with pytest.raises(StorageUnavailable):
            await flush
        await delete(rig)
        assert (await rig.buffer.flush()).dead_lettered == 0
        task = await rig.stored_task("T")
        assert task is not None
        assert (task.session_id, task.status) == ("B", Status.PENDING)


@pytest.mark.parametrize("is_begun_anew", [False, True])
async def test_a_task_that_is_deleted_while_it_is_found_to_be_an_orphan_waits_no_more_and_takes_nothing_along(
    tmp_path: Path, *, is_begun_anew: bool
) -> None:
    async with open_rig(tmp_path, orphan_grace_s=50) as rig:
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED, event_time=OLD)])
        rig.backend.hold()
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        rig.buffer.note_deleted("S", _UP_TO)  # its session waited with another worker
        if is_begun_anew:
            await rig.buffer.accept_tasks([task_request(event_time=NEW)])
        rig.backend.release()
        await flush
        await rig.backend.inner.write(TOMBSTONES, [Tombstone("S", _UP_TO, _UP_TO, _UP_TO, _UP_TO)])
        if is_begun_anew:
            await rig.buffer.accept_sessions([session_request(event_time=NEW)])
        await rig.pass_time(61)
        assert (await rig.stored())[1] == (["T"] if is_begun_anew else [])
        assert await rig.letters() == []
        assert rig.metrics.gone == {"translation_tasks": 1}


async def test_an_orphan_that_is_deleted_before_its_letter_is_made_has_none(tmp_path: Path) -> None:
    async with open_rig(tmp_path, orphan_grace_s=50) as rig:
        await rig.buffer.accept_sessions([session_request("B")])
        await rig.buffer.accept_tasks([task_request(event_time=OLD)])
        await rig.buffer.flush()
        await rig.pass_time(31)
        rig.backend.fail_next(StorageUnavailable("gone"))
        await rig.buffer.accept_tasks([task_request("other", "B")])
        await rig.pass_time(30)
        assert rig.tasks.refused == 1
        await delete(rig)
        await rig.buffer.flush()
        assert (rig.tasks.refused, await rig.letters()) == (0, [])
        assert rig.metrics.gone == {"translation_tasks": 1}


async def test_a_buffered_task_of_a_session_that_somebody_else_deleted_is_no_conflict_for_one_of_another(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD), session_request("B")])
        await rig.buffer.accept_tasks([task_request(event_time=OLD)])
        await rig.backend.inner.write(TOMBSTONES, [Tombstone("S", _UP_TO, _UP_TO, _UP_TO, _UP_TO)])
        receipt = await rig.buffer.accept_tasks([task_request(session_id="B")], Durability.STORAGE)
        assert receipt.not_stored == ()
        task = await rig.stored_task("T")
        assert task is not None
        assert task.session_id == "B"


async def test_what_waited_behind_a_deleted_task_shows_at_once(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD), session_request("B")])
        await rig.buffer.accept_tasks([task_request(event_time=OLD)])
        await rig.buffer.accept_tasks([task_request(session_id="B")])
        await delete(rig)
        seen = await rig.unstored_task("T")
        assert seen is not None
        assert seen.session_id == "B"


async def test_spilled_records_that_are_deleted_do_not_show_beside_newer_ones(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=2, bounds=MemoryBounds(records=2)) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD)])
        await rig.buffer.flush()
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_tasks([task_request(f"fill{n}") for n in range(2)])
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED, event_time=OLD)])
        assert rig.buffer.stats().spilled_records == 1
        await delete(rig)
        assert await rig.unstored_task("T") is None
        await rig.buffer.accept_tasks([task_request(event_time=NEW)])
        seen = await rig.unstored_task("T")
        assert seen is not None
        assert seen.status is Status.PENDING


async def test_a_sender_that_waits_for_storage_hears_that_its_records_were_deleted_before(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(event_time=OLD), session_request("B")])
        await rig.buffer.flush()
        await rig.backend.inner.write(TOMBSTONES, [Tombstone("B", _UP_TO, _UP_TO, _UP_TO, _UP_TO)])  # somebody else
        await delete(rig)
        late = [task_request("known", event_time=OLD), task_request("unknown", "B", event_time=OLD)]
        receipt = await rig.buffer.accept_tasks(late, Durability.STORAGE)
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (0, "dropped", "session_deleted"),
            (1, "dropped", "session_deleted"),
        ]
        assert receipt.durability is Durability.JOURNAL


async def test_what_is_set_aside_can_be_read_and_deleted(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_dead_letters=0) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.flush()
        rig.backend.reject(lambda record: getattr(record, "column_name", "") == "poison")
        rig.backend.fail_next(DataRejected("no"))
        await rig.buffer.accept_tasks([task_request(column_name="poison", event_time=OLD)])
        await rig.buffer.flush()
        assert rig.waiting.set_aside.queue.total == 1
        seen = await rig.unstored_task("T")
        assert seen is not None
        assert rig.buffer.is_waiting("S")
        assert await rig.buffer.newest_of("S", parse_time("2025-01-01T00:00:00Z")) == parse_time(OLD)
        await delete(rig)
        assert await rig.unstored_task("T") is None


async def test_stamps_go_on_after_those_of_deletions_whatever_the_wall_clock_does_meanwhile(tmp_path: Path) -> None:
    timing = ManualTiming()
    async with open_rig(tmp_path / "journal", timing=timing) as rig:
        stamp = await rig.buffer.next_stamp()
        image = await rig.crash()
    for place in (tmp_path / "journal", image):  # after an orderly stop, and after a crash
        earlier = ManualTiming()
        earlier.set_wall(timing.wall_us() - 60_000_000)
        async with open_rig(place, timing=earlier) as rig:
            assert await rig.buffer.next_stamp() > stamp
            assert rig.buffer.stats().unreadable == 0


def test_the_latest_deletion_of_a_session_counts_and_only_the_latest_sessions_are_remembered() -> None:
    deleted = DeletedSessions()
    deleted.note("S", _UP_TO)
    deleted.note("S", _UP_TO - timedelta(days=1))
    assert deleted.up_to("S") == _UP_TO
    for number in range(10_000):
        deleted.note(f"S{number}", _UP_TO)
    assert deleted.up_to("S") is None
    assert deleted.up_to("S9999") == _UP_TO

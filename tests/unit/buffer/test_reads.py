"""Single records, and what is asked about a session, wherever what was accepted waits."""

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.models.status import Status
from persistence_service.models.times import from_micros
from tests.unit.buffer.harness import KIB, Rig, open_rig, session_request, task_request, task_requests, until
from tests.unit.buffer.test_spill import AWAY, SMALL, outage


async def statuses(rig: Rig, *keys: str) -> list[Status | None]:
    found = [await rig.unstored_task(key) for key in keys]
    return [None if task is None else task.status for task in found]


async def test_a_record_is_read_wherever_its_versions_are(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request("everywhere"), task_request("stored")])
        await rig.buffer.flush()
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_tasks([task_request("everywhere", status=Status.FAILED)])
        await outage(rig, 3)
        await rig.buffer.accept_tasks([task_request("everywhere", status=Status.COMPLETED), task_request("spilled")])
        await rig.buffer.accept_tasks([task_request("everywhere", status=Status.PROCESSING)])
        await rig.buffer.accept_tasks([task_request("spilled", status=Status.PROCESSING)])
        assert await statuses(rig, "everywhere", "spilled", "T002-00009", "stored", "never") == [
            Status.COMPLETED,
            Status.PROCESSING,
            Status.PENDING,
            None,
            None,
        ]
        rig.backend.come_back()
        await rig.buffer.flush()
        task = await rig.stored_task("everywhere")
        assert task is not None
        assert task.status is Status.COMPLETED


async def test_a_session_is_read_from_memory_and_disk_together(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 3)
        await rig.buffer.accept_sessions([session_request("late"), session_request(status=Status.COMPLETED)])
        await rig.buffer.accept_sessions([session_request(total_tasks=7, event_time="2026-01-01T00:00:00Z")])
        session, late = await rig.buffer.session("S"), await rig.buffer.session("late")
        assert session is not None
        assert (session.status, session.total_tasks) == (Status.COMPLETED, 7)
        assert late is not None
        rig.backend.come_back()


async def test_a_read_during_the_drain_misses_nothing(tmp_path: Path) -> None:
    """The record is, at every moment, on disk, in memory or stored; a reader that looks in that order finds it."""
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 30)
        rig.backend.come_back()
        flush = asyncio.create_task(rig.buffer.flush())
        keys = [f"T{batch:03}-{number:05}" for batch in range(30) for number in range(10)]
        reads = 0
        while not flush.done():
            for key in keys[reads % 7 :: 37]:
                found = await rig.unstored_task(key) or await rig.stored_task(key)
                assert found is not None, key
                reads += 1
            await asyncio.sleep(0)
        await flush
        assert reads > 5, "it was read while it was drained"


async def test_what_is_drained_while_it_is_read_is_not_removed_under_the_reader(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10, segment_bytes=4 * KIB) as rig:
        await outage(rig, 10)
        read_many = rig.journal.read_many
        at_gate, gate = asyncio.Event(), asyncio.Event()

        async def held_back(positions: object) -> object:
            at_gate.set()
            await gate.wait()
            return await read_many(positions)  # type: ignore[arg-type]  # passed on as they are

        rig.journal.read_many = held_back  # type: ignore[method-assign,assignment]  # the race
        reading = asyncio.create_task(rig.unstored_task("T009-00009"))
        await at_gate.wait()
        rig.journal.read_many = read_many  # type: ignore[method-assign]  # as it was
        rig.backend.come_back()
        await rig.buffer.flush()
        gate.set()
        assert await reading is not None
        await until(lambda: rig.journal.stats().segments <= 2)


async def test_keys_that_fall_together_in_the_index_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence_service.buffer.key_index.hash", lambda key: 7, raising=False)
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 5)
        found = await rig.unstored_task("T004-00003")
        assert found is not None
        assert found.task_id == "T004-00003"
        assert await rig.unstored_task("never") is None
        assert await rig.buffer.session("never") is None


async def test_a_conflicting_record_on_disk_does_not_change_what_is_read(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request("T", "A")])
        await outage(rig, 3)
        await rig.buffer.accept_tasks([task_request("T", "B", status=Status.COMPLETED)])
        assert [task.session_id for task in await rig.buffer.tasks("T")] == ["A", "B"]
        rig.backend.come_back()
        await rig.buffer.flush()
        assert [letter.reason for letter in await rig.letters()] == ["task_id_conflict"]


async def test_deleted_records_are_left_out_of_reads_wherever_they_wait(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=SMALL, size=10) as rig:
        await outage(rig, 4)
        session = await rig.buffer.session("S")
        newest = await rig.unstored_task("T003-00009")
        assert session is not None
        assert newest is not None
        rig.buffer.note_deleted("S", newest.event_time)
        assert await statuses(rig, "T000-00000", "T003-00009") == [None, None]
        assert await rig.buffer.session("S") is None
        await rig.buffer.accept_tasks([task_request("newer")])
        assert await statuses(rig, "newer") == [Status.PENDING]
        rig.backend.come_back()


async def test_what_is_newest_and_what_waits_counts_every_place(tmp_path: Path) -> None:
    places = {"memory": "M", "flight": "F", "orphan": "O", "refused": "R", "disk": "D"}
    async with open_rig(tmp_path, bounds=MemoryBounds(records=8, pressure=2), size=8, max_dead_letters=0) as rig:
        rig.backend.reject(lambda record: getattr(record, "column_name", "") == "poison")
        await rig.buffer.accept_sessions([session_request("R")])
        await rig.buffer.accept_tasks([task_request("o", "O"), task_request("r", "R", column_name="poison")])
        await rig.buffer.flush()
        rig.backend.hold()
        await rig.buffer.accept_sessions([session_request("F")])
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_sessions([session_request("M")])
        await rig.buffer.accept_tasks(task_requests(7, "D"))
        assert rig.waiting.spill.total == 7
        is_waiting = rig.buffer.is_waiting
        assert {name: is_waiting(session_id) for name, session_id in places.items()} == dict.fromkeys(places, True)
        assert not is_waiting("nobody")
        long_ago = long_before(rig)
        for session_id in places.values():
            assert await rig.buffer.newest_of(session_id, long_ago) is not None, session_id
            assert await rig.buffer.newest_of(session_id, await rig.buffer.next_stamp()) is None
        assert await rig.buffer.newest_of("nobody", long_ago) is None
        rig.backend.release()
        await flush


def long_before(rig: Rig) -> datetime:
    """A time before everything that was accepted."""
    return from_micros(rig.timing.wall_us() - 10**9)

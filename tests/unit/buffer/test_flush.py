"""When a flush starts, what it writes, and that nobody waits for it who does not ask."""

import asyncio
from pathlib import Path

import pytest

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import ShuttingDown, StorageUnavailable
from persistence_service.models.status import Status
from persistence_service.settings import Durability
from persistence_service.storage.collections import TASKS
from tests.unit.buffer.harness import KIB, let_all_run, open_rig, session_request, task_request, task_requests, until


async def test_reaching_the_size_starts_a_flush(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=10) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks(task_requests(9))
        await let_all_run()
        assert rig.backend.transactions == 0
        await rig.buffer.accept_tasks(task_requests(1, prefix="U"))
        await until(lambda: rig.buffer.stats().total_count == 0)
        assert rig.metrics.flushes == {"size": 1}
        assert len((await rig.stored())[1]) == 10


async def test_the_oldest_record_reaching_the_interval_starts_a_flush(tmp_path: Path) -> None:
    async with open_rig(tmp_path, interval_s=30) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.pass_time(20)
        await rig.buffer.accept_sessions([session_request("S2")])
        await rig.pass_time(9.9)
        assert rig.backend.transactions == 0
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(29.9)
        await rig.pass_time(0.2)
        assert await rig.stored() == (["S", "S2"], [])
        assert rig.metrics.flushes == {"age": 1}
        assert rig.buffer.oldest_unstored_age_s() == 0


async def test_a_request_starts_a_flush_and_is_told_what_was_written(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([*task_requests(3), task_request("orphan", "nobody")])
        report = await rig.buffer.flush()
        assert (report.sessions_written, report.tasks_written, report.waiting, report.dead_lettered) == (1, 3, 1, 0)
        assert rig.metrics.flushes == {"request": 1}
        assert rig.metrics.rows == {"translation_sessions": 1, "translation_tasks": 3}


async def test_memory_pressure_starts_a_flush(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=10, pressure=0.5), size=10) as rig:
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(4)])
        await let_all_run()
        assert rig.backend.transactions == 0
        await rig.buffer.accept_sessions([session_request("S4")])
        await until(lambda: bool(rig.metrics.flushes))
        assert (rig.metrics.flushes, rig.buffer.stats().total_count) == ({"memory": 1}, 0)


async def test_bytes_press_as_well_as_records(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(size_bytes=10 * KIB)) as rig:
        await rig.buffer.accept_sessions([session_request(metadata={"text": "x" * 9 * KIB})])
        await until(lambda: bool(rig.metrics.flushes))
        assert (rig.metrics.flushes, rig.buffer.stats().total_count) == ({"memory": 1}, 0)


async def test_shutting_down_flushes_and_is_counted_as_such(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.buffer.begin_shutdown()
        await rig.flusher.stop(drain_s=30)
        assert rig.metrics.flushes == {"shutdown": 1}
        assert await rig.stored() == (["S"], [])
        with pytest.raises(ShuttingDown):
            await rig.buffer.accept_sessions([session_request("late")])


async def test_one_flush_is_in_flight_and_nobody_waits_for_it_who_does_not_ask(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=1) as rig:
        rig.backend.hold()
        await rig.buffer.accept_sessions([session_request()])
        await rig.backend.held()
        for number in range(20):  # each reaches the size anew, and each is acknowledged at once
            await rig.buffer.accept_sessions([session_request(f"S{number}")])
        assert rig.backend.transactions == 1
        rig.backend.release()
        await until(lambda: rig.buffer.stats().total_count == 0)
        assert len((await rig.stored())[0]) == 21


async def test_a_flush_writes_what_came_before_it_and_ends_although_more_comes(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("before")])
        rig.backend.hold()
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_sessions([session_request("after")])
        rig.backend.release()
        assert (await flush).sessions_written == 1
        assert await rig.stored() == (["before"], [])


async def test_a_flush_ends_although_more_comes_all_the_while_of_a_task_that_another_session_claims(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request(name) for name in ("own", "other")])
        await rig.buffer.flush()
        await rig.buffer.accept_tasks([task_request(session_id=name) for name in ("own", "other")])
        rig.backend.hold()
        flush = asyncio.create_task(rig.buffer.flush())
        for _ in range(3):  # the task, the other session's, and that one's letter
            await rig.backend.held()
            await rig.buffer.accept_tasks([task_request(session_id="own", status=Status.PROCESSING)])
            rig.backend.release()
            rig.backend.hold()
        rig.backend.release()
        assert (await flush).dead_lettered == 1
        written = [record.session_id for name, (record, *_) in rig.backend.written if name == TASKS.name]
        assert written[:2] == ["own", "other"]
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert (task.session_id, task.status) == ("own", Status.PROCESSING)


async def test_a_claim_of_another_session_that_comes_amid_a_flush_is_written_within_the_interval(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path, interval_s=30) as rig:
        await rig.buffer.accept_sessions([session_request(name) for name in ("own", "other")])
        await rig.buffer.flush()
        await rig.buffer.accept_tasks([task_request(session_id="own")])
        rig.backend.hold()
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_tasks([task_request(session_id="other")])
        rig.backend.release()
        await flush
        await rig.pass_time(29)
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(29)
        await rig.pass_time(2)
        assert [letter.session_id for letter in await rig.letters()] == ["other"]
        assert rig.buffer.stats().total_count == 0


async def test_two_flushes_asked_for_in_turn_are_both_answered(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("first")])
        rig.backend.hold()
        first = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_sessions([session_request("second")])
        second = asyncio.create_task(rig.buffer.flush())
        await let_all_run()
        rig.backend.release()
        await asyncio.gather(first, second)
        assert await rig.stored() == (["first", "second"], [])


async def test_a_flush_that_nobody_waits_for_any_more_is_not_asked_for(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.hold()
        await rig.buffer.accept_sessions([session_request()])
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_sessions([session_request("S2")])
        late = asyncio.create_task(rig.buffer.flush())
        await let_all_run()
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        rig.backend.release()
        await flush
        await rig.rests()
        assert rig.metrics.flushes == {"request": 1}
        assert rig.buffer.stats().sessions_count == 1


async def test_sessions_go_before_their_tasks_whatever_came_first(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks(task_requests(5))
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.flush()
        assert [name for name, _ in rig.backend.written] == ["translation_sessions", "translation_tasks"]
        assert rig.buffer.stats().waiting_for_session == 0


async def test_a_chunk_is_bounded_by_rows_and_by_bytes(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=100, chunk_bytes=10 * KIB) as rig:
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request(f"T{n}", source_text="x" * 4 * KIB) for n in range(6)])
        await rig.buffer.accept_tasks([task_request("huge", source_text="x" * 50 * KIB)])
        await rig.buffer.flush()
        sizes = [len(records) for name, records in rig.backend.written if name == "translation_tasks"]
        assert sizes == [2, 2, 2, 1]


async def test_records_of_one_key_within_a_flush_cost_one_row(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        for status in (Status.PENDING, Status.PROCESSING, Status.COMPLETED):
            receipt = await rig.buffer.accept_tasks([task_request(status=status)] * 2)
            assert receipt.count == 2
        assert rig.buffer.stats().tasks_count == 1
        assert rig.buffer.stats().merged == 5
        await rig.buffer.flush()
        assert sum(len(records) for _, records in rig.backend.written) == 2
        task = await rig.stored_task("T")
        assert task is not None
        assert task.status == Status.COMPLETED


async def test_storage_durability_waits_until_the_batch_is_in_the_backend(tmp_path: Path) -> None:
    async with open_rig(tmp_path, min_ack=Durability.JOURNAL) as rig:
        receipt = await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        assert (receipt.durability, receipt.not_stored) == (Durability.STORAGE, ())
        assert await rig.stored() == (["S"], [])
        assert (await rig.buffer.accept_tasks([])).count == 0
        assert (await rig.buffer.accept_tasks([task_request()], Durability.MEMORY)).durability is Durability.JOURNAL


async def test_storage_durability_outlasts_a_passing_failure(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.fail_next(StorageUnavailable("deadlock", number=1213))
        accepting = asyncio.create_task(rig.buffer.accept_sessions([session_request()], Durability.STORAGE))
        await until(lambda: rig.flusher.failure is not None)
        await rig.pass_time(1)
        assert (await accepting).durability is Durability.STORAGE


async def test_storage_durability_says_what_is_not_stored_when_its_time_is_over(tmp_path: Path) -> None:
    async with open_rig(tmp_path, ack_timeout_s=3) as rig:
        rig.backend.go_away(StorageUnavailable("gone"))
        accepting = asyncio.create_task(rig.buffer.accept_sessions([session_request()], Durability.STORAGE))
        await until(lambda: rig.flusher.failure is not None)
        for _ in range(4):
            await rig.pass_time(1)
        receipt = await accepting
        assert receipt.durability is Durability.JOURNAL
        assert [(item.index, item.reason) for item in receipt.not_stored] == [(0, "storage_unavailable")]
        rig.backend.come_back()
        await rig.buffer.flush()


async def test_storage_durability_names_orphans_and_refused_records_at_once(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.reject(lambda record: getattr(record, "source_text", "") == "poison")
        receipt = await rig.buffer.accept_tasks(
            [
                task_request("good"),
                task_request("orphan", "nobody"),
                task_request("bad", source_text="poison", event_time="2026-01-31T10:00:01Z"),
                task_request("bad", event_time="2026-01-31T10:00:00Z"),  # loses to the one before, and shares its fate
                task_request("good", "elsewhere"),
            ],
            Durability.STORAGE,
        )
        assert receipt.durability is Durability.JOURNAL
        assert [(item.index, item.reason) for item in receipt.not_stored] == [
            (1, "unknown_session"),
            (2, "data_rejected"),
            (3, "data_rejected"),
            (4, "task_id_conflict"),
        ]


async def test_storage_durability_is_not_denied_for_what_came_later_under_the_key(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.hold()
        accepting = asyncio.create_task(rig.buffer.accept_tasks([task_request()], Durability.STORAGE))
        await rig.backend.held()
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED)])
        rig.backend.release()
        assert (await accepting).durability is Durability.STORAGE
        assert rig.buffer.stats().tasks_count == 1

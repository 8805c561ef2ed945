"""What happens when the backend fails, refuses, is away, or does not say whether it committed."""

import asyncio
from pathlib import Path

import pytest

from persistence_service.buffer.backoff import Backoff
from persistence_service.errors import (
    PersistenceError,
    SchemaTooNew,
    ShuttingDown,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.status import Status
from persistence_service.settings import Durability
from persistence_service.testing.faulty_backend import When
from tests.unit.buffer.harness import Away, let_all_run, open_rig, session_request, task_request, task_requests, until

AWAY = StorageUnavailable("gone", number=2006)


def test_the_backoff_doubles_with_jitter_up_to_its_longest_and_starts_anew_after_a_success() -> None:
    backoff = Backoff(first_s=1, longest_s=8)
    for bound in (1, 2, 4, 8, 8, 8):
        assert bound / 2 <= backoff.next_delay_s() <= bound
    assert backoff.failures == 6
    backoff.reset()
    assert backoff.next_delay_s() <= 1
    assert len({Backoff().next_delay_s() for _ in range(20)}) > 1


@pytest.mark.parametrize("when", list(When))
async def test_a_failed_chunk_stays_at_the_head_and_is_repeated(tmp_path: Path, when: When) -> None:
    async with open_rig(tmp_path, size=10) as rig:
        rig.backend.fail_next(AWAY, when=when)
        await rig.buffer.accept_sessions([session_request(f"A{n}") for n in range(10)])
        await until(lambda: rig.flusher.failure is not None)
        await rig.buffer.accept_sessions([session_request(f"B{n}") for n in range(10)])
        assert rig.buffer.stats().sessions_count == 20
        await rig.pass_time(0.2)
        await until(lambda: rig.buffer.stats().sessions_count == 0)
        assert [[s.session_id[0] for s in records] for _, records in rig.backend.written][-2:] == [
            ["A"] * 10,
            ["B"] * 10,
        ]
        assert len((await rig.stored())[0]) == 20
        assert rig.flusher.failure is None
        assert rig.metrics.rows["translation_sessions"] == 20


async def test_the_backoff_is_kept_when_the_class_of_error_changes_and_reset_by_success(tmp_path: Path) -> None:
    errors: list[PersistenceError] = [AWAY, StorageSetupError("no table"), UnclassifiedStorageError("what?"), AWAY]
    async with open_rig(tmp_path, interval_s=3600) as rig:
        await rig.buffer.accept_sessions([session_request()])
        for error in errors:
            rig.backend.fail_next(error)
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        pauses = []
        for _ in errors:
            await rig.rests()
            pauses.append(rig.timing.seconds_to_deadlines[0])
            await rig.pass_time(pauses[-1])
        for number, (error, pause) in enumerate(zip(errors, pauses, strict=True)):
            if error is AWAY:
                assert 0.05 * 2**number <= pause <= 0.1 * 2**number + 1e-9
            else:
                assert pause == pytest.approx(5), "a person must act first"
        await until(lambda: rig.buffer.stats().sessions_count == 0)
        assert rig.metrics.failures == [error.code for error in errors]
        assert rig.flusher._backoff.failures == 0


async def test_it_retries_for_ever_and_no_more_often_than_the_backoff_says(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=5, interval_s=3600) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(5)])
        await until(lambda: rig.flusher.failure is not None)
        for number in range(200):  # batches that go on coming do not hurry it
            await rig.buffer.accept_sessions([session_request(f"T{number}")])
            await rig.pass_time(1)
        assert 10 < len(rig.metrics.failures) < 30
        rig.backend.come_back()
        await rig.pass_time(30)
        await until(lambda: rig.buffer.stats().sessions_count == 0)
        assert len((await rig.stored())[0]) == 205


async def test_a_backend_that_says_it_works_again_is_not_kept_waiting_for_the_end_of_the_backoff(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path, size=10) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(10)])
        for _ in range(12):  # by now it pauses for half a minute
            await rig.rests()
            await rig.pass_time(30)
        rig.backend.come_back()
        await rig.rests()
        rig.flusher.try_again()
        await until(lambda: rig.buffer.stats().sessions_count == 0)


async def test_it_is_told_of_a_backend_that_works_again_also_amid_an_attempt(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=10) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(10)])
        for _ in range(12):  # by now it pauses for half a minute
            await rig.rests()
            await rig.pass_time(30)
        rig.backend.come_back()
        rig.backend.hold()
        rig.backend.fail_next(AWAY)
        await rig.rests()
        rig.timing.advance(30)
        await rig.backend.held()
        rig.flusher.try_again()
        rig.backend.release()
        await rig.rests()
        assert rig.flusher.failure is not None
        await rig.pass_time(0.1)
        await until(lambda: rig.buffer.stats().sessions_count == 0)


async def test_a_commit_of_unknown_outcome_is_repeated_harmlessly(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT, times=2)
        await rig.buffer.accept_sessions([session_request(total_tasks=2)])
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        assert (await rig.buffer.flush()).sessions_written == 1
        assert rig.backend.commits == 3
        assert await rig.stored() == (["S"], [])


async def test_records_of_a_key_that_is_in_flight_are_merged_and_written_after_it(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        await rig.buffer.accept_tasks([task_request(status=Status.PROCESSING)])
        rig.backend.hold()
        rig.backend.fail_next(AWAY)
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED, target_text="done")])
        seen = await rig.unstored_task("T")
        assert seen is not None
        assert seen.status == Status.COMPLETED
        assert rig.buffer.stats().tasks_count == 2
        rig.backend.release()
        with pytest.raises(StorageUnavailable):
            await flush
        await rig.buffer.flush()
        assert [r.status for n, records in rig.backend.written for r in records if n == "translation_tasks"] == [
            Status.PROCESSING,
            Status.COMPLETED,
        ]


async def test_an_error_that_nobody_foresaw_is_survived(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.fail_next(ZeroDivisionError(), times=2)
        await rig.buffer.accept_sessions([session_request()])
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="ZeroDivisionError"):
                await rig.buffer.flush()
        assert (await rig.buffer.flush()).sessions_written == 1


async def test_a_failure_before_anything_was_buffered_does_not_stop_what_comes_later(tmp_path: Path) -> None:
    prepare = Away(AWAY)
    async with open_rig(tmp_path, size=5, prepare=prepare) as rig:
        with pytest.raises(StorageUnavailable) as caught:
            await rig.buffer.flush()
        assert caught.value.number == 2006
        prepare.error = None
        await rig.pass_time(30)
        assert rig.flusher.failure is None
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(5)])
        await until(lambda: rig.buffer.stats().sessions_count == 0)


async def test_a_backend_that_is_away_at_the_start_is_opened_when_it_is_back_although_nothing_is_buffered(
    tmp_path: Path,
) -> None:
    prepare = Away(SchemaTooNew("too new"))
    async with open_rig(tmp_path, prepare=prepare) as rig:
        await until(lambda: rig.flusher.failure is not None)
        await rig.pass_time(30)
        assert rig.metrics.failures == ["SCHEMA_TOO_NEW"] * 2
        prepare.error = None
        await rig.pass_time(30)
        assert rig.flusher.failure is None
        assert rig.buffer.stats().last_flush_time is None


async def test_what_a_retry_writes_after_a_failed_half_is_counted_once(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=10) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.written.clear()
        await rig.buffer.accept_tasks(task_requests(9))
        await rig.buffer.accept_sessions([session_request("S2")])
        rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT)
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        await rig.buffer.flush()
        assert rig.metrics.rows == {"translation_sessions": 2, "translation_tasks": 9}


# ------------------------------------------------------------------------------------------------------ shutdown


async def test_a_passing_failure_at_shutdown_is_retried_within_the_time_there_is(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.fail_next(AWAY)
        stopping = asyncio.create_task(rig.flusher.stop(drain_s=30))
        await until(lambda: rig.flusher.failure is not None)
        await rig.pass_time(1)
        await stopping
        assert await rig.stored() == (["S"], [])


async def test_shutting_down_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.hold()
        stopping = asyncio.create_task(rig.flusher.stop(drain_s=30))
        await rig.backend.held()
        await let_all_run()
        rig.timing.advance(30)
        await stopping
        assert rig.buffer.stats().sessions_count == 1  # it stays in the journal


async def test_a_backend_that_was_failing_is_not_waited_for_at_shutdown(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.go_away(AWAY)
        await rig.buffer.accept_sessions([session_request()])
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        await rig.flusher.stop(drain_s=30)
        await until(rig.background[0].done)
        assert rig.metrics.failures == ["STORAGE_UNAVAILABLE"] * 2


async def test_stopping_twice_is_no_error_and_a_flush_afterwards_is_refused(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.flusher.stop(drain_s=30)
        await rig.flusher.stop(drain_s=30)
        with pytest.raises(ShuttingDown):
            await rig.buffer.flush()


async def test_who_waits_for_a_flush_when_it_all_ends_is_told(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.hold()
        await rig.buffer.accept_sessions([session_request()])
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        rig.background[0].cancel()
        with pytest.raises(ShuttingDown):
            await flush
        rig.background.clear()

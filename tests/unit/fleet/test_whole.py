"""Several workers are one service: what one is asked is answered for all, wherever a record is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import persistence_service.fleet.whole as module
from persistence_service.bootstrap import Services
from persistence_service.errors import Replaying, SessionNotFound, StorageUnavailable, TaskNotFound
from persistence_service.models.status import Status
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.services.query import PageRequest, SessionFilter, TaskFilter
from persistence_service.settings import Durability
from tests.unit.buffer.harness import session_request, task_request, task_requests, until
from tests.unit.fleet.crew import AWAY, WORKERS, Crew, crew_of

FRESH = PageRequest(fresh=True)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def rfc(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@pytest.fixture
async def crew(tmp_path: Path, control_directory: Path) -> AsyncIterator[Crew]:
    async with crew_of(tmp_path, control_directory) as crew:
        yield crew


@pytest.fixture
async def small_crew(tmp_path: Path, control_directory: Path) -> AsyncIterator[Crew]:
    """One whose memory is full at once."""
    buffer = {"flush_interval": 3600, "max_buffer_size": 1, "max_memory_records": 1}
    async with crew_of(tmp_path, control_directory, buffer=buffer) as crew:
        yield crew


@pytest.fixture
async def crowded(tmp_path: Path, control_directory: Path) -> AsyncIterator[Crew]:
    """One that has ROOM for tasks whose session is not stored, and writes as soon as there are a few."""
    buffer = {"flush_interval": 3600, "max_buffer_size": BATCH, "max_memory_records": 16 * WORKERS}
    async with crew_of(tmp_path, control_directory, buffer=buffer) as crew:
        yield crew


ROOM = 12
BATCH = 4
TASKS_SENT = 40


async def accept_tasks(services: Services, number: int, session_id: str) -> None:
    """In batches that each let a flush begin."""
    requests = task_requests(number, session_id)
    for start in range(0, number, BATCH):
        await services.buffer.accept_tasks(requests[start : start + BATCH])


async def letters(crew: Crew) -> int:
    return len((await crew.each[0].dead_letters.page(LetterFilter(), limit=1000, cursor=None)).items)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a worker that is away."""
    monkeypatch.setattr(module, "_READ_PATIENCE_S", 0.2)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)


class TestReads:
    async def test_a_record_is_found_by_each_worker_wherever_it_waits(self, crew: Crew) -> None:
        await crew[0].buffer.accept_sessions([session_request("S")])
        await crew[1].buffer.accept_tasks([task_request("T", "S")])
        for services in crew.each:
            assert (await services.query.session("S")).session_id == "S"
            assert (await services.query.task("T")).task_id == "T"

    async def test_a_record_is_found_by_each_worker_when_it_has_spilled(self, small_crew: Crew) -> None:
        crew = small_crew
        await crew[0].whole.flush()
        await crew.stop_storing()
        await crew[1].buffer.accept_sessions([session_request("S")])
        for number in range(20):
            await crew[1].buffer.accept_tasks([task_request(f"T{number}", "S")])
        assert crew[1].buffer.stats().spilled_records > 0
        for services in crew.each:
            assert (await services.query.session("S")).session_id == "S"
            assert {(await services.query.task(f"T{number}")).task_id for number in range(20)}

    async def test_updates_that_went_to_several_workers_are_one_record_the_same_one_that_is_stored(
        self, crew: Crew
    ) -> None:
        for number, services in enumerate(crew.each):
            at = rfc(datetime(2026, 1, 1, number, tzinfo=UTC))
            part = {"game_info": {"n": number}} if number == 1 else {"metadata": {"n": number}} if number == 0 else {}
            await services.buffer.accept_sessions(
                [session_request("S", event_time=at, completed_tasks=10 - number, total_tasks=20, **part)]
            )
        seen = [await services.query.session("S") for services in crew.each]
        assert seen == [seen[0]] * WORKERS
        assert seen[0].completed_tasks == 10
        assert (seen[0].game_info, seen[0].metadata) == ('{"n":1}', '{"n":0}')
        assert seen[0].event_time.hour == WORKERS - 1
        await crew[0].whole.flush()
        stored = await crew[1].query.session("S")
        assert {f: getattr(stored, f) for f in stored.__struct_fields__ if f not in ("created_at", "updated_at")} == {
            f: getattr(seen[0], f) for f in seen[0].__struct_fields__ if f not in ("created_at", "updated_at")
        }

    async def test_a_completed_task_is_completed_for_all_though_another_worker_has_a_later_state(
        self, crew: Crew
    ) -> None:
        await crew[0].buffer.accept_sessions([session_request("S")])
        await crew[0].buffer.accept_tasks([task_request("T", "S", status=Status.COMPLETED, target_text="done")])
        await crew[2].buffer.accept_tasks([task_request("T", "S", status=Status.PROCESSING)])
        assert {(await services.query.task("T")).status for services in crew.each} == {Status.COMPLETED}

    async def test_the_later_of_two_updates_without_a_time_wins_whichever_workers_took_them(self, crew: Crew) -> None:
        await crew[0].buffer.accept_sessions([session_request("S")])
        for number in range(12):
            await crew[number % WORKERS].buffer.accept_tasks([task_request("T", "S", retry_count=number)])
            assert {(await services.query.task("T")).retry_count for services in crew.each} == {number}

    async def test_the_stored_tasks_newest_state_is_found_though_another_worker_has_one_that_claims_its_id(
        self, crew: Crew
    ) -> None:
        await crew[1].buffer.accept_sessions([session_request("S")])
        await crew[1].buffer.accept_tasks([task_request("T", "S")])
        await crew[1].whole.flush()
        await crew[0].buffer.accept_tasks([task_request("T", "thief", status=Status.COMPLETED)])
        await crew[1].buffer.accept_tasks([task_request("T", "S", status=Status.PROCESSING)])
        for services in crew.each:
            task = await services.query.task("T")
            assert (task.session_id, task.status) == ("S", Status.PROCESSING)

    async def test_what_nobody_has_is_found_by_none(self, crew: Crew) -> None:
        for services in crew.each:
            with pytest.raises(SessionNotFound):
                await services.query.session("nobody")
            with pytest.raises(TaskNotFound):
                await services.query.task("nobody")
            with pytest.raises(SessionNotFound):
                await services.query.tasks_of("nobody", TaskFilter(session_id="nobody"), PageRequest())

    async def test_nothing_is_missed_while_records_move_from_buffers_to_the_database(self, crew: Crew) -> None:
        for number in range(40):
            await crew[number % WORKERS].buffer.accept_sessions([session_request(f"S{number}")])
            flush = asyncio.ensure_future(crew[(number + 1) % WORKERS].whole.flush())
            while not flush.done():
                for services in crew.each:
                    assert (await services.query.session(f"S{number}")).session_id == f"S{number}"
            await flush


class TestFlush:
    async def test_a_flush_through_one_stores_what_all_have(self, crew: Crew) -> None:
        for slot in range(WORKERS):
            await crew[slot].buffer.accept_sessions([session_request(f"S{slot}")])
            await crew[slot].buffer.accept_tasks([task_request(f"T{slot}", f"S{slot}")])
        report = await crew[1].whole.flush()
        assert (report.sessions_written, report.tasks_written, report.waiting) == (WORKERS, WORKERS, 0)
        for services in crew.each:
            assert services.buffer.stats().total_count == 0

    async def test_no_task_is_written_before_the_sessions_of_all_are_stored(self, crew: Crew) -> None:
        for slot in range(1, WORKERS):
            await crew[slot].buffer.accept_tasks([task_request(f"T{slot}", "S")])
        await crew[0].buffer.accept_sessions([session_request("S")])
        gate = crew.workers[0].backend
        gate.may_begin.clear()
        flush = asyncio.ensure_future(crew[2].whole.flush())
        await until(lambda: gate.at_gate > 0)
        await crew[1].whole.have_sessions_stored(["unknown"])  # a question and its answer later
        assert all(crew[slot].buffer.stats().memory_records == 1 for slot in range(1, WORKERS))
        gate.may_begin.set()
        report = await flush
        assert (report.sessions_written, report.tasks_written, report.waiting) == (1, WORKERS - 1, 0)
        assert (await crew[1].query.tasks_of("S", TaskFilter(session_id="S"), PageRequest())).total == WORKERS - 1

    async def test_a_task_is_stored_at_once_on_demand_though_another_worker_had_its_session(self, crew: Crew) -> None:
        await crew[0].buffer.accept_sessions([session_request("S")])
        receipt = await crew[1].whole.accept_tasks([task_request("T", "S")], Durability.STORAGE)
        assert (receipt.durability, receipt.not_stored) == (Durability.STORAGE, ())
        receipt = await crew[1].whole.accept_tasks([task_request("U", "nobody's")], Durability.STORAGE)
        assert [each.reason for each in receipt.not_stored] == ["unknown_session"]

    async def test_a_fresh_list_shows_what_all_accepted(self, crew: Crew) -> None:
        for number in range(2 * WORKERS):
            await crew[number % WORKERS].buffer.accept_sessions([session_request(f"S{number}")])
            page = await crew[(number + 1) % WORKERS].query.sessions(SessionFilter(), FRESH)
            assert page.total == number + 1

    async def test_recovery_by_one_knows_what_all_accepted(self, crew: Crew) -> None:
        await crew[0].buffer.accept_sessions([session_request("S", status=Status.COMPLETED)])
        await crew[1].buffer.accept_tasks([task_request("T", "S", status=Status.PENDING)])
        page = await crew[2].recovery.incomplete_sessions(limit=10, cursor=None, idle_s=None)
        assert [each.session.session_id for each in page.sessions] == ["S"]
        assert page.missing == []
        restored = await crew[2].recovery.restore("S", include_failed=False, limit=10, cursor=None)
        assert [task.task_id for task in restored.tasks] == ["T"]

    async def test_a_database_that_is_away_for_one_is_told_by_all(self, crew: Crew) -> None:
        crew.workers[1].stop_storing()
        await crew[1].buffer.accept_sessions([session_request("S")])
        for slot in (0, 2):
            with pytest.raises(StorageUnavailable, match="worker 2: "):
                await crew[slot].whole.flush()


class TestTasksWhoseSessionAnotherWorkerHas:
    """`crowded` has room for fewer of them than are sent."""

    async def test_there_may_be_more_of_them_than_there_is_room_for(self, crowded: Crew) -> None:
        await crowded[0].buffer.accept_sessions([session_request("S")])
        crowded.workers[1].backend.may_begin.clear()
        await accept_tasks(crowded[1], TASKS_SENT, "S")
        crowded.workers[1].backend.may_begin.set()
        await until(lambda: crowded[1].buffer.stats().total_count == 0)
        for number in range(TASKS_SENT):
            assert (await crowded[2].query.task(f"T{number:05}")).session_id == "S"
        assert await letters(crowded) == 0
        page = await crowded[2].query.tasks_of("S", TaskFilter(session_id="S"), FRESH)
        assert page.total == TASKS_SENT

    async def test_a_flush_stores_them_all(self, crowded: Crew) -> None:
        await crowded[0].buffer.accept_sessions([session_request("S")])
        gate = crowded.workers[1].backend
        gate.may_begin.clear()
        await accept_tasks(crowded[1], TASKS_SENT, "S")
        flush = asyncio.ensure_future(crowded[2].whole.flush())
        gate.may_begin.set()
        report = await flush
        assert (report.waiting, report.dead_lettered) == (0, 0)
        assert (report.sessions_written, report.tasks_written) == (1, TASKS_SENT)
        assert await letters(crowded) == 0

    async def test_those_of_a_session_that_nobody_has_are_given_up_once_all_said_so(self, crowded: Crew) -> None:
        await accept_tasks(crowded[1], TASKS_SENT, "nobody's")
        await until(lambda: crowded[1].buffer.stats().total_count == ROOM)
        assert crowded[1].buffer.stats().waiting_for_session == ROOM
        assert await letters(crowded) == TASKS_SENT - ROOM

    async def test_two_that_wait_for_each_other_do_not_hold_each_other_up(self, crowded: Crew) -> None:
        for slot, other in ((0, 1), (1, 0)):
            await crowded[slot].buffer.accept_sessions([session_request(f"S{slot}")])
            crowded.workers[slot].backend.may_begin.clear()
            await crowded[slot].buffer.accept_tasks(task_requests(TASKS_SENT, f"S{other}", f"T{slot}-"))
        for slot in (0, 1):
            crowded.workers[slot].backend.may_begin.set()
        await until(lambda: all(services.buffer.stats().total_count == 0 for services in crowded.each))
        assert await letters(crowded) == 0

    async def test_while_that_one_is_away_those_without_room_wait_in_the_journal_and_are_stored_when_it_is_back(
        self, crowded: Crew
    ) -> None:
        crowded.workers[0].stop_storing()
        await crowded[0].buffer.accept_sessions([session_request("S")])
        await crowded.stop(0)
        await until(lambda: not crowded[1].whole.are_all_there)
        await accept_tasks(crowded[1], TASKS_SENT, "S")
        await until(lambda: crowded[1].buffer.stats().set_aside > 0)
        for _ in range(2):  # what the first one finds to be too many makes room in the next
            await crowded[1].buffer.flush()
        stats = crowded[1].buffer.stats()
        assert (stats.waiting_for_session, stats.set_aside, stats.tasks_count) == (ROOM, TASKS_SENT - ROOM, TASKS_SENT)
        assert await letters(crowded) == 0
        await crowded.start(0)
        await until(lambda: crowded[1].buffer.stats().total_count == 0)
        assert await letters(crowded) == 0
        for number in range(TASKS_SENT):
            assert (await crowded[2].query.task(f"T{number:05}")).session_id == "S"


class TestDeletion:
    async def test_a_session_is_deleted_wherever_its_records_wait(self, crew: Crew) -> None:
        await crew[0].buffer.accept_sessions([session_request("S")])
        await crew[1].buffer.accept_tasks([task_request("T", "S")])
        await crew[2].deletion.delete("S")
        for services in crew.each:
            assert services.buffer.stats().total_count == 0
            with pytest.raises(SessionNotFound):
                await services.query.session("S")
            with pytest.raises(TaskNotFound):
                await services.query.task("T")
        assert (await crew[0].whole.flush()).waiting == 0
        assert (await crew[0].query.tasks(TaskFilter(), PageRequest())).total == 0

    async def test_everything_acknowledged_before_is_deleted_and_what_is_sent_after_is_kept(self, crew: Crew) -> None:
        for number in range(6):
            before, deleting, after = (crew[(number + step) % WORKERS] for step in range(WORKERS))
            await before.buffer.accept_sessions([session_request("S")])
            await before.buffer.accept_tasks([task_request("T", "S", status=Status.COMPLETED)])
            await deleting.deletion.delete("S")
            await before.buffer.accept_tasks([task_request("T", "S", status=Status.PENDING)])
            await after.buffer.accept_sessions([session_request("S")])
            assert (await deleting.whole.flush()).waiting == 0
            assert (await deleting.query.task("T")).status is Status.PENDING

    async def test_a_worker_that_was_away_does_not_show_what_was_deleted_before_with_the_database_away_either(
        self, crew: Crew
    ) -> None:
        await crew.stop_storing()
        await crew[1].buffer.accept_sessions([session_request("S"), session_request("kept")])
        crew.workers[0].store_again()
        deleted_up_to = await crew[0].deletion.delete("S")
        assert deleted_up_to > LONG_AGO
        await crew.stop(1)
        await crew.start(1, prepare=lambda backend: backend.go_away(AWAY))
        for services in (crew[0], crew[2]):
            with pytest.raises(SessionNotFound):
                await services.query.session("S")
        assert (await crew[1].query.session("kept")).session_id == "kept"
        with pytest.raises(StorageUnavailable):
            await crew[1].query.session("S")

    async def test_cleanup_leaves_sessions_alone_of_which_any_worker_has_something(self, crew: Crew) -> None:
        old = {"status": Status.COMPLETED, "event_time": rfc(LONG_AGO)}
        await crew[0].buffer.accept_sessions([session_request(f"S{n}", **old) for n in range(5)])
        await crew[0].whole.flush()
        await crew[2].buffer.accept_tasks([task_request("T", "S3")])
        cleaned = await crew[1].cleanup.cleanup(completed_days=0, dry_run=True)
        assert cleaned.deleted_sessions == 4
        assert await crew[1].cleanup.cleanup(completed_days=0) == cleaned
        page = await crew[0].query.sessions(SessionFilter(), PageRequest())
        assert [each.session_id for each in page.items] == ["S3"]


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is away from now on: a machine that stalls for a second is no reason to say so."""
    monkeypatch.setattr(module, "_READ_PATIENCE_S", 60)
    monkeypatch.setattr(module, "_PATIENCE_S", 60)


@pytest.mark.usefixtures("impatient")
class TestOneAway:
    async def test_what_only_it_could_know_is_not_denied_and_the_rest_goes_on(self, crew: Crew) -> None:
        ended = {"status": Status.COMPLETED, "event_time": rfc(LONG_AGO)}
        await crew[0].buffer.accept_sessions([session_request("stored", **ended)])
        await crew[0].whole.flush()
        await crew.stop(1)
        await crew[0].buffer.accept_sessions([session_request("S")])
        for services in crew.each:
            for asking in (
                services.query.session("S"),
                services.query.session("stored"),
                services.query.task("T"),
                services.query.tasks_of("unknown", TaskFilter(session_id="unknown"), PageRequest()),
                services.whole.flush(),
                services.query.sessions(SessionFilter(), FRESH),
                services.recovery.incomplete_sessions(limit=1, cursor=None, idle_s=None),
                services.recovery.restore("S", include_failed=False, limit=1, cursor=None),
                services.deletion.delete("S"),
                services.cleanup.cleanup(completed_days=0),
            ):
                with pytest.raises(Replaying, match="worker 2 ") as caught:
                    await asking
                assert caught.value.retry_after_s == 1
            assert services.health.is_ready()
            listed = (await services.query.sessions(SessionFilter(), PageRequest())).items
            assert "stored" in {session.session_id for session in listed}
            which = TaskFilter(session_id="stored")
            assert (await services.query.tasks_of("stored", which, PageRequest())).total == 0

    async def test_once_it_is_back_all_is_known_that_it_accepted(
        self, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await crew.stop_storing()
        await crew[1].buffer.accept_sessions([session_request("S")])
        await crew.stop(1)
        await crew.store_again()
        be_patient(monkeypatch)
        await crew.start(1)
        for services in crew.each:
            assert (await services.query.session("S")).session_id == "S"
        assert (await crew[0].whole.flush()).sessions_written == 1

    async def test_a_deletion_that_it_could_not_be_told_of_is_completed_when_it_is_back(
        self, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await crew[0].buffer.accept_sessions([session_request("S")])
        await crew[0].whole.flush()
        await crew[1].buffer.accept_tasks([task_request("T", "S")])
        gate = crew.workers[0].backend
        gate.may_begin.clear()
        deletion = asyncio.ensure_future(crew[0].deletion.delete("S"))
        await until(lambda: gate.at_gate > 0)
        await crew.stop(1)
        gate.may_begin.set()
        with pytest.raises(Replaying):
            await deletion
        be_patient(monkeypatch)
        await crew.start(1)
        for services in crew.each:
            with pytest.raises(SessionNotFound):
                await services.query.session("S")
        await crew[0].deletion.resume()
        assert (await crew[1].query.sessions(SessionFilter(), FRESH)).total == 0
        assert (await crew[2].query.tasks(TaskFilter(), PageRequest())).total == 0

    async def test_it_is_waited_for_while_it_restarts(self, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
        be_patient(monkeypatch)
        await crew[1].buffer.accept_sessions([session_request("S")])
        await crew.stop(1)
        read = asyncio.ensure_future(crew[0].query.session("S"))
        flush = asyncio.ensure_future(crew[2].whole.flush())
        await crew.start(1)
        assert (await read).session_id == "S"
        assert (await flush).sessions_written == 1

    async def test_orphans_are_not_given_up_while_their_session_may_be_with_it(
        self, tmp_path: Path, control_directory: Path
    ) -> None:
        buffer = {"flush_interval": 0.02, "orphan_grace": 0}
        async with crew_of(tmp_path, control_directory, buffer=buffer) as crew:
            crew.workers[1].stop_storing()
            await crew[1].buffer.accept_sessions([session_request("S")])
            await crew.stop(1)
            await until(lambda: not crew[2].whole.are_all_there)
            await crew[2].buffer.accept_tasks([task_request("T", "S")])
            await until(lambda: crew[2].buffer.stats().waiting_for_session == 1)
            looked = crew.workers[2].backend.lookups
            await until(lambda: crew.workers[2].backend.lookups > looked + 10)
            assert crew[2].buffer.stats().waiting_for_session == 1
            await crew.start(1)
            await until(lambda: crew[2].buffer.stats().total_count == 0)
            assert (await crew[2].query.task("T")).task_id == "T"
            assert (await crew[2].dead_letters.page(LetterFilter(), limit=1, cursor=None)).items == []


class TestReports:
    async def test_each_worker_tells_the_same_sums(self, crew: Crew) -> None:
        for slot in range(WORKERS):
            await crew[slot].buffer.accept_sessions([session_request(f"S{slot}")])
        for services in crew.each:
            statistics = await services.reports.statistics()
            assert statistics.buffer.sessions_count == WORKERS
            assert statistics.buffer.capacity == crew.settings.buffer.max_memory_records // WORKERS * WORKERS
            assert (statistics.process.workers, statistics.process.missing_workers) == (WORKERS, [])
            health = await services.reports.health()
            assert (health.status, health.detail) == ("healthy", "")
            assert health.buffer.sessions_count == WORKERS
            assert health.journal.unstored_items == WORKERS

    async def test_the_database_is_counted_by_one_and_told_by_all(self, crew: Crew) -> None:
        await crew[1].buffer.accept_sessions([session_request("S")])
        await crew[1].whole.flush()

        def own_count() -> int | None:
            sessions = crew[0].stats.report().sessions
            return None if sessions is None else sessions.total

        async def count(slot: int) -> int | None:
            sessions = (await crew[slot].reports.statistics()).sessions
            return None if sessions is None else sessions.total

        await until(lambda: own_count() == 1)
        assert [await count(slot) for slot in range(WORKERS)] == [1] * WORKERS
        await crew.stop(0)
        assert [await count(slot) for slot in (1, 2)] == [1, 1]

    async def test_metrics_are_of_all_workers_each_with_its_number(self, crew: Crew) -> None:
        for slot in range(WORKERS):
            await crew[slot].buffer.accept_sessions([session_request(f"S{slot}-{n}") for n in range(slot + 1)])
        for services in crew.each:
            lines = (await services.reports.metrics()).decode().splitlines()
            sizes = [line for line in lines if line.startswith('buffer_size{type="sessions"')]
            assert sizes == [f'buffer_size{{type="sessions",worker="{n}"}} {n}.0' for n in range(1, WORKERS + 1)]
            assert f"persistence_workers_up {WORKERS}.0" in lines
            assert [line for line in lines if line.startswith("# TYPE buffer_size ")] == ["# TYPE buffer_size gauge"]
            assert not [line for line in lines if line[0] != "#" and "worker" not in line]

    async def test_one_that_is_away_is_named_and_left_out(self, crew: Crew) -> None:
        await crew.stop(1)
        for services in crew.each:
            health = await services.reports.health()
            assert health.status == "degraded"
            assert health.detail.startswith("worker 2: can't be asked")
            assert (await services.reports.statistics()).process.missing_workers == [2]
            lines = (await services.reports.metrics()).decode().splitlines()
            assert "persistence_workers_up 2.0" in lines
            assert 'persistence_worker_up{worker="2"} 0.0' in lines

    async def test_health_is_the_worst_and_says_whose(self, crew: Crew) -> None:
        crew.workers[2].backend.go_away(AWAY)
        for services in crew.each:
            health = await services.reports.health()
            assert (health.status, health.database) == ("degraded", "unhealthy")
            assert health.detail.startswith("worker 3: ")

    async def test_one_that_stops_is_no_illness_of_the_service(self, crew: Crew) -> None:
        crew[1].reports.begin_shutdown()
        crew[1].buffer.begin_shutdown()
        for services in crew.each:
            health = await services.reports.health()
            assert (health.status, health.detail) == ("degraded", "worker 2: is stopping; the others go on")

    async def test_the_bounds_of_the_service_are_divided_among_the_workers(self, crew: Crew) -> None:
        whole = crew.settings
        for services in crew.each:
            part = services.settings
            assert part.buffer.max_memory_bytes * WORKERS <= whole.buffer.max_memory_bytes
            assert part.buffer.max_memory_records * WORKERS <= whole.buffer.max_memory_records
            assert part.buffer.max_dead_letter_rate * WORKERS <= whole.buffer.max_dead_letter_rate
            assert part.limits.max_inflight_bytes * WORKERS <= whole.limits.max_inflight_bytes
            assert part.journal == whole.journal

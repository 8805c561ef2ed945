"""Deletion: what is deleted stays deleted, whatever interrupts it, and nothing newer goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.errors import Replaying, SessionNotFound, StorageUnavailable, TaskNotFound
from persistence_service.models.status import Status
from persistence_service.models.times import format_time, from_micros
from persistence_service.models.tombstone import Tombstone
from persistence_service.services import deletion as module
from persistence_service.services.query import PageRequest, TaskFilter
from persistence_service.services.recovery import Restored
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import TASKS, TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Equals
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.faulty_backend import When
from persistence_service.testing.samples import at, session_record, task_record
from tests.unit.buffer.harness import let_all_run, session_request, task_request
from tests.unit.services.rig import Rig, open_rig

AWAY = StorageUnavailable("gone", number=2006)


@pytest.fixture(params=["memory", "sqlite"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageBackend]:
    """A backend that outlives the runs of the service."""
    made: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    await made.open()
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
async def rig(tmp_path: Path, database: StorageBackend) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, database) as opened:
        yield opened


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TASKS_AT_ONCE", 2)


def tasks_of(session_id: str, number: int) -> list[object]:
    return [task_request(f"{session_id}{index}", session_id, row_index=index) for index in range(number)]


async def until_stored(rig: Rig, expected: tuple[list[str], list[str]]) -> None:
    """What is done in the background comes to this, removals noted as finished included."""
    limit = asyncio.get_running_loop().time() + 60
    while await rig.stored() != expected or await rig.backend.inner.count(TOMBSTONES, (Equals("removed_at", None),)):
        assert asyncio.get_running_loop().time() < limit, await rig.stored()
        await asyncio.sleep(0.001)


async def assert_unknown(rig: Rig, session_id: str) -> None:
    with pytest.raises(SessionNotFound):
        await rig.deletion.delete(session_id)


# ---------------------------------------------------------------------------------------------------- what goes


async def test_a_session_goes_with_its_tasks_and_no_other_does(rig: Rig) -> None:
    await rig.store(session_request("a"), session_request("b"), *tasks_of("a", 3), *tasks_of("b", 2))
    await rig.deletion.delete("a")
    assert await rig.stored() == (["b"], ["b0", "b1"])
    await assert_unknown(rig, "a")


async def test_what_is_buffered_goes_too_and_is_not_shown_meanwhile(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 1))
    await rig.keep(session_request("a", status=Status.COMPLETED), *tasks_of("a", 3), session_request("b"))
    await rig.deletion.delete("a")
    with pytest.raises(SessionNotFound):
        await rig.services.query.session("a")
    await rig.services.buffer.flush()
    assert await rig.stored() == (["b"], [])
    assert rig.services.buffer.stats().total_count == 0


async def test_a_session_that_is_only_buffered_can_be_deleted(rig: Rig) -> None:
    await rig.keep(session_request("a"), *tasks_of("a", 2))
    await rig.deletion.delete("a")
    await rig.services.buffer.flush()
    assert await rig.stored() == ([], [])
    await assert_unknown(rig, "a")


@pytest.mark.parametrize("session_id", ["nobody", "A", "a ", ""])
async def test_what_is_not_known_is_not_found_and_leaves_no_tombstone(rig: Rig, session_id: str) -> None:
    await rig.store(session_request("a"))
    await assert_unknown(rig, session_id)
    assert await rig.tombstone(session_id) is None
    assert await rig.stored() == (["a"], [])


async def test_tasks_alone_make_no_session(rig: Rig) -> None:
    await rig.keep(*tasks_of("a", 1))
    await assert_unknown(rig, "a")


async def test_a_backend_that_is_away_is_said_and_nothing_is_deleted(rig: Rig) -> None:
    await rig.store(session_request("a"))
    rig.backend.go_away(AWAY)
    with pytest.raises(StorageUnavailable):
        await rig.deletion.delete("a")
    rig.backend.come_back()
    assert await rig.tombstone("a") is None
    assert await rig.stored() == (["a"], [])


# -------------------------------------------------------------------------------------------------- its time


async def test_the_tombstone_is_not_older_than_any_record_accepted_before(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 1))
    rig.timing.set_wall(rig.timing.wall_us() - 3_600_000_000)
    await rig.keep(*tasks_of("a", 2))
    await rig.deletion.delete("a")
    await rig.services.buffer.flush()
    assert await rig.stored() == ([], [])


async def test_records_ahead_of_the_clock_go_too_stored_or_buffered(rig: Rig) -> None:
    now = from_micros(rig.timing.wall_us())
    ahead = [format_time(now + timedelta(seconds=seconds)) for seconds in (100, 200, 290)]
    await rig.store(session_request("a", event_time=ahead[0]), task_request("a0", "a", event_time=ahead[1]))
    await rig.deletion.delete("a")
    first = await rig.tombstone("a")
    assert first is not None
    assert format_time(first.deleted_up_to) == ahead[1]
    await rig.keep(session_request("b", event_time=ahead[2]), task_request("b0", "b", event_time=ahead[0]))
    await rig.deletion.delete("b")
    second = await rig.tombstone("b")
    assert second is not None
    assert format_time(second.deleted_up_to) == ahead[2]
    await rig.store(session_request("c", event_time=ahead[1]), task_request("c0", "c", event_time=ahead[0]))
    await rig.deletion.delete("c")
    await rig.services.buffer.flush()
    assert await rig.stored() == ([], [])


async def test_the_tombstone_is_there_before_anything_is_removed(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 3))
    rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT)
    with pytest.raises(StorageUnavailable):
        await rig.deletion.delete("a")
    found = await rig.tombstone("a")
    assert found is not None
    assert found.removed_at is None
    assert await rig.stored() == (["a"], ["a0", "a1", "a2"])


async def test_a_finished_deletion_says_so(rig: Rig) -> None:
    await rig.store(session_request("a"))
    await rig.deletion.delete("a")
    found = await rig.tombstone("a")
    assert found is not None
    assert found.removed_at == from_micros(rig.timing.wall_us())


# ------------------------------------------------------------------------------------------------- in small steps


@pytest.mark.usefixtures("small_steps")
async def test_rows_go_in_small_transactions_so_that_writes_go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 7))
    sizes: list[int] = []
    delete = type(rig.backend).delete

    async def watched(backend: StorageBackend, collection: object, where: object) -> int:
        removed = await delete(backend, collection, where)  # type: ignore[arg-type]  # passed on as it is
        sizes.append(removed)
        await rig.store(session_request(f"other{len(sizes)}"))  # somebody else writes in between
        return removed

    monkeypatch.setattr(type(rig.backend), "delete", watched)
    await rig.deletion.delete("a")
    assert sizes == [2, 2, 2, 1]
    assert await rig.stored() == (["other1", "other2", "other3", "other4"], [])


# -------------------------------------------------------------------------------------------------- interruption


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("steps", range(7))
async def test_a_deletion_cut_off_at_any_transaction_is_completed_after_a_restart(
    tmp_path: Path, database: StorageBackend, steps: int
) -> None:
    async with open_rig(tmp_path, database) as rig:
        await rig.store(session_request("a"), session_request("b"), *tasks_of("a", 7), *tasks_of("b", 1))
        before = rig.backend.commits
        begin = rig.backend.transaction

        def fail_later() -> object:
            if rig.backend.commits - before >= steps:
                raise AWAY
            return begin()

        rig.backend.transaction = fail_later  # type: ignore[method-assign,assignment]  # the fault
        with suppress(StorageUnavailable):
            await rig.deletion.delete("a")
    async with open_rig(tmp_path, database) as rig:
        await until_stored(rig, (["b"], ["b0"]) if steps else (["a", "b"], [*(f"a{n}" for n in range(7)), "b0"]))
        tombstone = await rig.tombstone("a")
        assert steps == 0 or (tombstone is not None and tombstone.removed_at is not None)
        assert await rig.deletion.resume() == 0


async def test_a_deletion_that_is_cancelled_is_completed_by_itself(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 3))
    rig.backend.hold()
    request = asyncio.create_task(rig.services.deletion.delete("a"))
    await rig.backend.held()  # the tombstone is being written
    rig.backend.release()
    async with asyncio.timeout(60):
        while await rig.tombstone("a") is None:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await until_stored(rig, ([], []))


async def test_a_deletion_that_is_cancelled_before_its_tombstone_has_not_begun(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 1))
    rig.backend.hold()
    request = asyncio.create_task(rig.services.deletion.delete("a"))
    await rig.backend.held()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    rig.backend.release()
    await let_all_run()
    assert await rig.tombstone("a") is None
    assert await rig.stored() == (["a"], ["a0"])


async def test_what_a_failure_interrupts_is_completed_when_the_backend_is_back(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 3))
    await let_all_run()
    rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT)
    with capture_logs() as logged:
        with pytest.raises(StorageUnavailable):
            await rig.services.deletion.delete("a")
        await until_stored(rig, ([], []))
    assert [event for event in logged if event["event"].endswith("unexpected_error")] == []


async def test_completion_is_tried_again_with_pauses_and_told_once(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 3))
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(10**6), None, at(0), at(0))])
    rig.backend.go_away(AWAY)
    with capture_logs() as logged:
        for _ in range(4):
            rig.timing.advance(301)
            await let_all_run()
        rig.backend.come_back()
        rig.timing.advance(301)
        await until_stored(rig, ([], []))
    assert [event["event"] for event in logged].count("deletion.failing") == 1


async def test_while_rows_are_removed_the_session_and_its_tasks_are_unknown_to_readers(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 1))
    rig.backend.hold()
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(10**6), None, at(0), at(0))])
    rig.timing.advance(301)
    await rig.backend.held()  # the background is at it, and its rows are there
    query, recovery = rig.services.query, rig.services.recovery
    for unknown in (
        query.session("a"),
        query.tasks_of("a", TaskFilter(session_id="a"), PageRequest()),
        recovery.restore("a", include_failed=False, limit=10, cursor=None),
    ):
        with pytest.raises(SessionNotFound):
            await unknown
    rig.backend.release()
    await until_stored(rig, ([], []))


async def test_asking_again_for_an_unfinished_deletion_finishes_it(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 3))
    rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT)
    with pytest.raises(StorageUnavailable):
        await rig.deletion.delete("a")
    before = await rig.tombstone("a")
    await rig.deletion.delete("a")
    after = await rig.tombstone("a")
    assert await rig.stored() == ([], [])
    assert before is not None
    assert after is not None
    assert after.deleted_up_to == before.deleted_up_to
    assert after.removed_at is not None
    await assert_unknown(rig, "a")


async def test_many_interrupted_deletions_are_completed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOMBSTONES_AT_ONCE", 2)
    await rig.write([session_record(name) for name in "abcdefg"])
    await rig.backend.inner.write(TOMBSTONES, [Tombstone(name, at(1), None, at(0), at(0)) for name in "abcde"])
    assert await rig.deletion.resume() == 5
    assert await rig.stored() == (["f", "g"], [])


# ----------------------------------------------------------------------------------------------------- what stays


async def test_nothing_newer_than_the_tombstone_is_ever_removed(rig: Rig) -> None:
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(5), None, at(0), at(0))])
    await rig.write([session_record("a", event_time=at(6)), session_record("b", event_time=at(1))])
    await rig.write([task_record("a1", "a", event_time=at(7)), task_record("b1", "b", event_time=at(1))])
    assert await rig.deletion.resume() == 1
    assert await rig.stored() == (["a", "b"], ["a1", "b1"])
    assert await rig.deletion.resume() == 0


async def test_a_newer_session_revives_the_id_and_can_be_deleted_in_turn(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 3))
    await rig.deletion.delete("a")
    first = await rig.tombstone("a")
    await rig.keep(task_request("new", "a"))
    await rig.services.buffer.flush()
    assert await rig.stored() == ([], [])  # until the session comes, its tasks are orphans
    await rig.store(session_request("a"))
    assert await rig.stored() == (["a"], ["new"])
    await rig.deletion.delete("a")
    second = await rig.tombstone("a")
    assert await rig.stored() == ([], [])
    assert first is not None
    assert second is not None
    assert second.deleted_up_to > first.deleted_up_to


@pytest.mark.usefixtures("small_steps")
async def test_a_revival_amid_the_removal_survives_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 7))
    delete = type(rig.backend).delete
    calls = 0

    async def revive_then_go_on(backend: StorageBackend, collection: object, where: object) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            await rig.store(session_request("a", filename="new.xlsx"), task_request("a2", "a"), task_request("z", "a"))
        return await delete(backend, collection, where)  # type: ignore[arg-type]  # passed on as it is

    monkeypatch.setattr(type(rig.backend), "delete", revive_then_go_on)
    await rig.deletion.delete("a")
    assert await rig.stored() == (["a"], ["a2", "z"])
    assert (await rig.services.query.session("a")).filename == "new.xlsx"


# ------------------------------------------------------------------------------------------------------- races


async def test_of_deletes_at_the_same_moment_none_fails_but_as_unknown(rig: Rig) -> None:
    await rig.store(session_request("a"), *tasks_of("a", 5))
    outcomes = await asyncio.gather(*(rig.deletion.delete("a") for _ in range(5)), return_exceptions=True)
    assert any(isinstance(outcome, datetime) for outcome in outcomes)
    assert all(isinstance(outcome, datetime | SessionNotFound) for outcome in outcomes)
    assert await rig.stored() == ([], [])
    assert await rig.deletion.resume() == 0


async def test_a_flush_at_the_moment_of_a_delete_brings_nothing_back(rig: Rig) -> None:
    for round_ in range(5):
        await rig.store(session_request("a"), *tasks_of("a", 5))
        await rig.keep(session_request("a", status=Status.COMPLETED), *tasks_of("a", 9))
        await asyncio.gather(rig.services.buffer.flush(), rig.deletion.delete("a"), rig.services.buffer.flush())
        await rig.services.buffer.flush()
        assert await rig.stored() == ([], []), round_


async def restored(rig: Rig, session_id: str) -> Restored:
    return await rig.services.recovery.restore(session_id, include_failed=False, limit=10, cursor=None)


async def test_from_its_tombstone_on_a_session_is_unknown_whoever_wrote_that_and_however_far_it_came(rig: Rig) -> None:
    await rig.write([session_record("a", event_time=at(5)), session_record("b")])
    await rig.write([task_record("a1", "a"), task_record("b1", "b")])
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(5), None, at(0), at(0))])
    query = rig.services.query
    for unknown in (query.session("a"), restored(rig, "a"), query.tasks_of("a", TaskFilter("a"), PageRequest())):
        with pytest.raises(SessionNotFound):
            await unknown
    with pytest.raises(TaskNotFound):
        await query.task("a1")
    incomplete = await rig.services.recovery.incomplete_sessions(limit=10, cursor=None, idle_s=None)
    assert ([each.session.session_id for each in incomplete.sessions], incomplete.count) == (["b"], 1)
    assert (await query.session("b")).session_id == "b"
    assert (await query.task("b1")).task_id == "b1"


async def test_what_began_anew_amid_the_removal_is_shown_without_what_is_deleted(rig: Rig) -> None:
    old = session_record("a", event_time=at(6), game_info='{"old":1}', game_info_time=at(4), game_info_digest=b"x" * 16)
    await rig.write([old])
    await rig.write([task_record("old", "a", event_time=at(5)), task_record("new", "a", event_time=at(6))])
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(5), None, at(0), at(0))])
    assert (await rig.services.query.session("a")).game_info is None
    with pytest.raises(TaskNotFound):
        await rig.services.query.task("old")
    found = await restored(rig, "a")
    assert ([task.task_id for task in found.tasks], found.tasks_count, found.session.game_info) == (["new"], 1, None)


async def test_a_walk_over_unfinished_sessions_goes_on_behind_one_that_is_deleted(rig: Rig) -> None:
    await rig.write([session_record(name) for name in "abcd"])
    await rig.backend.inner.write(TOMBSTONES, [Tombstone(name, at(5), None, at(0), at(0)) for name in "bc"])
    seen: list[str] = []
    cursor = None
    while True:
        page = await rig.services.recovery.incomplete_sessions(limit=1, cursor=cursor, idle_s=None)
        seen += [each.session.session_id for each in page.sessions]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == ["a", "d"]


async def test_what_is_buffered_can_not_be_known_during_replay(tmp_path: Path, database: StorageBackend) -> None:
    async with open_rig(tmp_path, database) as rig:
        await rig.store(session_request("a"))

        def replaying() -> None:
            raise Replaying("not yet")

        rig.services.buffer.require_replayed = replaying  # type: ignore[method-assign]  # a state that lasts for moments
        with pytest.raises(Replaying):
            await rig.deletion.delete("a")
        assert await rig.stored() == (["a"], [])


async def test_a_tombstone_of_another_instance_counts(rig: Rig) -> None:
    await rig.keep(session_request("a", event_time=format_time(at(1))))
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(5), at(5), at(0), at(0))])
    await assert_unknown(rig, "a")
    assert await rig.backend.inner.count(TASKS) == 0

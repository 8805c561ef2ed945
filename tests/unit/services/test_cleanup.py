"""Cleanup: by status and age, exactly what a dry run said, and nothing that somebody still works on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from persistence_service.errors import Replaying, StorageUnavailable
from persistence_service.models.status import Status
from persistence_service.models.times import format_time, from_micros
from persistence_service.models.tombstone import Tombstone
from persistence_service.services import cleanup as module
from persistence_service.services.cleanup import AgeOf, Cleaned
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import TASKS, TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import COUNT
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.faulty_backend import When
from persistence_service.testing.samples import at, session_record, task_record
from tests.unit.buffer.harness import let_all_run, session_request, task_request
from tests.unit.services.rig import Rig, open_rig

AWAY = StorageUnavailable("gone", number=2006)
DAY_S = 86_400


@pytest.fixture(params=["memory", "sqlite"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    made: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    await made.open()
    await made.migrate()
    async with open_rig(tmp_path, made) as opened:
        yield opened
    await made.close()


async def put(rig: Rig, session_id: str, days: float, status: Status = Status.COMPLETED, **changes: Any) -> None:  # noqa: ANN401  # fields
    """A session without activity for so many days, with two tasks."""
    time = from_micros(rig.timing.wall_us() - round(days * DAY_S * 1_000_000))
    stamps = {"event_time": time, "created_at": time, "updated_at": time}
    await rig.write([session_record(session_id, status=status, **{**stamps, **changes})])
    await rig.write([task_record(f"{session_id}{n}", session_id, **stamps) for n in range(2)])


async def sessions(rig: Rig) -> list[str]:
    return (await rig.stored())[0]


# ------------------------------------------------------------------------------------------------------- what goes


async def test_each_status_has_days_of_its_own_and_unfinished_sessions_stay(rig: Rig) -> None:
    for status in Status:
        for days in (10, 29, 31, 89, 91, 1000):
            await put(rig, f"{status.value}-{days}", days, status)
    dry = await rig.cleanup.cleanup(dry_run=True)
    assert await rig.cleanup.cleanup() == dry == Cleaned(2 + 4 + 4, 2 * (2 + 4 + 4))
    assert await sessions(rig) == sorted(
        [
            f"{status.value}-{days}"
            for status in (Status.PENDING, Status.PROCESSING)
            for days in (10, 29, 31, 89, 91, 1000)
        ]
        + [f"{status.value}-{days}" for status in (Status.FAILED, Status.CANCELLED) for days in (10, 29)]
        + [f"completed-{days}" for days in (10, 29, 31, 89)]
    )
    assert await rig.backend.inner.count(TASKS) == 2 * len(await sessions(rig))


async def test_the_days_are_those_asked_for(rig: Rig) -> None:
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        for days in (1, 2, 3, 4):
            await put(rig, f"{status.value}-{days}", days, status)
    assert (await rig.cleanup.cleanup(completed_days=4, failed_days=3, cancelled_days=2)).deleted_sessions == 1 + 2 + 3
    assert await sessions(rig) == sorted(
        ["completed-1", "completed-2", "completed-3", "failed-1", "failed-2", "cancelled-1"]
    )


async def test_no_days_delete_all_that_ended_however_the_clock_stands(rig: Rig) -> None:
    await rig.store(session_request("a", status=Status.COMPLETED), *(task_request(f"a{n}", "a") for n in range(3)))
    rig.timing.set_wall(rig.timing.wall_us() - 1000)
    assert await rig.cleanup.cleanup(completed_days=0) == Cleaned(1, 3)
    assert await rig.stored() == ([], [])


async def test_a_session_is_as_old_as_its_newest_task(rig: Rig) -> None:
    await put(rig, "active", 100)
    await put(rig, "idle", 100)
    now = from_micros(rig.timing.wall_us())
    await rig.write([task_record("late", "active", event_time=now, created_at=now, updated_at=now)])
    assert await rig.cleanup.cleanup(dry_run=True) == Cleaned(1, 2)
    assert await rig.cleanup.cleanup() == Cleaned(1, 2)
    assert await sessions(rig) == ["active"]


async def test_by_creation_activity_does_not_count(rig: Rig) -> None:
    await put(rig, "old", 100)
    await put(rig, "young", 80)
    now = from_micros(rig.timing.wall_us())
    await rig.write([task_record("late", "old", event_time=now, created_at=now, updated_at=now)])
    assert await rig.cleanup.cleanup(age_of=AgeOf.CREATED_AT, dry_run=True) == Cleaned(1, 3)
    assert await rig.cleanup.cleanup(age_of=AgeOf.CREATED_AT) == Cleaned(1, 3)
    assert await sessions(rig) == ["young"]


async def test_a_dry_run_deletes_nothing(rig: Rig) -> None:
    await put(rig, "old", 100)
    before = rig.backend.commits
    assert await rig.cleanup.cleanup(dry_run=True) == Cleaned(1, 2)
    assert rig.backend.commits == before
    assert await sessions(rig) == ["old"]
    assert await rig.tombstone("old") is None


async def test_nothing_old_is_nothing_deleted(rig: Rig) -> None:
    await put(rig, "young", 1)
    assert await rig.cleanup.cleanup() == Cleaned(0, 0)


# ------------------------------------------------------------------------------------------------------- tombstones


async def test_the_tombstone_has_the_time_of_the_newest_row_that_goes(rig: Rig) -> None:
    await put(rig, "by task", 100)
    await put(rig, "by session", 100)
    newest = from_micros(rig.timing.wall_us() - 95 * DAY_S * 1_000_000)
    await rig.write([task_record("late", "by task", event_time=newest, created_at=newest, updated_at=newest)])
    await rig.write([session_record("by session", status=Status.COMPLETED, event_time=newest, updated_at=newest)])
    assert (await rig.cleanup.cleanup()).deleted_sessions == 2
    for session_id in ("by task", "by session"):
        tombstone = await rig.tombstone(session_id)
        assert tombstone is not None
        assert tombstone.deleted_up_to == newest
        assert tombstone.removed_at is not None
    # What comes later with an older time stays deleted, and a newer session begins anew.
    await rig.store(session_request("by task", event_time=format_time(newest)))
    assert await sessions(rig) == []
    await rig.store(session_request("by task"))
    assert await sessions(rig) == ["by task"]


async def test_rows_whose_removal_goes_on_are_not_counted_again(rig: Rig) -> None:
    await put(rig, "old", 100)
    await put(rig, "going", 100)
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("going", at(0), None, at(0), at(0))])
    assert await rig.cleanup.cleanup(dry_run=True) == Cleaned(1, 2)
    assert await rig.cleanup.cleanup() == Cleaned(1, 2)
    assert await sessions(rig) == ["going"]
    await rig.deletion.resume()
    assert await sessions(rig) == []


# ------------------------------------------------------------------------------------------------ left alone


@pytest.mark.parametrize("waiting", [session_request("busy"), task_request("new", "busy")], ids=["session", "task"])
async def test_sessions_with_buffered_records_are_left_alone(rig: Rig, waiting: Any) -> None:  # noqa: ANN401  # a request
    await put(rig, "busy", 100)
    await put(rig, "old", 100)
    await rig.keep(waiting)
    assert await rig.cleanup.cleanup(dry_run=True) == Cleaned(1, 2)
    assert await rig.cleanup.cleanup() == Cleaned(1, 2)
    assert await sessions(rig) == ["busy"]


async def test_those_left_alone_are_passed_by(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SESSIONS_AT_ONCE", 3)
    for number in range(12):
        await put(rig, f"s{number:02}", 100)
        if number in (0, 1, 2, 3, 7):
            await rig.keep(task_request(f"new{number}", f"s{number:02}"))
    async with asyncio.timeout(60):
        assert await rig.cleanup.cleanup(dry_run=True) == Cleaned(7, 14)
        assert await rig.cleanup.cleanup() == Cleaned(7, 14)
    assert await sessions(rig) == ["s00", "s01", "s02", "s03", "s07"]


async def test_a_page_is_all_that_is_looked_at_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SESSIONS_AT_ONCE", 4)
    for number in range(20):
        await put(rig, f"s{number:02}", 100)
    longest = 0
    select = rig.backend.inner.select

    async def watched(*arguments: Any) -> Any:  # noqa: ANN401  # passed on as they are
        nonlocal longest
        rows = await select(*arguments)
        if "event_time" in arguments[1]:  # the census looks at sessions too, at any moment
            longest = max(longest, len(rows))
        return rows

    monkeypatch.setattr(rig.backend.inner, "select", watched)
    assert (await rig.cleanup.cleanup()).deleted_sessions == 20
    assert longest == 4


async def revived(rig: Rig) -> None:
    now = from_micros(rig.timing.wall_us())
    await rig.write([task_record("late", "old", event_time=now, created_at=now, updated_at=now)])


async def unfinished(rig: Rig) -> None:
    now = from_micros(rig.timing.wall_us())
    await rig.write([session_record("old", status=Status.PROCESSING, event_time=now, updated_at=now)])


async def buffered(rig: Rig) -> None:
    await rig.keep(task_request("new", "old"))


async def deleted(rig: Rig) -> None:
    await rig.deletion.delete("old")


async def deleted_by_another(rig: Rig) -> None:
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("old", at(0), None, at(0), at(0))])


@pytest.mark.parametrize("change", [revived, unfinished, buffered, deleted, deleted_by_another])
async def test_what_changes_after_the_look_is_looked_at_again_in_the_transaction(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,  # noqa: ANN401  # one of those above
) -> None:
    await put(rig, "old", 100)
    pages = rig.cleanup._pages

    async def then_something_happens(expired: Any) -> AsyncIterator[list[str]]:  # noqa: ANN401  # passed on
        async for page in pages(expired):
            if page:
                await change(rig)
            yield page

    monkeypatch.setattr(rig.cleanup, "_pages", then_something_happens)
    assert await rig.cleanup.cleanup() == Cleaned(0, 0)
    if change is not deleted:
        assert await sessions(rig) == ["old"]


# ------------------------------------------------------------------------------------------------- interruption


async def test_an_interrupted_run_leaves_no_half_deleted_session_behind(rig: Rig) -> None:
    for number in range(4):
        await put(rig, f"s{number}", 100)
    await let_all_run()
    rig.backend.fail_next(AWAY, when=When.AFTER_COMMIT)
    with pytest.raises(StorageUnavailable):
        await rig.services.cleanup.cleanup()
    async with asyncio.timeout(60):
        while await sessions(rig) != ["s1", "s2", "s3"]:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.001)
    assert await rig.stored() == (["s1", "s2", "s3"], ["s10", "s11", "s20", "s21", "s30", "s31"])
    assert await rig.cleanup.cleanup() == Cleaned(3, 6)


async def test_runs_at_the_same_moment_delete_and_count_each_session_once(rig: Rig) -> None:
    for number in range(10):
        await put(rig, f"s{number}", 100)
    one, other = await asyncio.gather(rig.cleanup.cleanup(), rig.cleanup.cleanup())
    assert one.deleted_sessions + other.deleted_sessions == 10
    assert one.deleted_tasks + other.deleted_tasks == 20
    assert await rig.stored() == ([], [])


async def test_writes_go_on_between_sessions(rig: Rig) -> None:
    for number in range(3):
        await put(rig, f"s{number}", 100)
    run = asyncio.create_task(rig.cleanup.cleanup())
    await rig.store(session_request("new"))
    assert (await run).deleted_sessions == 3
    groups = await rig.backend.inner.aggregate(TOMBSTONES, group_by=(), measure=(COUNT,))
    assert groups[0].figures == (3,)
    assert await sessions(rig) == ["new"]


async def test_what_is_buffered_can_not_be_known_during_replay(rig: Rig) -> None:
    await put(rig, "old", 100)

    def replaying() -> None:
        raise Replaying("not yet")

    rig.services.buffer.require_replayed = replaying  # type: ignore[method-assign]  # a state that lasts for moments
    with pytest.raises(Replaying):
        await rig.cleanup.cleanup()
    assert await sessions(rig) == ["old"]

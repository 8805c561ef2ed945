"""Writes: all or nothing, and what is left out of them."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

import pytest

from persistence_service.errors import DataRejected
from persistence_service.models.status import Status
from persistence_service.storage.backend import Rejection, RejectionReason, StorageBackend, WriteResult
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.query import Equals
from persistence_service.testing.conformance.base import ConformanceBase, all_rows, rows_by_key
from persistence_service.testing.samples import NO_DIGEST, at, session_record, task_record

UNKNOWN_PARENT = RejectionReason.UNKNOWN_PARENT
FIXED_FIELD_CHANGED = RejectionReason.FIXED_FIELD_CHANGED


class WritingConformance(ConformanceBase):
    """Writes: all or nothing, and what is left out of them."""

    async def test_writing_nothing_stores_nothing(self, backend: StorageBackend) -> None:
        assert await backend.write(SESSIONS, []) == WriteResult(0)
        assert await backend.count(SESSIONS) == 0

    @pytest.mark.parametrize("count", [1, 2, 31, 33, 255, 257, 1000, 2501])
    async def test_any_number_of_records_is_stored(self, with_session: StorageBackend, count: int) -> None:
        tasks = [task_record(f"task-{number:05}", row_index=number) for number in range(count)]
        assert await with_session.write(TASKS, tasks) == WriteResult(count)
        assert await rows_by_key(with_session, TASKS) == {task.task_id: task for task in tasks}

    async def test_writing_again_changes_nothing(self, with_session: StorageBackend) -> None:
        task = task_record(status=Status.COMPLETED)
        assert await with_session.write(TASKS, [task, task]) == WriteResult(2)
        later = task_record(status=Status.COMPLETED, created_at=at(9), updated_at=at(9))
        assert await with_session.write(TASKS, [later]) == WriteResult(1)
        assert await with_session.read(TASKS, [task.task_id]) == [task]

    async def test_a_changed_record_keeps_created_at_and_moves_updated_at_forward(
        self, with_session: StorageBackend
    ) -> None:
        await with_session.write(TASKS, [task_record(created_at=at(5), updated_at=at(5))])
        await with_session.write(TASKS, [task_record(event_time=at(1), created_at=at(8), updated_at=at(8))])
        (stored,) = await with_session.read(TASKS, ["task-1"])
        assert (stored.created_at, stored.updated_at) == (at(5), at(8))
        await with_session.write(TASKS, [task_record(event_time=at(2), created_at=at(6), updated_at=at(6))])
        (stored,) = await with_session.read(TASKS, ["task-1"])
        assert (stored.created_at, stored.updated_at, stored.event_time) == (at(5), at(8), at(2))

    async def test_records_without_their_parent_are_left_out(self, with_session: StorageBackend) -> None:
        result = await with_session.write(
            TASKS,
            [
                task_record("orphan-1", "unknown"),
                task_record("child"),
                task_record("orphan-2", "unknown too"),
                task_record("orphan-1", "unknown", event_time=at(1)),
            ],
        )
        assert result == WriteResult(
            1, (Rejection(0, UNKNOWN_PARENT), Rejection(2, UNKNOWN_PARENT), Rejection(3, UNKNOWN_PARENT))
        )
        assert set(await rows_by_key(with_session, TASKS)) == {"child"}

    async def test_a_record_that_names_another_parent_is_left_out(self, with_session: StorageBackend) -> None:
        await with_session.write(SESSIONS, [session_record("session-2")])
        await with_session.write(TASKS, [task_record()])
        moved = task_record(session_id="session-2", status=Status.COMPLETED, event_time=at(9))
        to_nowhere = task_record(session_id="unknown", status=Status.COMPLETED, event_time=at(9))
        result = await with_session.write(TASKS, [moved, to_nowhere, task_record(event_time=at(1))])
        assert result == WriteResult(1, (Rejection(0, FIXED_FIELD_CHANGED), Rejection(1, FIXED_FIELD_CHANGED)))
        (stored,) = await with_session.read(TASKS, ["task-1"])
        assert stored == task_record(event_time=at(1))

    async def test_the_parent_is_fixed_by_the_first_record_of_the_same_write(
        self, with_session: StorageBackend
    ) -> None:
        await with_session.write(SESSIONS, [session_record("session-2")])
        orphan = task_record(session_id="unknown")
        first = task_record(session_id="session-2")
        second = task_record(session_id="session-1", event_time=at(1))
        result = await with_session.write(TASKS, [orphan, first, second, first])
        assert result == WriteResult(2, (Rejection(0, UNKNOWN_PARENT), Rejection(2, FIXED_FIELD_CHANGED)))
        assert await rows_by_key(with_session, TASKS) == {first.task_id: first}

    async def test_rejections_are_told_among_many(self, with_session: StorageBackend) -> None:
        tasks = [task_record(f"task-{n}", "unknown" if n % 100 == 7 else "session-1") for n in range(1000)]
        result = await with_session.write(TASKS, tasks)
        assert result == WriteResult(990, tuple(Rejection(n, UNKNOWN_PARENT) for n in range(7, 1000, 100)))
        assert await with_session.count(TASKS) == 990

    async def test_a_parent_of_the_same_transaction_counts(self, backend: StorageBackend) -> None:
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record()])
            assert await transaction.write(TASKS, [task_record()]) == WriteResult(1)
        assert await backend.count(TASKS) == 1

    async def test_a_record_that_can_never_be_stored_undoes_its_transaction(self, with_session: StorageBackend) -> None:
        with pytest.raises(DataRejected):  # noqa: PT012  # the whole block is what must fail
            async with with_session.transaction() as transaction:
                await transaction.write(SESSIONS, [session_record("session-2")])
                good = [task_record(f"task-{n}") for n in range(300)]
                await transaction.write(TASKS, [*good, task_record("bad", sheet_name="\udfff", digest=NO_DIGEST)])
        assert await with_session.count(TASKS) == 0
        assert await with_session.count(SESSIONS) == 1

    async def test_a_transaction_that_hides_a_failed_write_stores_nothing(self, with_session: StorageBackend) -> None:
        bad = task_record("bad", sheet_name="\udfff", digest=NO_DIGEST)
        with pytest.raises(DataRejected):  # noqa: PT012  # the error must come at the end of the block too
            async with with_session.transaction() as transaction:
                await transaction.write(TASKS, [task_record()])
                with pytest.raises(DataRejected):
                    await transaction.write(TASKS, [bad])
        assert await with_session.count(TASKS) == 0

    async def test_a_null_is_below_every_value_in_the_merge(self, backend: StorageBackend) -> None:
        await backend.write(SESSIONS, [session_record(event_time=at(5))])
        await backend.write(SESSIONS, [session_record(event_time=at(1), game_info="{}", updated_at=at(1))])
        await backend.write(SESSIONS, [session_record(event_time=at(4), updated_at=at(4))])
        (stored,) = await all_rows(backend, SESSIONS, where=[Equals("session_id", "session-1")])
        assert (stored.event_time, stored.game_info, stored.game_info_time) == (at(5), "{}", at(1))
        assert stored.updated_at == at(1)

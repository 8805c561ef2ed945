"""Deletes, with the children."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

import pytest

from persistence_service.models.status import Status
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import LAST_ACTIVITY, SESSIONS, TASKS
from persistence_service.storage.query import Between, Equals, HasChild, OneOf
from persistence_service.testing.conformance.base import ConformanceBase, rows_by_key
from persistence_service.testing.samples import DISTINCT_IDS, at, session_record, task_record


class DeletingConformance(ConformanceBase):
    """Deletes, with the children."""

    @pytest.fixture
    async def families(self, backend: StorageBackend) -> StorageBackend:
        """Three sessions with two tasks each, and one without any."""
        names = ("one", "two", "three")
        await backend.write(SESSIONS, [session_record(name) for name in (*names, "alone")])
        await backend.write(
            TASKS,
            [
                task_record(f"{name}-{number}", name, row_index=number, updated_at=at(place))
                for place, name in enumerate(names)
                for number in range(2)
            ],
        )
        return backend

    async def test_a_deleted_record_goes_with_its_children_and_nothing_else(self, families: StorageBackend) -> None:
        assert await families.delete(SESSIONS, [Equals("session_id", "one")]) == 1
        assert set(await rows_by_key(families, SESSIONS)) == {"two", "three", "alone"}
        assert set(await rows_by_key(families, TASKS)) == {"two-0", "two-1", "three-0", "three-1"}
        assert await families.delete(SESSIONS, [Equals("session_id", "one")]) == 0

    async def test_children_may_be_deleted_alone(self, families: StorageBackend) -> None:
        assert await families.delete(TASKS, [Equals("row_index", 1)]) == 3
        assert await families.count(TASKS) == 3
        assert await families.count(SESSIONS) == 4

    async def test_conditions_about_children_are_judged_before_any_goes(self, families: StorageBackend) -> None:
        assert await families.delete(SESSIONS, [HasChild(TASKS, [Equals("row_index", 0)])]) == 3
        assert set(await rows_by_key(families, SESSIONS)) == {"alone"}
        assert await families.count(TASKS) == 0

    async def test_the_last_activity_may_decide(self, families: StorageBackend) -> None:
        assert await families.delete(SESSIONS, [Between(LAST_ACTIVITY, at(1), None)]) == 2
        assert set(await rows_by_key(families, SESSIONS)) == {"one", "alone"}
        assert set(await rows_by_key(families, TASKS)) == {"one-0", "one-1"}

    async def test_everything_may_be_deleted(self, families: StorageBackend) -> None:
        assert await families.delete(SESSIONS, ()) == 4
        assert await families.count(TASKS) == 0

    async def test_look_alikes_of_a_deleted_id_stay(self, backend: StorageBackend) -> None:
        await backend.write(SESSIONS, [session_record(name) for name in DISTINCT_IDS])
        await backend.write(TASKS, [task_record(f"of {name}", name) for name in DISTINCT_IDS])
        assert await backend.delete(SESSIONS, [OneOf("session_id", ["T1"])]) == 1
        assert set(await rows_by_key(backend, SESSIONS)) == set(DISTINCT_IDS) - {"T1"}
        assert set(await rows_by_key(backend, TASKS)) == {f"of {name}" for name in DISTINCT_IDS} - {"of T1"}

    async def test_many_are_deleted_at_once(self, backend: StorageBackend) -> None:
        await backend.write(SESSIONS, [session_record(f"session-{number}") for number in range(1500)])
        await backend.write(TASKS, [task_record(f"task-{number}", f"session-{number}") for number in range(1500)])
        assert await backend.delete(SESSIONS, [OneOf("session_id", [f"session-{n}" for n in range(1000)])]) == 1000
        assert await backend.count(TASKS) == 500

    async def test_what_was_deleted_may_be_written_again(self, families: StorageBackend) -> None:
        await families.delete(SESSIONS, [Equals("session_id", "one")])
        again = task_record("one-0", "one", status=Status.FAILED, event_time=at(-9))
        assert (await families.write(TASKS, [again])).stored == 0
        await families.write(SESSIONS, [session_record("one")])
        assert (await families.write(TASKS, [again])).stored == 1
        assert await families.read(TASKS, ["one-0"]) == [again]

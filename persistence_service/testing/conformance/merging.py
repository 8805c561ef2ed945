"""The merge rule as stored: it agrees with `collection.merge`, and the order of arrival does not matter."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from persistence_service.models.status import Status
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.testing.conformance.base import ConformanceBase, empty, merged, rows_by_key
from persistence_service.testing.samples import (
    START,
    at,
    session_record,
    session_updates,
    task_record,
    task_updates,
)

R = TypeVar("R", bound=msgspec.Struct)

_examples = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class MergingConformance(ConformanceBase):
    """The merge rule as stored."""

    @given(updates=task_updates(), cut=st.integers(0, 8))
    @_examples
    async def test_tasks_are_stored_as_the_rule_merges_them(
        self, backend: StorageBackend, updates: list[Any], cut: int
    ) -> None:
        await _check_as_merged(backend, TASKS, updates, cut)

    @given(updates=session_updates(), cut=st.integers(0, 8))
    @_examples
    async def test_sessions_are_stored_as_the_rule_merges_them(
        self, backend: StorageBackend, updates: list[Any], cut: int
    ) -> None:
        await _check_as_merged(backend, SESSIONS, updates, cut)

    @given(updates=task_updates(), data=st.data())
    @_examples
    async def test_tasks_arriving_in_any_order_split_and_repetition_end_in_the_same_rows(
        self, backend: StorageBackend, updates: list[Any], data: st.DataObject
    ) -> None:
        await _check_any_order(backend, TASKS, updates, data)

    @given(updates=session_updates(), data=st.data())
    @_examples
    async def test_sessions_arriving_in_any_order_split_and_repetition_end_in_the_same_rows(
        self, backend: StorageBackend, updates: list[Any], data: st.DataObject
    ) -> None:
        await _check_any_order(backend, SESSIONS, updates, data)

    @pytest.mark.parametrize("late", [status for status in Status if status is not Status.COMPLETED])
    async def test_a_completed_task_is_never_undone(self, with_session: StorageBackend, late: Status) -> None:
        completed = task_record(status=Status.COMPLETED, target_text="paid for")
        await with_session.write(TASKS, [completed, task_record(status=late, event_time=at(99))])
        assert await with_session.read(TASKS, ["task-1"]) == [completed]
        newer = task_record(status=Status.COMPLETED, target_text="better", event_time=at(1), updated_at=at(1))
        await with_session.write(TASKS, [newer])
        assert await with_session.read(TASKS, ["task-1"]) == [newer]

    async def test_counters_keep_their_largest_value_also_from_older_records(self, backend: StorageBackend) -> None:
        newer = session_record(event_time=at(9), total_tasks=5, completed_tasks=1, status=Status.PROCESSING)
        older = session_record(event_time=at(1), total_tasks=3, completed_tasks=4, failed_tasks=2, updated_at=at(3))
        await backend.write(SESSIONS, [newer])
        await backend.write(SESSIONS, [older])
        (stored,) = await backend.read(SESSIONS, ["session-1"])
        assert stored == replace(newer, completed_tasks=4, failed_tasks=2, updated_at=at(3))


async def _check_as_merged(backend: StorageBackend, collection: Collection[R], updates: Sequence[R], cut: int) -> None:
    """`created_at` and `updated_at` included: the order of arrival is the same."""
    await _start(backend, collection)
    for part in (updates[:cut], updates[cut:]):
        assert (await backend.write(collection, part)).stored == len(part)
    assert await rows_by_key(backend, collection) == merged(collection, updates)


async def _check_any_order(
    backend: StorageBackend, collection: Collection[R], updates: Sequence[R], data: st.DataObject
) -> None:
    repeated = data.draw(st.lists(st.sampled_from(updates), max_size=4))
    shuffled = data.draw(st.permutations([*updates, *repeated]))
    cut = data.draw(st.integers(0, len(shuffled)))
    await _start(backend, collection)
    for part in (shuffled[:cut], shuffled[cut:]):
        await backend.write(collection, part)
    stored = {key: _without_stamps(row) for key, row in (await rows_by_key(backend, collection)).items()}
    assert stored == {key: _without_stamps(row) for key, row in merged(collection, updates).items()}


async def _start(backend: StorageBackend, collection: Collection[Any]) -> None:
    await empty(backend)
    if collection is TASKS:
        await backend.write(SESSIONS, [session_record()])


def _without_stamps(row: R) -> R:
    stamps: dict[str, Any] = {"created_at": START, "updated_at": START}
    return replace(row, **stamps)

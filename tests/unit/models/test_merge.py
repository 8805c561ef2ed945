"""The merge rule as a pure function: a semilattice for each part, and what it means for a worker."""

# ruff: noqa: ANN401  # tasks and sessions alike

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from persistence_service.models.merge import Measure, MergeRule, OrderTerm, Part, merge_sessions, merge_tasks
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.testing.samples import START, at, session_record, session_updates, task_record, task_updates

one_task = task_updates().map(lambda updates: [replace(task, task_id="task-1") for task in updates])
one_session = session_updates().map(lambda updates: [replace(each, session_id="session-1") for each in updates])


def merge(kept: Any, arriving: Any) -> Any:
    return merge_tasks(kept, arriving) if isinstance(kept, Task) else merge_sessions(kept, arriving)


def outcome(updates: list[Any]) -> Any:
    """The merged row, without the two stamps that the law leaves out."""
    row = reduce(merge, updates)
    return replace(row, created_at=START, updated_at=START)


@given(updates=one_task | one_session, data=st.data())
def test_any_permutation_split_and_repetition_ends_in_the_same_row(updates: list[Any], data: st.DataObject) -> None:
    repeated = data.draw(st.lists(st.sampled_from(updates), max_size=4))
    shuffled = data.draw(st.permutations([*updates, *repeated]))
    cut = data.draw(st.integers(1, len(shuffled)))
    expected = outcome(updates)
    assert outcome(shuffled) == expected
    # Merged apart first, as in the buffers of two instances, and then together.
    assert outcome([reduce(merge, part) for part in (shuffled[:cut], shuffled[cut:]) if part]) == expected


@given(updates=one_task | one_session)
def test_merging_a_record_again_gives_the_same_row_itself(updates: list[Any]) -> None:
    row = reduce(merge, updates)
    for update in [*updates, row]:
        assert merge(row, update) is row


@given(updates=one_task | one_session)
def test_created_at_is_the_first_and_updated_at_never_goes_back(updates: list[Any]) -> None:
    row = updates[0]
    for update in updates[1:]:
        merged = merge(row, update)
        assert merged.created_at == row.created_at
        assert merged.updated_at == (row.updated_at if merged is row else max(row.updated_at, update.updated_at))
        row = merged


@given(updates=one_task)
def test_a_completed_task_stays_completed_with_the_newest_completed_record(updates: list[Task]) -> None:
    completed = [task for task in updates if task.status is Status.COMPLETED]
    row = reduce(merge_tasks, updates)
    if completed:
        winner = max(completed, key=lambda task: (task.event_time, task.digest))
        assert (row.status, row.event_time, row.digest) == (Status.COMPLETED, winner.event_time, winner.digest)
        assert row.target_text == winner.target_text
    else:
        assert row.event_time == max(task.event_time for task in updates)


@given(updates=one_session)
def test_counters_are_the_largest_and_values_the_newest_that_there_is(updates: list[Session]) -> None:
    row = reduce(merge_sessions, updates)
    for counter in ("total_tasks", "completed_tasks", "failed_tasks"):
        assert getattr(row, counter) == max(getattr(update, counter) for update in updates)
    for field in ("game_info", "metadata"):
        given_values = [update for update in updates if getattr(update, field) is not None]
        newest = max((update.event_time for update in given_values), default=None)
        assert getattr(row, f"{field}_time") == newest
        assert (getattr(row, field) is None) == (not given_values)
    newest_record = max(updates, key=lambda update: (update.event_time, update.status.rank, update.digest))
    for field in ("filename", "status", "processing_tasks", "event_time", "digest"):
        assert getattr(row, field) == getattr(newest_record, field)


@pytest.mark.parametrize("rank", range(5))
def test_the_rank_of_a_status_is_its_place(rank: int) -> None:
    order = [Status.PENDING, Status.PROCESSING, Status.FAILED, Status.CANCELLED, Status.COMPLETED]
    assert order[rank].rank == rank


def test_a_failed_task_that_is_tried_again_shows_as_processing() -> None:
    failed = task_record(status=Status.FAILED, event_time=at(1), error_message="broken")
    again = task_record(status=Status.PROCESSING, event_time=at(2))
    assert merge_tasks(failed, again).status is Status.PROCESSING
    assert merge_tasks(failed, again).error_message is None


def test_at_the_same_time_the_higher_status_wins() -> None:
    for lower, higher in zip(list(Status), list(Status)[1:], strict=False):
        winner = merge_tasks(task_record(status=lower), task_record(status=higher))
        assert winner.status is higher


def test_a_merged_row_carries_its_winners_digest() -> None:
    older, newer = task_record(source_text="older"), task_record(source_text="newer", event_time=at(1))
    assert merge_tasks(older, newer).digest == newer.digest


def test_without_an_order_the_newest_arrival_wins() -> None:
    rule: MergeRule[Task] = MergeRule((Part(("source_text",), ()),))
    first, second = task_record(source_text="first", event_time=at(9)), task_record(source_text="second")
    merged = rule.compile()(first, second)
    assert (merged.source_text, merged.event_time) == ("second", at(9))


def test_none_is_below_every_value() -> None:
    rule: MergeRule[Session] = MergeRule((Part(("game_info",), (OrderTerm("game_info", Measure.VALUE),)),))
    merging = rule.compile()
    nothing, empty = session_record(), session_record(game_info="")
    assert merging(nothing, empty).game_info == ""
    assert merging(empty, nothing) is empty
    assert merging(nothing, nothing) is nothing

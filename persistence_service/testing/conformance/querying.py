"""Reads, queries, pages, counts and aggregates."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

from itertools import product
from operator import attrgetter
from typing import Any

import pytest

from persistence_service.models.status import UNFINISHED, Status
from persistence_service.models.task import Task
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import LAST_ACTIVITY, SESSIONS, TASKS
from persistence_service.storage.query import (
    COUNT,
    Aggregate,
    AnyOf,
    Between,
    Condition,
    Contains,
    Equals,
    HasChild,
    Measurement,
    OneOf,
    Query,
    Sort,
    Value,
)
from persistence_service.testing.conformance.base import ConformanceBase, all_rows
from persistence_service.testing.samples import at, session_record, task_record

POSITION = (Sort("sheet_name"), Sort("row_index"), Sort("column_name"))


class QueryingConformance(ConformanceBase):
    """Reads, queries, pages, counts and aggregates."""

    @pytest.fixture
    async def populated(self, backend: StorageBackend) -> StorageBackend:
        """Three sessions; the first two have tasks, with ties in every field that is sorted by."""
        await backend.write(
            SESSIONS,
            [
                session_record("one", filename="Alpha.xlsx", status=Status.PROCESSING, total_tasks=2, updated_at=at(1)),
                session_record("two", filename="beta.xlsx", status=Status.COMPLETED, total_tasks=2, updated_at=at(50)),
                session_record("three", filename="alpha.xlsx", status=Status.PENDING, total_tasks=9, updated_at=at(30)),
            ],
        )
        await backend.write(TASKS, _tasks())
        return backend

    async def test_reading_keys_gives_those_that_exist_once(self, populated: StorageBackend) -> None:
        found = await populated.read(TASKS, ["one-003", "missing", "one-003", "two-001", "", "%", "one-003\0x"])
        assert sorted(task.task_id for task in found) == ["one-003", "two-001"]
        assert await populated.read(TASKS, []) == []

    async def test_any_number_of_keys_may_be_read(self, populated: StorageBackend) -> None:
        keys = [f"missing-{number}" for number in range(50_000)]
        keys[100:100] = ["one-003", "a'b\"c\\d", "with\0nul"]
        assert [task.task_id for task in await populated.read(TASKS, keys)] == ["one-003"]

    @pytest.mark.parametrize(
        "where",
        [
            (),
            [Equals("session_id", "one")],
            [Equals("status", Status.FAILED)],
            [Equals("status", "failed")],
            [Equals("target_text", None)],
            [Equals("row_index", 3)],
            [OneOf("status", UNFINISHED)],
            [OneOf("status", ())],
            [OneOf("target_text", [None, "text"])],
            [OneOf("row_index", range(2, 200))],
            [OneOf("task_id", [f"one-{number:03}" for number in range(0, 300, 2)])],
            [Between("created_at", at(2), at(4))],
            [Between("created_at", at(2))],
            [Between("created_at", None, at(4))],
            [Between("sheet_name", "B", "C")],
            [Between("confidence", 0.5, None)],
            [Between("confidence")],
            [Contains("task_id", "-00")],
            [Contains("target_text", "ex")],
            [Equals("session_id", "one"), OneOf("status", UNFINISHED), Between("row_index", 1, 3)],
            [AnyOf([Equals("status", Status.FAILED), Equals("row_index", 0)])],
            [AnyOf([])],
            [AnyOf([AnyOf([Equals("status", "failed")]), OneOf("row_index", [1])]), Equals("session_id", "two")],
        ],
        ids=repr,
    )
    async def test_conditions_hold_for_what_they_say(self, populated: StorageBackend, where: list[Condition]) -> None:
        expected = sorted(task.task_id for task in _tasks() if all(_holds(task, condition) for condition in where))
        found = await all_rows(populated, TASKS, where=where)
        assert [task.task_id for task in found] == expected
        assert await populated.count(TASKS, where) == len(expected)
        assert await populated.count(TASKS, where, at_most=2) == min(2, len(expected))
        assert await populated.count(TASKS, where, at_most=1000) == len(expected)

    async def test_texts_are_contained_exactly(self, populated: StorageBackend) -> None:
        async def found(text: str) -> list[str]:
            return [s.session_id for s in await all_rows(populated, SESSIONS, where=[Contains("filename", text)])]

        assert await found("lpha") == ["one", "three"]
        assert await found("Alpha") == ["one"]
        assert await found("a%x") == []
        assert await found("_lpha") == []
        assert await found("") == ["one", "three", "two"]

    async def test_children_are_asked_for(self, populated: StorageBackend) -> None:
        async def found(*where: Condition) -> list[str]:
            return [session.session_id for session in await all_rows(populated, SESSIONS, where=where)]

        assert await found(HasChild(TASKS, [])) == ["one", "two"]
        assert await found(HasChild(TASKS, [Equals("sheet_name", "C")])) == ["one"]
        assert await found(HasChild(TASKS, [OneOf("status", UNFINISHED), Equals("sheet_name", "none")])) == []
        unfinished = AnyOf([OneOf("status", UNFINISHED), HasChild(TASKS, [OneOf("status", UNFINISHED)])])
        assert await found(unfinished) == ["one", "three", "two"]
        assert await populated.count(SESSIONS, [unfinished]) == 3
        assert await found(unfinished, Equals("status", Status.COMPLETED)) == ["two"]

    async def test_the_last_activity_is_that_of_the_session_or_its_tasks(self, populated: StorageBackend) -> None:
        newest_first = await all_rows(populated, SESSIONS, order=[Sort(LAST_ACTIVITY, descending=True)])
        # one: its tasks' 100 s; two: its own 50 s, as its tasks' are older; three: its own 30 s.
        assert [session.session_id for session in newest_first] == ["one", "two", "three"]
        oldest_first = await all_rows(populated, SESSIONS, order=[Sort(LAST_ACTIVITY)], after=[at(30), "three"])
        assert [session.session_id for session in oldest_first] == ["two", "one"]
        behind = await all_rows(
            populated, SESSIONS, order=[Sort(LAST_ACTIVITY, descending=True)], after=[at(100), "one"], limit=1
        )
        assert [session.session_id for session in behind] == ["two"]
        assert await populated.count(SESSIONS, [Between(LAST_ACTIVITY, None, at(49.999999))]) == 1
        assert await populated.count(SESSIONS, [Equals(LAST_ACTIVITY, at(100))]) == 1

    async def test_fields_are_given_in_the_order_asked_for(self, populated: StorageBackend) -> None:
        query = Query([Equals("session_id", "two")], [Sort("created_at", descending=True)], limit=2)
        records = await populated.query(TASKS, query)
        assert len(records) == 2
        fields = ("status", "task_id", "target_text", "updated_at", "confidence", "status")
        found = await populated.select(TASKS, fields, query)
        assert found == [tuple(getattr(record, field) for field in fields) for record in records]
        assert all(type(row) is tuple and isinstance(row[0], Status) for row in found)
        assert await populated.select(TASKS, ["task_id"], Query([OneOf("task_id", ["one-003", "missing"])])) == [
            ("one-003",)
        ]

    async def test_a_derived_field_is_given_as_it_orders(self, populated: StorageBackend) -> None:
        fields = (LAST_ACTIVITY, "session_id", "updated_at")
        order = [Sort(LAST_ACTIVITY, descending=True)]
        rows = [(at(100), "one", at(1)), (at(50), "two", at(50)), (at(30), "three", at(30))]
        assert await populated.select(SESSIONS, fields, Query((), order)) == rows
        for place, row in enumerate(rows):
            assert await populated.select(SESSIONS, fields, Query((), order, after=row[:2])) == rows[place + 1 :]
        assert await populated.select(SESSIONS, [LAST_ACTIVITY], Query(limit=1)) == [(at(100),)]

    @pytest.mark.parametrize(
        "order",
        [
            (),
            POSITION,
            tuple(Sort(term.field, descending=True) for term in POSITION),
            *(
                (Sort(field, descending),)
                for field, descending in product(("created_at", "task_id", "status"), (False, True))
            ),
            (Sort("sheet_name", descending=True), Sort("row_index"), Sort("column_name", descending=True)),
            (Sort("status"), Sort("created_at", descending=True)),
            (Sort("created_at"), Sort("task_id", descending=True)),
        ],
        ids=repr,
    )
    async def test_pages_by_key_and_by_offset_give_every_record_once_in_order(
        self, populated: StorageBackend, order: tuple[Sort, ...]
    ) -> None:
        query = Query(order=order, limit=4)
        terms = query.total_order("task_id")
        expected = _tasks()
        for term in reversed(terms):
            expected.sort(key=attrgetter(term.field), reverse=term.descending)
        by_offset: list[Task] = []
        by_key: list[Task] = []
        after: list[Value] | None = None
        while True:
            page = await populated.query(TASKS, Query(order=order, limit=4, after=after))
            by_key += page
            by_offset += await populated.query(TASKS, Query(order=order, limit=4, offset=len(by_offset)))
            if not page:
                break
            after = [_value(page[-1], term.field) for term in terms]
        assert [task.task_id for task in by_key] == [task.task_id for task in expected]
        assert [task.task_id for task in by_offset] == [task.task_id for task in expected]

    async def test_a_walk_by_key_is_not_disturbed_by_new_records(self, populated: StorageBackend) -> None:
        seen: list[str] = []
        after: list[Value] | None = None
        for number in range(100):
            page = await populated.query(TASKS, Query(order=[Sort("created_at")], limit=3, after=after))
            if not page:
                break
            seen += [task.task_id for task in page]
            after = [page[-1].created_at, page[-1].task_id]
            await populated.write(TASKS, [task_record(f"new-{number}", "one", created_at=at(-1))])
        assert sorted(seen) == sorted(task.task_id for task in _tasks())

    async def test_a_walk_goes_on_behind_a_bound_of_whose_fields_conditions_fix_some(
        self, populated: StorageBackend
    ) -> None:
        where = [Equals("session_id", "one"), Equals("sheet_name", "B")]
        every = await all_rows(populated, TASKS, where=where, order=POSITION)
        assert len(every) > 2
        for place, task in enumerate(every):
            after = (task.sheet_name, task.row_index, task.column_name, task.task_id)
            assert await all_rows(populated, TASKS, where=where, order=POSITION, after=after) == every[place + 1 :]
            of_it = [*where, Equals("task_id", task.task_id)]
            assert await all_rows(populated, TASKS, where=of_it, order=POSITION, after=after) == []
            assert await all_rows(populated, TASKS, where=of_it, order=[Sort("task_id")], after=[task.task_id]) == []
        assert await all_rows(populated, TASKS, where=where, order=POSITION, after=("A", 9, "z", "z")) == every
        assert await all_rows(populated, TASKS, where=where, order=POSITION, after=("C", 0, "", "")) == []

    async def test_a_list_of_keys_meets_other_conditions(self, populated: StorageBackend) -> None:
        for count in (2, 200):
            keys = OneOf("task_id", [f"one-{number:03}" for number in range(count)])
            others: list[Condition] = [Equals("session_id", "one"), OneOf("status", [Status.PENDING, Status.FAILED])]
            expected = [
                task.task_id for task in _tasks() if all(_holds(task, condition) for condition in (keys, *others))
            ]
            found = await all_rows(populated, TASKS, where=[keys, *others])
            assert sorted(task.task_id for task in found) == sorted(expected) != []

    async def test_conditions_offset_and_limit_meet(self, populated: StorageBackend) -> None:
        where = [Equals("session_id", "one")]
        every = await all_rows(populated, TASKS, where=where, order=POSITION)
        some = await all_rows(populated, TASKS, where=where, order=POSITION, offset=2, limit=3)
        assert some == every[2:5]
        assert await all_rows(populated, TASKS, where=where, offset=1000) == []
        assert await all_rows(populated, TASKS, where=where, limit=0) == []

    async def test_groups_have_their_figures(self, populated: StorageBackend) -> None:
        groups = await populated.aggregate(
            TASKS,
            group_by=["session_id", "status"],
            measure=[
                COUNT,
                Measurement(Aggregate.NEWEST, "updated_at"),
                Measurement(Aggregate.OLDEST, "created_at"),
                Measurement(Aggregate.SUM, "row_index"),
                Measurement(Aggregate.MEAN, "confidence"),
                Measurement(Aggregate.NEWEST, "target_text"),
                Measurement(Aggregate.COUNT, "confidence"),
            ],
        )
        found = {group.keys: group.figures for group in groups}
        members: dict[tuple[Any, ...], list[Task]] = {}
        for task in _tasks():
            members.setdefault((task.session_id, task.status), []).append(task)
        assert found.keys() == members.keys()
        for keys, (count, newest, oldest, rows, confidence, text, rated) in found.items():
            tasks = members[keys]
            confidences = [task.confidence for task in tasks if task.confidence is not None]
            assert count == len(tasks)
            assert newest == max(task.updated_at for task in tasks)
            assert oldest == min(task.created_at for task in tasks)
            assert rows == sum(task.row_index for task in tasks)
            assert isinstance(keys[1], Status)
            assert confidence == (pytest.approx(sum(confidences) / len(confidences)) if confidences else None)
            assert rated == len(confidences)
            assert text == max((task.target_text for task in tasks if task.target_text is not None), default=None)

    async def test_a_mean_is_right_where_the_sum_is_over_any_integer(self, with_session: StorageBackend) -> None:
        largest = 2**63 - 1
        tasks = [task_record(f"task-{number}", duration_ms=largest - number) for number in range(3)]
        await with_session.write(TASKS, tasks)
        (group,) = await with_session.aggregate(
            TASKS, group_by=(), measure=[Measurement(Aggregate.MEAN, "duration_ms")]
        )
        assert float(group.figures[0]) == pytest.approx(largest)

    async def test_without_fields_to_group_by_all_that_matches_is_one_group(self, populated: StorageBackend) -> None:
        (group,) = await populated.aggregate(
            TASKS, group_by=(), measure=[COUNT], where=[Equals("status", Status.FAILED)]
        )
        assert (group.keys, group.figures) == ((), (sum(task.status is Status.FAILED for task in _tasks()),))
        nothing = await populated.aggregate(TASKS, group_by=(), measure=[COUNT], where=[Equals("sheet_name", "none")])
        assert nothing == []

    async def test_a_group_without_values_has_none_for_its_figures(self, populated: StorageBackend) -> None:
        (group,) = await populated.aggregate(
            TASKS,
            group_by=["duration_ms"],
            measure=[
                Measurement(aggregate, "duration_ms") for aggregate in Aggregate if aggregate is not Aggregate.COUNT
            ],
        )
        assert (group.keys, group.figures) == ((None,), (None, None, None, None))


def _tasks() -> list[Task]:
    statuses = list(Status)
    tasks = [
        task_record(
            f"one-{number:03}",
            "one",
            sheet_name="ABC"[number % 3],
            row_index=number // 4,
            column_name="xy"[number % 2],
            status=statuses[number % 5],
            target_text=None if number % 3 else "text",
            confidence=None if number % 2 else number / 100,
            created_at=at(number // 3),
            updated_at=at(100 - number),
        )
        for number in range(14)
    ]
    tasks += [
        task_record(
            f"two-{number:03}", "two", sheet_name="A", row_index=number, created_at=at(2), updated_at=at(number)
        )
        for number in range(4)
    ]
    return tasks


def _value(task: Task, field: str) -> Value:
    value: Value = getattr(task, field)
    return value


def _holds(task: Task, condition: Condition) -> bool:
    match condition:
        case Equals(field, value):
            return bool(getattr(task, field) == value)
        case OneOf(field, values):
            return getattr(task, field) in values
        case Between(field, low, high):
            value = getattr(task, field)
            return value is not None and (low is None or low <= value) and (high is None or value <= high)
        case Contains(field, text):
            return text in (getattr(task, field) or "")
        case AnyOf(conditions):
            return any(_holds(task, each) for each in conditions)
        case HasChild():
            raise NotImplementedError("tasks have no children")

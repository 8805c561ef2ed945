"""Values come back identical, whatever they are; ids that look alike stay apart."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence_service.errors import DataRejected
from persistence_service.models.limits import MAX_DURATION_MS, MAX_INT
from persistence_service.models.status import Status
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.query import Contains, Equals, OneOf, Sort
from persistence_service.testing.conformance.base import ConformanceBase, all_rows, empty, rows_by_key
from persistence_service.testing.samples import DISTINCT_IDS, HOSTILE_TEXTS, NO_DIGEST, session_record, task_record

_MIB = 1024 * 1024
_any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


class ValueConformance(ConformanceBase):
    """Values come back identical, whatever they are."""

    async def test_every_field_of_a_task_comes_back_identical(self, with_session: StorageBackend) -> None:
        task = task_record(
            batch_id="batch",
            row_index=7,
            target_text="target",
            context="context",
            error_message="error",
            retry_count=3,
            duration_ms=12,
            confidence=0.1234,
            status=Status.FAILED,
            start_time=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
            end_time=datetime(2026, 1, 1, 0, 0, 0, 999_999, UTC),
        )
        await with_session.write(TASKS, [task])
        (stored,) = await with_session.read(TASKS, [task.task_id])
        assert stored == task
        assert isinstance(stored.status, Status)
        assert stored.event_time.tzinfo is UTC

    async def test_every_field_of_a_session_comes_back_identical(self, backend: StorageBackend) -> None:
        session = session_record(
            game_info='{"b":1,"a":[1.5,"ü\\u0000"]}', metadata="{}", total_tasks=5, processing_tasks=1
        )
        await backend.write(SESSIONS, [session, session_record("none of them")])
        assert await rows_by_key(backend, SESSIONS) == {
            session.session_id: session,
            "none of them": session_record("none of them"),
        }

    async def test_hostile_texts_come_back_and_are_found(self, with_session: StorageBackend) -> None:
        tasks = [
            task_record(f"task-{number}", sheet_name=text, column_name=text, source_text=text, target_text=text)
            for number, text in enumerate(HOSTILE_TEXTS)
        ]
        await with_session.write(TASKS, tasks)
        assert await rows_by_key(with_session, TASKS) == {task.task_id: task for task in tasks}
        for task in tasks:
            found = await all_rows(with_session, TASKS, where=[Equals("sheet_name", task.sheet_name)])
            assert found == [task]
            found = await all_rows(with_session, TASKS, where=[OneOf("sheet_name", [task.sheet_name, "no such name"])])
            assert found == [task]
        for part in ("%", "_", "\\", "'", "\0", "e\u0301", "DROP", ""):
            found = await all_rows(with_session, TASKS, where=[Contains("sheet_name", part)], order=[Sort("task_id")])
            assert {task.task_id for task in found} == {task.task_id for task in tasks if part in task.sheet_name}

    async def test_ids_compare_code_point_by_code_point(self, with_session: StorageBackend) -> None:
        tasks = [task_record(task_id, source_text=task_id) for task_id in DISTINCT_IDS]
        assert (await with_session.write(TASKS, tasks)).stored == len(tasks)
        assert await rows_by_key(with_session, TASKS) == {task.task_id: task for task in tasks}
        for task in tasks:
            assert await with_session.read(TASKS, [task.task_id]) == [task]
            assert await all_rows(with_session, TASKS, where=[Equals("task_id", task.task_id)]) == [task]
        in_order = await all_rows(with_session, TASKS, order=[Sort("task_id")])
        assert [task.task_id for task in in_order] == sorted(DISTINCT_IDS)

    async def test_a_parent_is_found_code_point_by_code_point(self, backend: StorageBackend) -> None:
        await backend.write(SESSIONS, [session_record("T1")])
        others = [name for name in DISTINCT_IDS if name != "T1"]
        result = await backend.write(TASKS, [task_record(f"of {name}", name) for name in others])
        assert result.stored == 0
        assert len(result.rejected) == len(others)

    async def test_names_that_look_alike_sort_and_group_apart(self, with_session: StorageBackend) -> None:
        tasks = [task_record(f"task-{n:02}", sheet_name=name, batch_id=name) for n, name in enumerate(DISTINCT_IDS)]
        await with_session.write(TASKS, tasks)
        in_order = await all_rows(with_session, TASKS, order=[Sort("sheet_name")])
        assert [task.sheet_name for task in in_order] == sorted(DISTINCT_IDS)
        groups = await with_session.aggregate(TASKS, group_by=["sheet_name"], measure=[])
        assert sorted(group.keys[0] for group in groups) == sorted(DISTINCT_IDS)

    async def test_texts_of_a_mebibyte_come_back_identical(self, with_session: StorageBackend) -> None:
        long = "界" * (_MIB // 3)
        task = task_record(source_text=long, target_text="x" * _MIB, context=long, error_message="\0" * _MIB)
        await with_session.write(TASKS, [task])
        assert await with_session.read(TASKS, [task.task_id]) == [task]

    async def test_names_of_full_length_come_back_identical(self, backend: StorageBackend) -> None:
        session = session_record("😀" * 36, filename="😀" * 255, file_path="😀" * 512, llm_provider="😀" * 50)
        task = task_record(
            "😀" * 64, session.session_id, batch_id="😀" * 64, sheet_name="😀" * 255, column_name="😀" * 255
        )
        await backend.write(SESSIONS, [session])
        await backend.write(TASKS, [task])
        assert await backend.read(SESSIONS, [session.session_id]) == [session]
        assert await backend.read(TASKS, [task.task_id]) == [task]

    async def test_extreme_numbers_come_back_identical(self, with_session: StorageBackend) -> None:
        tasks = [
            task_record("largest", row_index=MAX_INT, retry_count=MAX_INT, duration_ms=MAX_DURATION_MS, confidence=1.0),
            task_record("smallest", row_index=0, retry_count=0, duration_ms=0, confidence=0.0),
            task_record("small", confidence=0.0001),
            task_record("third", confidence=0.3333),
        ]
        await with_session.write(TASKS, tasks)
        assert await rows_by_key(with_session, TASKS) == {task.task_id: task for task in tasks}

    async def test_times_from_year_1000_to_9999_keep_their_microseconds_and_sort(
        self, with_session: StorageBackend
    ) -> None:
        moments = [
            datetime(1000, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2026, 2, 28, 23, 59, 59, 1, UTC),
            datetime(2026, 2, 28, 23, 59, 59, 10, UTC),
            datetime(2026, 2, 28, 23, 59, 59, 500_000, UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
        ]
        tasks = [
            task_record(f"task-{n}", event_time=m, start_time=m, end_time=m, created_at=m, updated_at=m)
            for n, m in enumerate(moments)
        ]
        await with_session.write(TASKS, list(reversed(tasks)))
        assert await all_rows(with_session, TASKS, order=[Sort("created_at")]) == tasks
        for task in tasks:
            assert await all_rows(with_session, TASKS, where=[Equals("created_at", task.created_at)]) == [task]

    async def test_a_time_is_the_same_in_any_zone(self, with_session: StorageBackend) -> None:
        moment = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=9)))
        await with_session.write(TASKS, [task_record(created_at=moment.astimezone(UTC))])
        assert await with_session.count(TASKS, [Equals("created_at", moment)]) == 1

    async def test_a_text_that_is_not_unicode_is_rejected_and_finds_nothing(self, with_session: StorageBackend) -> None:
        with pytest.raises(DataRejected):
            await with_session.write(
                TASKS, [task_record("good"), task_record(source_text="half a pair: \ud800", digest=NO_DIGEST)]
            )
        assert await with_session.count(TASKS) == 0
        assert await with_session.read(TASKS, ["\ud800"]) == []
        assert await with_session.count(TASKS, [Equals("sheet_name", "\ud800")]) == 0

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    async def test_a_number_that_is_not_finite_is_rejected(self, with_session: StorageBackend, number: float) -> None:
        with pytest.raises(DataRejected):
            await with_session.write(TASKS, [task_record(confidence=number, digest=NO_DIGEST)])
        assert await with_session.count(TASKS) == 0

    @given(texts=st.lists(_any_text, min_size=1, max_size=5, unique=True))
    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    async def test_any_text_comes_back_and_is_found(self, backend: StorageBackend, texts: list[str]) -> None:
        await empty(backend)
        await backend.write(SESSIONS, [session_record()])
        tasks = [task_record(f"task-{n}", sheet_name=text, target_text=text) for n, text in enumerate(texts)]
        await backend.write(TASKS, tasks)
        in_order = await all_rows(backend, TASKS, order=[Sort("sheet_name")])
        assert [task.target_text for task in in_order] == sorted(texts)
        for task in tasks:
            assert await all_rows(backend, TASKS, where=[Equals("sheet_name", task.sheet_name)]) == [task]

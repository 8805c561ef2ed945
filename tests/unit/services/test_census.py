"""A census counts what is stored exactly, in queries that are each bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence_service.errors import QueryTimeout, StorageUnavailable
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.services.census import Bounds, Census, CensusTaker
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Condition, Group, Measurement, Query
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.samples import DISTINCT_IDS, session_record, task_record

LARGEST_DURATION = 2**53 - 1

BOUNDS = st.builds(Bounds, st.integers(1, 5), st.integers(0, 12), st.integers(1, 4))
_values = st.tuples(
    st.sampled_from(DISTINCT_IDS[:9]),
    st.sampled_from(Status),
    st.none() | st.sampled_from([0, 1, 1500, LARGEST_DURATION]),
    st.none() | st.sampled_from([0.0, 0.3333, 0.9999, 1.0]),
    st.integers(0, 3),
)


def records(
    sessions: dict[str, Status], tasks: Sequence[tuple[str, Status, int | None, float | None, int]]
) -> tuple[list[Session], list[Task]]:
    stored = [session_record(session_id, status=status) for session_id, status in sessions.items()]
    return stored, [
        task_record(
            f"task-{number}",
            session_id,
            status=status,
            duration_ms=duration_ms,
            confidence=confidence,
            row_index=row,
        )
        for number, (session_id, status, duration_ms, confidence, row) in enumerate(tasks)
        if session_id in sessions
    ]


def assert_counts(census: Census, sessions: Sequence[Session], tasks: Sequence[Task]) -> None:
    """The census is what plain arithmetic over all records gives."""
    durations = [task.duration_ms for task in tasks if task.duration_ms is not None]
    confidences = [task.confidence for task in tasks if task.confidence is not None]
    assert census.sessions == Counter(session.status for session in sessions)
    assert census.tasks == Counter(task.status for task in tasks)
    assert census.duration_ms.count == len(durations)
    assert census.confidence.count == len(confidences)
    for average, values in ((census.duration_ms, durations), (census.confidence, confidences)):
        assert average.mean == (pytest.approx(sum(values) / len(values), rel=1e-12) if values else None)


class Watched(MemoryBackend):
    """Notes how many records each query has to do with; some queries may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[tuple[str, int]] = []
        self.counted: list[int | None] = []
        self.grouped: list[int] = []
        self.grouping_fails: Exception | None = None
        self.every_query: Any = lambda: None

    async def select(self, collection: Collection[Any], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        self.every_query()
        self.listed.append((collection.name, query.limit))
        return await super().select(collection, fields, query)

    async def count(
        self, collection: Collection[Any], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        self.every_query()
        self.counted.append(at_most)
        return await super().count(collection, where, at_most=at_most)

    async def aggregate(
        self,
        collection: Collection[Any],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        self.every_query()
        self.grouped.append(await super().count(collection, where))
        if self.grouping_fails is not None:
            raise self.grouping_fails
        return await super().aggregate(collection, group_by=group_by, measure=measure, where=where)


async def filled(backend: StorageBackend, sessions: Sequence[Session], tasks: Sequence[Task]) -> None:
    await backend.open()
    await backend.migrate()
    await backend.write(SESSIONS, sessions)
    await backend.write(TASKS, tasks)


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageBackend]:
    backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    yield backend
    await backend.close()


@pytest.mark.parametrize("bounds", [Bounds(), Bounds(3, 20, 7), Bounds(1, 0, 1)])
async def test_what_is_stored_is_counted_exactly(backend: StorageBackend, bounds: Bounds) -> None:
    statuses = list(Status)
    sessions, tasks = records(
        {name: statuses[number % 5] for number, name in enumerate(DISTINCT_IDS)},
        [
            (
                DISTINCT_IDS[number * number % 11],
                statuses[number % 5],
                None if number % 3 == 0 else LARGEST_DURATION - number,
                None if number % 4 == 0 else number / 1000,
                number % 2,
            )
            for number in range(200)
        ],
    )
    await filled(backend, sessions, tasks)
    assert_counts(await CensusTaker(backend, ManualTiming(), bounds).take(), sessions, tasks)


async def test_nothing_is_counted_as_nothing(backend: StorageBackend) -> None:
    await filled(backend, [], [])
    assert await CensusTaker(backend, ManualTiming()).take() == Census()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sessions=st.dictionaries(st.sampled_from(DISTINCT_IDS[:9]), st.sampled_from(Status)),
    tasks=st.lists(_values, max_size=40),
    bounds=BOUNDS,
)
async def test_no_query_has_to_do_with_more_than_its_bound(
    sessions: dict[str, Status], tasks: list[tuple[str, Status, int | None, float | None, int]], bounds: Bounds
) -> None:
    backend = Watched()
    stored = records(sessions, tasks)
    await filled(backend, *stored)
    assert_counts(await CensusTaker(backend, ManualTiming(), bounds).take(), *stored)
    limits = {SESSIONS.name: bounds.sessions, TASKS.name: bounds.read_tasks}
    assert all(limit <= limits[name] for name, limit in backend.listed)
    assert set(backend.counted) <= {bounds.counted_tasks + 1}
    assert all(grouped <= bounds.counted_tasks for grouped in backend.grouped)


async def test_what_the_database_can_not_group_in_time_is_read_in_pages() -> None:
    backend = Watched()
    stored = records(
        dict.fromkeys(DISTINCT_IDS[:5], Status.PENDING),
        [(DISTINCT_IDS[n % 5], Status.FAILED, n, 0.5, n) for n in range(50)],
    )
    await filled(backend, *stored)
    backend.grouping_fails = QueryTimeout("too slow")
    assert_counts(await CensusTaker(backend, ManualTiming(), Bounds(read_tasks=3)).take(), *stored)


async def test_another_failure_ends_the_census() -> None:
    backend = Watched()
    await filled(backend, *records({"one": Status.PENDING}, []))
    backend.grouping_fails = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await CensusTaker(backend, ManualTiming()).take()


async def test_what_was_there_all_the_time_is_counted_once_though_other_sessions_come_and_go() -> None:
    backend = Watched()
    stored = records(
        dict.fromkeys((f"m{n}" for n in range(6)), Status.PENDING),
        [(f"m{n % 6}", Status.PENDING, None, None, n) for n in range(30)],
    )
    await filled(backend, *stored)
    others = iter("aznb" * 100)

    def change() -> None:
        """Another session, with a task, before each query; the one before is gone."""
        name = f"{next(others)}-other"
        kept = {key: each for key, each in backend._records[SESSIONS.name].items() if "other" not in key}
        tasks = {key: each for key, each in backend._records[TASKS.name].items() if "other" not in key}
        backend._records = {
            **backend._records,
            SESSIONS.name: {**kept, name: session_record(name, status=Status.FAILED)},
            TASKS.name: {**tasks, f"{name}-task": task_record(f"{name}-task", name, status=Status.FAILED)},
        }

    backend.every_query = change
    census = await CensusTaker(backend, ManualTiming(), Bounds(2, 3, 2)).take()
    assert census.sessions[Status.PENDING] == 6
    assert census.tasks[Status.PENDING] == 30


async def test_the_backend_rests_as_long_as_it_worked() -> None:
    timing = ManualTiming()
    backend = Watched()
    await filled(backend, *records({"one": Status.PENDING}, []))
    backend.every_query = lambda: timing.advance(2)
    taker = CensusTaker(backend, timing)
    taking = asyncio.ensure_future(taker.take())
    for queries in (1, 2, 3):
        while not timing.sleeping and not taking.done():  # noqa: ASYNC110  # the clock stands still: there is nothing to await
            await asyncio.sleep(0)
        assert timing.seconds_to_deadlines == [2]
        assert taker.busy_s == 2 * queries
        timing.advance(2)
        await asyncio.sleep(0)
        while timing.sleeping and timing.seconds_to_deadlines == [0]:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
    await taking

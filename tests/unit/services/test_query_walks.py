"""Walks by cursor: under every filter and order each record that stays as it is appears exactly once, in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from persistence_service.api.dependencies import SessionList, SessionTaskList, TaskList
from persistence_service.bootstrap import open_services
from persistence_service.models.answers import Page
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.services.query import POSITION, PageRequest, QueryService, SessionFilter, TaskFilter
from persistence_service.settings import Settings
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.registry import StorageRegistry
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.samples import DISTINCT_IDS, at, session_record, task_record

R = TypeVar("R", Session, Task)

# Few values of each, so that records collide in every place of an order.
MOMENTS = st.integers(0, 3).map(at)
STATUSES = st.sampled_from([Status.PENDING, Status.FAILED, Status.COMPLETED])
NAMES = st.sampled_from(["A", "a", "ｱ", "😀"])


def _requests(*listings: type[TaskList | SessionTaskList | SessionList]) -> st.SearchStrategy[PageRequest]:
    """First pages in every order that the API offers in these lists."""
    names = {name for each in listings for name in get_args(each.model_fields["sort_by"].annotation)}
    sorts = st.sampled_from([POSITION if name == "position" else (name,) for name in sorted(names)])
    return st.builds(PageRequest, page_size=st.integers(1, 5), sort_by=sorts, descending=st.booleans())


def _perhaps(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly not: with every filter at once nothing would match."""
    return st.integers(0, 9).flatmap(lambda chance: values if chance == 9 else st.none())


TASK_FILTERS = st.builds(
    TaskFilter,
    session_id=_perhaps(st.sampled_from(["one", "two"])),
    status=_perhaps(STATUSES),
    sheet_name=_perhaps(NAMES),
    batch_id=_perhaps(st.sampled_from(["b", "c"])),
    from_date=_perhaps(MOMENTS),
    to_date=_perhaps(MOMENTS),
)
SESSION_FILTERS = st.builds(
    SessionFilter,
    status=_perhaps(STATUSES),
    from_date=_perhaps(MOMENTS),
    to_date=_perhaps(MOMENTS),
    filename=_perhaps(NAMES),
    llm_provider=_perhaps(st.sampled_from(["p", "q"])),
)
TASK_VALUES = st.fixed_dictionaries(
    {
        "session_id": st.sampled_from(["one", "two"]),
        "status": STATUSES,
        "sheet_name": NAMES,
        "batch_id": st.sampled_from(["b", "c"]),
        "row_index": st.integers(0, 2),
        "column_name": NAMES,
        "created_at": MOMENTS,
        "updated_at": MOMENTS,
    }
)
SESSION_VALUES = st.fixed_dictionaries(
    {
        "status": STATUSES,
        "filename": st.lists(NAMES, max_size=2).map("".join),
        "llm_provider": st.sampled_from(["p", "q"]),
        "total_tasks": st.integers(0, 2),
        "created_at": MOMENTS,
        "updated_at": MOMENTS,
    }
)
PROPERTY = examples(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass
class Store:
    """A backend and the queries over it."""

    backend: StorageBackend
    query: QueryService


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    registry = StorageRegistry()
    registry.register("given", lambda: backend)
    registry.route_all("given", {})
    settings = Settings.model_validate({"journal": {"directory": tmp_path / "journal", "min_free": 0}})
    async with open_services(settings, timing=ManualTiming(), registry=registry) as services:
        yield Store(backend, services.query)


def matches(record: msgspec.Struct, which: TaskFilter | SessionFilter) -> bool:
    """Plain words for what a filter means."""
    for each in fields(which):
        wanted = getattr(which, each.name)
        match each.name:
            case _ if wanted is None:
                continue
            case "from_date":
                holds = record.created_at >= wanted  # type: ignore[attr-defined]  # every record has it
            case "to_date":
                holds = record.created_at <= wanted  # type: ignore[attr-defined]  # as above
            case "filename":
                holds = wanted in record.filename  # type: ignore[attr-defined]  # sessions have it
            case name:
                holds = getattr(record, name) == wanted
        if not holds:
            return False
    return True


async def walk(
    page_of: Callable[[PageRequest], Awaitable[Page[R]]], request: PageRequest, between: Callable[[], Awaitable[None]]
) -> list[R]:
    """All items, page by page; `between` happens after each."""
    found: list[R] = []
    while True:
        page = await page_of(request)
        found += page.items
        assert len(page.items) <= request.page_size
        assert len(found) < 200, "the walk does not come to an end"
        if page.next_cursor is None:
            return found
        assert len(page.items) == request.page_size
        request = replace(request, cursor=page.next_cursor, count=False)
        await between()


def in_order(records: list[R], request: PageRequest, key: str) -> list[R]:
    terms = (*request.sort_by, key)
    return sorted(records, key=lambda record: [getattr(record, term) for term in terms], reverse=request.descending)


@PROPERTY
@given(
    stable=st.lists(TASK_VALUES, min_size=4, max_size=14),
    changing=st.lists(TASK_VALUES, min_size=1, max_size=6),
    which=TASK_FILTERS,
    request=_requests(TaskList, SessionTaskList),
)
async def test_a_walk_over_tasks_meets_each_that_stays_once(
    store: Store,
    stable: list[dict[str, Any]],
    changing: list[dict[str, Any]],
    which: TaskFilter,
    request: PageRequest,
) -> None:
    await store.backend.delete(SESSIONS, ())
    await store.backend.write(SESSIONS, [session_record("one"), session_record("two")])
    kept = [task_record(f"{DISTINCT_IDS[n]}-{n % 2}", **values) for n, values in enumerate(stable)]
    await store.backend.write(TASKS, kept)
    others = enumerate(changing * 8)

    async def change() -> None:
        number, values = next(others, (0, changing[0]))
        moved = {**values, "session_id": "one", "updated_at": at(number), "event_time": at(number)}
        await store.backend.write(TASKS, [task_record(f"other-{number % 3}", **moved)])

    await change()
    found = await walk(partial(store.query.tasks, which), request, change)
    expected = [task for task in kept if matches(task, which)]
    assert [task for task in found if not task.task_id.startswith("other")] == in_order(expected, request, "task_id")


@PROPERTY
@given(
    stable=st.lists(SESSION_VALUES, min_size=4, max_size=14),
    changing=st.lists(SESSION_VALUES, min_size=1, max_size=6),
    which=SESSION_FILTERS,
    request=_requests(SessionList),
)
async def test_a_walk_over_sessions_meets_each_that_stays_once(
    store: Store,
    stable: list[dict[str, Any]],
    changing: list[dict[str, Any]],
    which: SessionFilter,
    request: PageRequest,
) -> None:
    await store.backend.delete(SESSIONS, ())
    kept = [session_record(f"{DISTINCT_IDS[n]}-{n % 2}", **values) for n, values in enumerate(stable)]
    await store.backend.write(SESSIONS, kept)
    others = enumerate(changing * 8)

    async def change() -> None:
        number, values = next(others, (0, changing[0]))
        moved = {**values, "updated_at": at(number), "event_time": at(number)}
        await store.backend.write(SESSIONS, [session_record(f"other-{number % 3}", **moved)])

    await change()
    found = await walk(partial(store.query.sessions, which), request, change)
    expected = [session for session in kept if matches(session, which)]
    assert [session for session in found if not session.session_id.startswith("other")] == in_order(
        expected, request, "session_id"
    )

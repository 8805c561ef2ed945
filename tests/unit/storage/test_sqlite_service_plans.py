"""Every statement that the services issue is served by indexes: recorded while the whole API is called in all ways there are.

A call that is not made here, a parameter without a value here, and a step of a plan that is not permitted here each fail.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy import Executable
from sqlalchemy.dialects.sqlite import dialect
from starlette.types import Receive, Scope, Send

from persistence_service.api.app import create_app
from persistence_service.api.openapi import DocumentedApi
from persistence_service.bootstrap import open_services
from persistence_service.settings import Settings
from persistence_service.storage.sql.tables import INDEXES
from persistence_service.storage.sqlite.connection import SqliteConnection

BASE = "/api/v1/translation"

# A value of each parameter that at least two records match, so that every list has a second page.
VALUES = {
    "session_id": "s1",
    "status": "pending",
    "sheet_name": "S",
    "batch_id": "b",
    "from_date": "2020-01-01",
    "to_date": "2100-01-01",
    "filename": "f",
    "llm_provider": "p",
    "idle_seconds": 0,
    "collection": "translation_tasks",
    "reason": "task_id_conflict",
    "completed_days": 0,
    "failed_days": 0,
    "cancelled_days": 0,
}
PAGING = {"page", "page_size", "limit", "cursor", "count", "fresh"}


@dataclass
class Recorded:
    """The statements that were issued, each with its plan and with the calls during which it was."""

    plans: dict[str, list[str]] = field(default_factory=dict)
    calls: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    called: set[tuple[str, str]] = field(default_factory=set)
    routes: set[tuple[str, str]] = field(default_factory=set)
    now: str = "start"

    def note(self, connection: SqliteConnection, statement: Executable) -> None:
        compiled = statement.compile(dialect=dialect(), compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]  # every statement of ours has it
        sql = re.sub(r"IN \(\?(, \?)*\)", "IN (?, ?)", str(compiled))
        self.calls[sql].add(self.now)
        if sql not in self.plans:
            unknown = ["x"] * sql.count("?")  # a plan does not depend on the values
            steps = connection.driver.execute(f"EXPLAIN QUERY PLAN {sql}", unknown)
            self.plans[sql] = [step[3] for step in steps]


class Caller:
    """Calls the API, each route in every way its parameters allow."""

    def __init__(self, app: DocumentedApi, client: httpx.AsyncClient, recorded: Recorded) -> None:
        self._client = client
        self._recorded = recorded
        self._routes = {(method, route.path_format): route for route in app.calls() for method in route.methods or ()}
        recorded.routes = set(self._routes)

    async def call(self, method: str, path: str, *, json: object = None, **parameters: object) -> Any:  # noqa: ANN401  # JSON
        """One call; `path` is the route's template, filled from the parameters of its names."""
        self._recorded.called.add((method, path))
        self._recorded.now = f"{method} {path} {parameters}"
        filled = path.format(**{name: parameters.pop(name, "") for name in re.findall(r"{(\w+)}", path)})
        answer = await self._client.request(
            method, filled, json=json, params={k: str(v) for k, v in parameters.items()}
        )
        assert answer.status_code == 200, (method, path, parameters, answer.text)
        return answer.json() if "json" in answer.headers["content-type"] else None

    async def every_way(self, method: str, path: str, *, values: Mapping[str, object] = VALUES, **fixed: str) -> None:
        """The call with every combination of its filters, sorts and switches, and where there is one, its second page."""
        model = _parameters_of(self._routes[method, path])
        paged = {"page_size": 1} if "page_size" in model.model_fields else {}
        for chosen in _combinations(model, values):
            first = await self.call(method, path, **fixed, **chosen, **paged)
            if paged:
                assert first["next_cursor"], (path, chosen)
                more = {"count": False} | ({"fresh": True} if "fresh" in model.model_fields else {})
                await self.call(method, path, **fixed, **chosen, **paged, **more, cursor=first["next_cursor"])


def _parameters_of(route: APIRoute) -> type[BaseModel]:
    hints = get_type_hints(route.endpoint)
    (model,) = (hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, BaseModel))
    return model


def _combinations(model: type[BaseModel], values: Mapping[str, object]) -> Iterator[dict[str, object]]:
    choices = {
        name: [*([] if info.is_required() else [None]), *_values_of(name, info.annotation, values)]
        for name, info in model.model_fields.items()
        if name not in PAGING
    }
    for chosen in itertools.product(*choices.values()):
        yield {name: value for name, value in zip(choices, chosen, strict=True) if value is not None}


def _values_of(name: str, annotation: Any, values: Mapping[str, object]) -> list[object]:  # noqa: ANN401  # any annotation
    """Every choice where a parameter is how to list, one value where it is what to list."""
    if get_origin(annotation) in {Union, UnionType}:
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    if name not in values:
        if get_origin(annotation) is Literal:
            return list(get_args(annotation))
        if annotation is bool:
            return ["true", "false"]
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return [each.value for each in annotation]
    return [values[name]]


async def _drive(caller: Caller) -> None:
    get, post, delete = "GET", "POST", "DELETE"
    ended = {"c": "completed", "f": "failed", "x": "cancelled"}
    sessions = [_session("s1"), _session("s2"), *(_session(key, status=status) for key, status in ended.items())]
    tasks = [_task(f"t{number}", "s1", row_index=number) for number in range(70)]  # more than a list of keys holds
    tasks += [_task(f"{key}-task", key, status=status) for key, status in ended.items()]
    await caller.call(post, f"{BASE}/sessions/batch", json={"sessions": sessions})
    await caller.call(post, f"{BASE}/tasks/batch", json={"tasks": tasks})
    await caller.call(post, f"{BASE}/flush")
    orphan = _task("orphan", "unknown")
    conflicts = [_task(f"t{number}", "s2") for number in range(3)]
    await caller.call(post, f"{BASE}/tasks/batch", json={"tasks": [orphan, *conflicts]})
    await caller.call(post, f"{BASE}/flush")

    await caller.every_way(get, f"{BASE}/sessions")
    await caller.every_way(get, f"{BASE}/sessions/{{session_id}}", session_id="s1")
    await caller.every_way(get, f"{BASE}/sessions/{{session_id}}/tasks", session_id="s1")
    await caller.every_way(get, f"{BASE}/tasks")
    await caller.every_way(get, f"{BASE}/tasks/{{task_id}}", task_id="t1")

    await caller.every_way(get, f"{BASE}/recovery/incomplete-sessions")
    page = await caller.call(get, f"{BASE}/recovery/incomplete-sessions", limit=1)
    await caller.call(get, f"{BASE}/recovery/incomplete-sessions", limit=1, cursor=page["next_cursor"])
    restore = f"{BASE}/recovery/restore/{{session_id}}"
    await caller.every_way(post, restore, session_id="s1")
    page = await caller.call(post, restore, session_id="s1", limit=1)
    await caller.call(post, restore, session_id="s1", limit=1, cursor=page["next_cursor"])

    before = (await caller.call(get, f"{BASE}/stats"))["as_of"]
    async with asyncio.timeout(20):
        while (await caller.call(get, f"{BASE}/stats"))["as_of"] == before:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.01)

    of_letters = {**VALUES, "session_id": "s2"}
    await caller.every_way(get, f"{BASE}/dead-letters", values=of_letters)
    letters = (await caller.call(get, f"{BASE}/dead-letters"))["items"]
    letter_id = letters[0]["letter_id"]
    await caller.call(get, f"{BASE}/dead-letters/{{letter_id}}", letter_id=letter_id)
    await caller.call(post, f"{BASE}/dead-letters/{{letter_id}}/replay", letter_id=letter_id)
    await caller.every_way(post, f"{BASE}/dead-letters/replay", values=of_letters)
    await caller.call(delete, f"{BASE}/dead-letters/{{letter_id}}", letter_id=letter_id)

    await caller.every_way(post, f"{BASE}/sessions/cleanup")
    await caller.call(delete, f"{BASE}/sessions/{{session_id}}", session_id="s1")
    await caller.call(post, f"{BASE}/sessions/batch", json={"sessions": [_session("s1"), _session("unknown")]})
    await caller.call(post, f"{BASE}/flush")
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/api/v1/system/metrics"):
        await caller.call(get, path)


def _session(session_id: str, **changes: object) -> dict[str, object]:
    plain = {"filename": "f", "file_path": "/f", "status": "pending", "llm_provider": "p"}
    return {"session_id": session_id, **plain, **changes}


def _task(task_id: str, session_id: str, **changes: object) -> dict[str, object]:
    plain = {
        "batch_id": "b",
        "sheet_name": "S",
        "row_index": 1,
        "column_name": "c",
        "source_text": "",
        "status": "pending",
    }
    return {"task_id": task_id, "session_id": session_id, **plain, **changes}


async def _record(path: Path, recorded: Recorded) -> None:
    settings = Settings.model_validate(
        {
            "journal": {"directory": path / "journal", "min_free": 0},
            "sqlite": {"path": path / "test.db", "readers": 1},
            "stats": {"refresh_interval": "100ms"},
        }
    )
    async with open_services(settings) as services:
        app = create_app(lambda: nullcontext(services))
        assert isinstance(app, DocumentedApi)
        async with app.router.lifespan_context(app) as state:

            async def call(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "state": dict(state or {})}, receive, send)

            transport = httpx.ASGITransport(app=call)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8001") as client:
                await _drive(Caller(app, client, recorded))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    recorded = Recorded()

    def recording(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(connection: SqliteConnection, statement: Executable) -> Any:  # noqa: ANN401  # what the method gives
            recorded.note(connection, statement)
            return method(connection, statement)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteConnection, "rows", recording(SqliteConnection.rows))
        patch.setattr(SqliteConnection, "changed", recording(SqliteConnection.changed))
        asyncio.run(_record(tmp_path_factory.mktemp("plans"), recorded))
    return recorded


# Steps of plans, each with what it may cost.
ONE_READ = (
    r"SEARCH \w+ USING (COVERING )?INDEX sqlite_autoindex_\w+_1 \(\w+=\?\)",  # by key
    r"SEARCH translation_tasks USING (COVERING )?INDEX ix_tasks_\w+ \((session_id|batch_id)=\?.*\)",  # of one session or batch
    r"SEARCH \w+ USING (COVERING )?INDEX ix_letters?_\w+ \(\w+=\?.*\)",
    r"SEARCH deleted_sessions USING INDEX ix_deleted_removed \(removed_at=\?.*\)",
)
RANGE = (
    r"SEARCH translation_tasks USING (COVERING )?INDEX \w+ \((\(?created_at|\(?updated_at|task_id)[,\w]*\)?[<>].*\)",
    r"SEARCH translation_tasks USING COVERING INDEX ix_tasks_\w+ \(session_id>\? AND session_id<\?\)",  # statistics
    r"SEARCH dead_letters USING INDEX ix_letters_created \((\(created_at,letter_id\)[<>]\(\?,\?\)|created_at<\?)\)",
)
WALK = (
    r"SCAN translation_tasks USING INDEX (ix_tasks_created|ix_tasks_updated|sqlite_autoindex_translation_tasks_1)",
    r"SCAN dead_letters USING INDEX ix_letters_created",
)
COUNT_WALK = (r"SCAN (translation_tasks|dead_letters)( USING COVERING INDEX \w+)?",)
SMALL = (r"(SCAN|SEARCH) translation_sessions.*",)  # a workbook each: this table may be read and sorted
SORT = (r"USE TEMP B-TREE FOR .*",)
# Two dates of creation and another order: a day's tasks are sorted; were the order walked, all tasks would be read for them.
DATES = r"SEARCH translation_tasks USING INDEX ix_tasks_created \(created_at>\? AND created_at<\?\)"
GLUE = (
    r"CO-ROUTINE .+",
    r"SCAN (anon_1( VIRTUAL TABLE INDEX \d+:)?|\(subquery-\d+\)|CONSTANT ROW)",
    r"CORRELATED SCALAR SUBQUERY \d+",
    r"LIST SUBQUERY \d+",
)


def matches(step: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, step) for pattern in patterns)


def costs_too_much(sql: str, plan: list[str]) -> str:
    """Why the statement may read more than a page, a session, a batch or the table of sessions; empty if it may not."""
    bounded = " LIMIT " in sql.replace("\n", " ")
    counting = re.match(r"SELECT count\(\*\)", sql) is not None
    sorted_steps = [step for step in plan if matches(step, SORT)]
    small = any(matches(step, (*ONE_READ, *SMALL, DATES)) for step in plan)
    for step in plan:
        if matches(step, (*ONE_READ, *SMALL, *GLUE, *SORT)):
            continue
        if not bounded and not matches(step, RANGE):
            return f"nothing bounds {step!r}"
        if not matches(step, (*RANGE, *WALK, *(COUNT_WALK if counting else ()))):
            return f"{step!r} is not permitted"
    return f"it sorts more than a session: {sorted_steps}" if sorted_steps and not small else ""


def test_every_call_of_the_api_is_made_here(recorded: Recorded) -> None:
    assert recorded.called == recorded.routes


def test_every_statement_reads_about_what_it_gives(recorded: Recorded) -> None:
    costly = {sql: why for sql, plan in recorded.plans.items() if (why := costs_too_much(sql, plan))}
    assert {(why, min(recorded.calls[sql])): recorded.plans[sql] for sql, why in costly.items()} == {}


@pytest.mark.parametrize(
    "path, sort", [("/sessions/{session_id}/tasks", "position"), ("/tasks", "created_at")], ids=["session", "all"]
)
def test_the_default_orders_of_tasks_are_never_sorted(recorded: Recorded, path: str, sort: str) -> None:
    plans = [
        plan
        for sql, plan in recorded.plans.items()
        for call in recorded.calls[sql]
        if call.startswith(f"GET {BASE}{path} ") and f"'sort_by': '{sort}'" in call
        if path != "/tasks" or "'session_id'" not in call
    ]
    assert plans
    assert [plan for plan in plans if any(matches(step, SORT) for step in plan)] == []


def test_every_index_is_needed_by_a_statement(recorded: Recorded) -> None:
    steps = " ".join(step for plan in recorded.plans.values() for step in plan)
    assert {name for indexes in INDEXES.values() for name in indexes} - set(
        re.findall(r"INDEX (ix_\w+)", steps)
    ) == set()


def test_nothing_is_permitted_that_does_not_occur(recorded: Recorded) -> None:
    steps = {step for plan in recorded.plans.values() for step in plan}
    permitted = (*ONE_READ, *RANGE, *WALK, *COUNT_WALK, *SMALL, *SORT, *GLUE)
    assert [pattern for pattern in permitted if not any(re.fullmatch(pattern, step) for step in steps)] == []

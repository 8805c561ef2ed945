"""Every call of the API, in every way its parameters allow: what the tests of the statements listen to."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import httpx
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from persistence_service.api.app import create_app
from persistence_service.api.openapi import DocumentedApi
from persistence_service.bootstrap import open_services
from persistence_service.settings import Settings
from persistence_service.storage.registry import StorageRegistry

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
class Calls:
    """The routes there are, those that were called, and the call that is being made."""

    called: set[tuple[str, str]] = field(default_factory=set)
    routes: set[tuple[str, str]] = field(default_factory=set)
    now: str = "start"


class Caller:
    """Calls the API, each route in every way its parameters allow."""

    def __init__(self, app: DocumentedApi, client: httpx.AsyncClient, calls: Calls) -> None:
        self._client = client
        self._calls = calls
        self._routes = {(method, route.path_format): route for route in app.calls() for method in route.methods or ()}
        calls.routes = set(self._routes)

    async def call(self, method: str, path: str, *, json: object = None, **parameters: object) -> Any:  # noqa: ANN401  # JSON
        """One call; `path` is the route's template, filled from the parameters of its names."""
        self._calls.called.add((method, path))
        self._calls.now = f"{method} {path} {parameters}"
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
    async with asyncio.timeout(120):
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


async def make_every_call(settings: Settings, calls: Calls, registry: StorageRegistry | None = None) -> None:
    """Call every route of a service with these settings, whose backend `registry` may supply."""
    async with open_services(settings, registry=registry) as services:
        app = create_app(lambda: nullcontext(services))
        assert isinstance(app, DocumentedApi)
        async with app.router.lifespan_context(app) as state:

            async def call(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "state": dict(state or {})}, receive, send)

            transport = httpx.ASGITransport(app=call)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8001") as client:
                await _drive(Caller(app, client, calls))

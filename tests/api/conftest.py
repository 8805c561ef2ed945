"""The application in this process, on the memory backend that fails on demand and a journal in a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from persistence_service.api.app import create_app
from persistence_service.bootstrap import Services, open_services
from persistence_service.journal.files import Files
from persistence_service.settings import Settings
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.registry import StorageRegistry
from persistence_service.testing.faulty_backend import FaultyBackend

BASE = "/api/v1/translation"

Json = Any
"""JSON of whatever shape: what a test sends or gets."""


@dataclass(frozen=True, slots=True)
class Api:
    """A running application, and what a test may need of its insides."""

    app: FastAPI
    client: httpx.AsyncClient
    services: Services
    backend: FaultyBackend

    async def get(self, path: str, **parameters: Json) -> httpx.Response:
        """GET below the base path."""
        return await self.client.get(BASE + path, params=parameters)

    async def post(self, path: str, json: object = None, **parameters: Json) -> httpx.Response:
        """POST below the base path."""
        return await self.client.post(BASE + path, json=json, params=parameters)

    async def keep(
        self, sessions: list[dict[str, Any]] | None = None, tasks: list[dict[str, Any]] | None = None
    ) -> None:
        """Have these records accepted."""
        for kind, records in (("sessions", sessions), ("tasks", tasks)):
            if records:
                assert (await self.post(f"/{kind}/batch", {kind: records})).status_code == 200

    async def store(self, sessions: list[dict[str, Any]], tasks: list[dict[str, Any]] | None = None) -> None:
        """Have these records accepted and written to the backend."""
        await self.keep(sessions, tasks)
        assert (await self.post("/flush")).status_code == 200


StartApi = Callable[..., Awaitable[Api]]


@pytest.fixture
async def start_api(tmp_path: Path) -> AsyncIterator[StartApi]:
    """A function that starts an application with the settings given by section; `backend` and `files` may be prepared before."""
    async with AsyncExitStack() as running:

        async def start(
            *, backend: FaultyBackend | None = None, files: Files | None = None, **sections: dict[str, Any]
        ) -> Api:
            journal = {"directory": tmp_path / "journal", "min_free": 0, **sections.pop("journal", {})}
            service = {"shutdown_timeout": 5, **sections.pop("service", {})}
            settings = Settings.model_validate({"journal": journal, "service": service, **sections})
            backend = backend or FaultyBackend(MemoryBackend())
            registry = StorageRegistry()
            registry.register("memory", lambda: backend)
            registry.route_all("memory", {})
            services = await running.enter_async_context(open_services(settings, registry=registry, files=files))
            app = create_app(lambda: nullcontext(services))
            state = await running.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app=_with_state(app, state))
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost:8001")
            return Api(app, await running.enter_async_context(client), services, backend)

        yield start


@pytest.fixture
async def api(start_api: StartApi) -> Api:
    """An application with default settings."""
    return await start_api()


def _with_state(app: FastAPI, state: Mapping[str, object] | None) -> ASGIApp:
    """What a server does with the state that the lifespan hands out, and httpx does not."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state or {})}, receive, send)

    return call


def a_session(session_id: str = "s1", **fields: Json) -> dict[str, Any]:
    """A valid session."""
    return {
        "session_id": session_id,
        "filename": "items.xlsx",
        "file_path": "/data/items.xlsx",
        "status": "processing",
        "llm_provider": "openai",
        **fields,
    }


def a_task(task_id: str = "t1", session_id: str = "s1", **fields: Json) -> dict[str, Any]:
    """A valid task."""
    return {
        "task_id": task_id,
        "session_id": session_id,
        "batch_id": "b1",
        "sheet_name": "Items",
        "row_index": 1,
        "column_name": "zh",
        "source_text": "Potion",
        "status": "pending",
        **fields,
    }


def assert_error(response: httpx.Response, status: int, code: str) -> Json:
    """The response is an error in the one form; returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"detail", "error_code", "request_id"}
    assert answer["error_code"] == code
    assert answer["request_id"] == response.headers["x-request-id"]
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
    return answer["detail"]

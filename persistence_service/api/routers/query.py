"""Reading sessions and tasks."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from persistence_service.api.dependencies import ServicesDep, SessionList, SessionTaskList, TaskList
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.models.answers import session_view, task_view

router = APIRouter(prefix=BASE_PATH, tags=["query"])


@router.get("/sessions")
async def list_sessions(services: ServicesDep, listing: Annotated[SessionList, Query()]) -> Response:
    """List sessions."""
    page = await services.query.sessions(listing.which(), listing.wanted())
    return json_response(msgspec.structs.replace(page, items=[session_view(item) for item in page.items]))


@router.get("/sessions/{session_id}")
async def get_session(services: ServicesDep, session_id: str) -> Response:
    """One session, with everything accepted, buffered or stored."""
    return json_response(session_view(await services.query.session(session_id)))


@router.get("/sessions/{session_id}/tasks")
async def list_session_tasks(
    services: ServicesDep, session_id: str, listing: Annotated[SessionTaskList, Query()]
) -> Response:
    """List the tasks of a session."""
    page = await services.query.tasks_of(session_id, listing.which(session_id), listing.wanted())
    return json_response(msgspec.structs.replace(page, items=[task_view(item) for item in page.items]))


@router.get("/tasks")
async def list_tasks(services: ServicesDep, listing: Annotated[TaskList, Query()]) -> Response:
    """List tasks of any session."""
    page = await services.query.tasks(listing.which(), listing.wanted())
    return json_response(msgspec.structs.replace(page, items=[task_view(item) for item in page.items]))


@router.get("/tasks/{task_id:path}")
async def get_task(services: ServicesDep, task_id: str) -> Response:
    """One task, with everything accepted, buffered or stored."""
    return json_response(task_view(await services.query.task(task_id)))

"""Reading sessions and tasks."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from persistence_service.api.dependencies import (
    NoParameters,
    ServicesDep,
    SessionIdInPath,
    SessionList,
    SessionTaskList,
    TaskIdInPath,
    TaskList,
    well_formed,
)
from persistence_service.api.openapi import documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.errors import (
    QueryTimeout,
    Replaying,
    SessionNotFound,
    StorageUnavailable,
    TaskNotFound,
    ValidationFailed,
)
from persistence_service.models.answers import Page, SessionView, TaskView, session_view, task_view

router = APIRouter(prefix=BASE_PATH, tags=["query"], dependencies=[Depends(well_formed)])
_LISTING = (ValidationFailed, StorageUnavailable, QueryTimeout, Replaying)
_READING = (ValidationFailed, StorageUnavailable, Replaying)


@router.get("/sessions")
@documented(Page[SessionView], errors=_LISTING)
async def list_sessions(services: ServicesDep, listing: Annotated[SessionList, Query()]) -> Response:
    """List sessions, those created last first.

    Shows what is stored; with `fresh=true` also what was accepted before the call.
    """
    page = await services.query.sessions(listing.which(), listing.wanted())
    return json_response(msgspec.structs.replace(page, items=[session_view(item) for item in page.items]))


@router.get("/sessions/{session_id}")
@documented(SessionView, errors=(SessionNotFound, *_READING))
async def get_session(
    services: ServicesDep, session_id: SessionIdInPath, _: Annotated[NoParameters, Query()]
) -> Response:
    """Get one session, with everything accepted, buffered or stored."""
    return json_response(session_view(await services.query.session(session_id)))


@router.get("/sessions/{session_id}/tasks")
@documented(Page[TaskView], errors=(SessionNotFound, *_LISTING))
async def list_session_tasks(
    services: ServicesDep, session_id: SessionIdInPath, listing: Annotated[SessionTaskList, Query()]
) -> Response:
    """List the tasks of a session, by sheet, row and column.

    Shows what is stored; with `fresh=true` also what was accepted before the call.
    """
    page = await services.query.tasks_of(session_id, listing.which(session_id), listing.wanted())
    return json_response(msgspec.structs.replace(page, items=[task_view(item) for item in page.items]))


@router.get("/tasks")
@documented(Page[TaskView], errors=_LISTING)
async def list_tasks(services: ServicesDep, listing: Annotated[TaskList, Query()]) -> Response:
    """List tasks of any session, those created last first.

    Shows what is stored; with `fresh=true` also what was accepted before the call. `total` is exact for the tasks of a
    session or a batch; of others at most 100,000 are counted.
    """
    page = await services.query.tasks(listing.which(), listing.wanted())
    return json_response(msgspec.structs.replace(page, items=[task_view(item) for item in page.items]))


@router.get("/tasks/{task_id:path}")
@documented(TaskView, errors=(TaskNotFound, *_READING))
async def get_task(services: ServicesDep, task_id: TaskIdInPath, _: Annotated[NoParameters, Query()]) -> Response:
    """Get one task, with everything accepted, buffered or stored."""
    return json_response(task_view(await services.query.task(task_id)))

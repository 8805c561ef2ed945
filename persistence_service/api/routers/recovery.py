"""What is unfinished."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from msgspec.structs import asdict
from starlette.responses import Response

from persistence_service.api.dependencies import ServicesDep
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.models.answers import (
    IncompleteSession,
    IncompleteSessions,
    RestoredSession,
    UnfinishedCounts,
    session_view,
    task_view,
)
from persistence_service.models.status import Status

router = APIRouter(prefix=f"{BASE_PATH}/recovery", tags=["recovery"])
_YEAR_S = 366 * 86_400


@router.get("/incomplete-sessions")
async def incomplete_sessions(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
    idle_seconds: Annotated[float | None, Query(ge=0, le=100 * _YEAR_S, allow_inf_nan=False)] = None,
) -> Response:
    """Sessions that are unfinished by status or have unfinished tasks, latest activity first."""
    page = await services.recovery.incomplete_sessions(limit=limit, cursor=cursor, idle_s=idle_seconds)
    return json_response(
        IncompleteSessions(
            count=page.count,
            sessions=[
                IncompleteSession(
                    **asdict(session_view(item.session)),
                    unfinished_tasks=UnfinishedCounts(
                        pending=item.unfinished[Status.PENDING], processing=item.unfinished[Status.PROCESSING]
                    ),
                    last_activity=item.last_activity,
                )
                for item in page.sessions
            ],
            next_cursor=page.next_cursor,
            complete=True,
            missing=[],
        )
    )


@router.post("/restore/{session_id}")
async def restore(
    services: ServicesDep,
    session_id: str,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    cursor: str | None = None,
    include_failed: bool = False,
) -> Response:
    """The session and its unfinished tasks. This only reads."""
    restored = await services.recovery.restore(session_id, include_failed=include_failed, limit=limit, cursor=cursor)
    return json_response(
        RestoredSession(
            session_id=session_id,
            session=session_view(restored.session),
            tasks_count=restored.tasks_count,
            tasks=[task_view(task) for task in restored.tasks],
            restored_at=restored.restored_at,
            next_cursor=restored.next_cursor,
        )
    )

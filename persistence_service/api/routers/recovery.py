"""What is unfinished."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from msgspec.structs import asdict
from starlette.responses import Response

from persistence_service.api.dependencies import (
    IncompleteParameters,
    RestoreParameters,
    ServicesDep,
    SessionIdInPath,
    no_body,
    well_formed,
)
from persistence_service.api.openapi import documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.errors import QueryTimeout, Replaying, SessionNotFound, StorageUnavailable, ValidationFailed
from persistence_service.models.answers import (
    IncompleteSession,
    IncompleteSessions,
    RestoredSession,
    UnfinishedCounts,
    session_view,
    task_view,
)
from persistence_service.models.status import Status

router = APIRouter(prefix=f"{BASE_PATH}/recovery", tags=["recovery"], dependencies=[Depends(well_formed)])
_TRUTH = (ValidationFailed, StorageUnavailable, QueryTimeout, Replaying)


@router.get("/incomplete-sessions")
@documented(IncompleteSessions, errors=_TRUTH)
async def incomplete_sessions(services: ServicesDep, wanted: Annotated[IncompleteParameters, Query()]) -> Response:
    """List the sessions that are unfinished by status or have unfinished tasks, latest activity first.

    Everything accepted before the call is written to the database first.
    """
    page = await services.recovery.incomplete_sessions(
        limit=wanted.limit, cursor=wanted.cursor, idle_s=wanted.idle_seconds
    )
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
            complete=not page.missing,
            missing=page.missing,
        )
    )


@router.post("/restore/{session_id}", dependencies=[Depends(no_body)])
@documented(RestoredSession, errors=(SessionNotFound, *_TRUTH))
async def restore(
    services: ServicesDep, session_id: SessionIdInPath, wanted: Annotated[RestoreParameters, Query()]
) -> Response:
    """Get a session and its unfinished tasks, by sheet, row and column.

    This only reads. Everything accepted before the call is written to the database first.
    """
    restored = await services.recovery.restore(
        session_id, include_failed=wanted.include_failed, limit=wanted.limit, cursor=wanted.cursor
    )
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

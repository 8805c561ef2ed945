"""Flushing on demand."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from persistence_service.api.dependencies import NoParameters, ServicesDep, no_body, well_formed
from persistence_service.api.openapi import documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.errors import Replaying, StorageUnavailable, ValidationFailed
from persistence_service.models.answers import FlushDone

router = APIRouter(prefix=BASE_PATH, tags=["write"], dependencies=[Depends(well_formed)])


@router.post("/flush", dependencies=[Depends(no_body)])
@documented(FlushDone, errors=(ValidationFailed, StorageUnavailable, Replaying))
async def flush(services: ServicesDep, _: Annotated[NoParameters, Query()]) -> Response:
    """Write everything accepted before this call to the database.

    Tasks whose session is not known yet wait, and records that can't be stored are set aside; nothing is lost by a 503.
    """
    started = time.perf_counter()
    report = await services.whole.flush()
    return json_response(
        FlushDone(
            status="flushed",
            sessions_written=report.sessions_written,
            tasks_written=report.tasks_written,
            duration_ms=round((time.perf_counter() - started) * 1000),
            waiting=report.waiting,
            dead_lettered=report.dead_lettered,
        )
    )

"""Statistics for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from persistence_service.api.dependencies import NoParameters, ServicesDep, well_formed
from persistence_service.api.openapi import documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.errors import ValidationFailed
from persistence_service.models.statistics_answers import Statistics

router = APIRouter(prefix=BASE_PATH, tags=["administration"], dependencies=[Depends(well_formed)])


@router.get("/stats")
@documented(Statistics, errors=(ValidationFailed,))
async def stats(services: ServicesDep, _: Annotated[NoParameters, Query()]) -> Response:
    """Get how much is stored, how it went, and how the buffer and the process are.

    What is in the database is counted in the background, now and then, and not for this call: it is as of `as_of`, which stays
    behind while the database is away. The rest is of the moment.
    """
    return json_response(await services.reports.statistics())

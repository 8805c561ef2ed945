"""Health and metrics."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from persistence_service.api.dependencies import ServicesDep
from persistence_service.api.errors import RETRY_LATER
from persistence_service.api.openapi import documented
from persistence_service.api.responses import json_response
from persistence_service.models.answers import Health, Liveness

router = APIRouter(tags=["system"])
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health")
@documented(Health, also={503: Health})
async def health(services: ServicesDep) -> Response:
    """Tell how the service is, the database included: 503 only when batches are refused.

    Of several workers the worst is told; one that can't be asked degrades the service.
    """
    report = await services.reports.health()
    return _as_it_is(report, is_well=report.status != "unhealthy")


@router.get("/health/live")
@documented(Liveness)
async def live() -> Response:
    """Tell that the process answers; never asks the database."""
    return json_response(Liveness("alive"))


@router.get("/health/ready")
@documented(Liveness, also={503: Liveness})
async def ready(services: ServicesDep) -> Response:
    """Tell whether a batch sent now can be accepted and kept; of several workers, by the one that answers."""
    is_ready = services.health.is_ready()
    return _as_it_is(Liveness("ready" if is_ready else "not ready"), is_well=is_ready)


def _as_it_is(answer: Health | Liveness, *, is_well: bool) -> Response:
    if is_well:
        return json_response(answer)
    return json_response(answer, status=503, headers=RETRY_LATER)


@router.get("/metrics")
@router.get("/api/v1/system/metrics", name="system_metrics")
@documented("text/plain")
async def metrics(services: ServicesDep) -> Response:
    """Get the metrics in Prometheus' text format; of several workers those of all, each labelled with its `worker`."""
    return Response(await services.reports.metrics(), media_type=_PROMETHEUS)

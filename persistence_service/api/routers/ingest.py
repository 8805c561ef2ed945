"""Taking batches in, and flushing on demand."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from persistence_service.api.body import read_json_body
from persistence_service.api.dependencies import ServicesDep
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.buffer.buffer import AsideReason
from persistence_service.buffer.manager import Receipt
from persistence_service.models.answers import BatchAccepted, FlushDone, UnstoredItem
from persistence_service.models.requests import SESSION_PARSER, TASK_PARSER
from persistence_service.settings import Durability

router = APIRouter(prefix=BASE_PATH, tags=["write"])
Ack = Annotated[Durability | None, Query(description="how safe the batch must be when it is acknowledged")]
_FINAL = frozenset({AsideReason.TASK_ID_CONFLICT.value, AsideReason.DATA_REJECTED.value})


@router.post("/sessions/batch")
async def keep_sessions(request: Request, services: ServicesDep, ack: Ack = None) -> Response:
    """Keep a batch of sessions, all or nothing."""
    body = await read_json_body(request, services.limits.max_body_bytes)
    return _accepted(await services.buffer.accept_sessions(SESSION_PARSER.parse(body, services.limits), ack))


@router.post("/tasks/batch")
async def keep_tasks(request: Request, services: ServicesDep, ack: Ack = None) -> Response:
    """Keep a batch of tasks, all or nothing."""
    body = await read_json_body(request, services.limits.max_body_bytes)
    return _accepted(await services.buffer.accept_tasks(TASK_PARSER.parse(body, services.limits), ack))


@router.post("/flush")
async def flush(services: ServicesDep) -> Response:
    """Write everything accepted before this call to the backend."""
    started = time.perf_counter()
    report = await services.buffer.flush()
    return json_response(
        FlushDone(
            status="flushed",
            sessions_written=report.sessions_written,
            tasks_written=report.tasks_written,
            duration_ms=round((time.perf_counter() - started) * 1000),
            waiting=report.waiting,
            dead_lettered=report.refused,
        )
    )


def _accepted(receipt: Receipt) -> Response:
    unstored = [(item.reason in _FINAL, UnstoredItem(item.index, item.reason)) for item in receipt.not_stored]
    answer = BatchAccepted(
        status="accepted",
        count=receipt.count,
        timestamp=receipt.accepted_at,
        durability=receipt.durability.value,
        waiting=[item for is_final, item in unstored if not is_final],
        dead_lettered=[item for is_final, item in unstored if is_final],
    )
    return json_response(answer, status=202 if receipt.not_stored else 200)

"""Taking batches in, and flushing on demand."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Annotated, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from persistence_service.api.body import read_json_body
from persistence_service.api.dependencies import IntakeParameters, NoParameters, ServicesDep, no_body, well_formed
from persistence_service.api.openapi import BODY, ROOM, documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.bootstrap import Services
from persistence_service.buffer.entries import Place
from persistence_service.buffer.manager import Receipt
from persistence_service.errors import StorageUnavailable, ValidationFailed
from persistence_service.models.answers import BatchAccepted, FlushDone, UnstoredItem
from persistence_service.models.requests import SESSION_PARSER, TASK_PARSER, BatchParser, SessionBatch, TaskBatch

router = APIRouter(prefix=BASE_PATH, tags=["write"], dependencies=[Depends(well_formed)])
Item = TypeVar("Item", bound=msgspec.Struct)
_LARGE_BYTES = 512 * 1024
_INTAKE = (*BODY, ValidationFailed, *ROOM)


@router.post("/sessions/batch")
@documented(BatchAccepted, body=SessionBatch, also={202: BatchAccepted}, errors=_INTAKE)
async def keep_sessions(
    request: Request, services: ServicesDep, parameters: Annotated[IntakeParameters, Query()]
) -> Response:
    """Keep a batch of sessions, all or nothing.

    One item that is not valid and nothing of the batch is kept; the answer names each bad item. Items of one id are merged.
    """
    body = await read_json_body(request, services.limits.max_body_bytes)
    requests = await _parsed(SESSION_PARSER, body, services)
    return _accepted(await services.buffer.accept_sessions(requests, parameters.ack))


@router.post("/tasks/batch")
@documented(BatchAccepted, body=TaskBatch, also={202: BatchAccepted}, errors=_INTAKE)
async def keep_tasks(
    request: Request, services: ServicesDep, parameters: Annotated[IntakeParameters, Query()]
) -> Response:
    """Keep a batch of tasks, all or nothing.

    One item that is not valid and nothing of the batch is kept; the answer names each bad item. Items of one id are merged.
    """
    body = await read_json_body(request, services.limits.max_body_bytes)
    requests = await _parsed(TASK_PARSER, body, services)
    return _accepted(await services.buffer.accept_tasks(requests, parameters.ack))


@router.post("/flush", dependencies=[Depends(no_body)])
@documented(FlushDone, errors=(ValidationFailed, StorageUnavailable))
async def flush(services: ServicesDep, _: Annotated[NoParameters, Query()]) -> Response:
    """Write everything accepted before this call to the database.

    Tasks whose session is not known yet wait, and records that can't be stored are set aside; nothing is lost by a 503.
    """
    started = time.perf_counter()
    report = await services.buffer.flush()
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


async def _parsed(parser: BatchParser[Item], body: bytes, services: Services) -> list[Item]:
    """The items of `body`; a large one is parsed beside the loop, so that others are answered meanwhile."""
    parse = partial(parser.parse, body, services.limits, services.timing.wall_us())
    return await asyncio.to_thread(parse) if len(body) > _LARGE_BYTES else parse()


def _accepted(receipt: Receipt) -> Response:
    unstored = [(item.place, UnstoredItem(item.index, item.reason)) for item in receipt.not_stored]
    answer = BatchAccepted(
        status="accepted",
        count=receipt.count,
        timestamp=receipt.accepted_at,
        durability=receipt.durability.value,
        waiting=[item for place, item in unstored if place is Place.WAITING],
        dead_lettered=[item for place, item in unstored if place is Place.DEAD_LETTER],
        dropped=[item for place, item in unstored if place is Place.DROPPED],
    )
    return json_response(answer, status=202 if receipt.not_stored else 200)

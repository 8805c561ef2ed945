"""Taking batches in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from persistence_service.api.body import read_json_body
from persistence_service.api.dependencies import IntakeParameters, ServicesDep, well_formed
from persistence_service.api.openapi import BODY, ROOM, documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.bootstrap import Services
from persistence_service.buffer.entries import Place
from persistence_service.buffer.manager import Receipt
from persistence_service.errors import ValidationFailed
from persistence_service.models.answers import BatchAccepted, UnstoredItem
from persistence_service.models.requests import SESSION_PARSER, TASK_PARSER, BatchParser, SessionBatch, TaskBatch

_NO_PARAMETERS = IntakeParameters(ack=None)


class IntakeRoute(APIRoute):
    """Calls without a query string, which are nearly all, go straight to the endpoint.

    There is nothing to resolve for them, and resolving it took a quarter of a small batch's time in the interpreter.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        resolve = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                return await resolve(request)
            response: Response = await self.endpoint(request, request.state.services, _NO_PARAMETERS)
            return response

        return handle


router = APIRouter(prefix=BASE_PATH, tags=["write"], dependencies=[Depends(well_formed)], route_class=IntakeRoute)
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
    return _accepted(await services.whole.accept_tasks(requests, parameters.ack))


async def _parsed(parser: BatchParser[Item], body: bytes, services: Services) -> list[Item]:
    """The items of `body`; a large one is parsed beside the loop, so that others are answered meanwhile."""
    parse = partial(parser.parse, body, services.limits, services.buffer.now_us())
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

"""Errors as answers: one table from error class to HTTP status, one form for all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from persistence_service import errors
from persistence_service.api.responses import json_response
from persistence_service.errors import PersistenceError, Unavailable, ValidationFailed
from persistence_service.models.answers import ErrorAnswer, Problem
from persistence_service.models.limits import MAX_PROBLEMS

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = structlog.get_logger(__name__)

# A class without a row of its own takes that of its nearest base; a test holds that every class ends in one on purpose.
STATUS: dict[type[PersistenceError], int] = {
    errors.PersistenceError: 500,
    errors.MalformedBody: 400,
    errors.UnsupportedMedia: 415,
    errors.PayloadTooLarge: 413,
    errors.ValidationFailed: 422,
    errors.Forbidden: 403,
    errors.SessionNotFound: 404,
    errors.TaskNotFound: 404,
    errors.Unavailable: 503,
    errors.StorageSetupError: 503,
    errors.UnclassifiedStorageError: 503,
    errors.SchemaTooNew: 503,
    errors.BackendClosed: 503,
}
_STORAGE_AWAY = "the database can't be used now; what was acknowledged is safe, ask again later"
_INTERNAL = "something went wrong in the service; the request may be repeated, and the log has the details"


def status_of(error: type[PersistenceError]) -> int:
    """The HTTP status of an error class: its own row, or that of its nearest base."""
    return next(STATUS[base] for base in error.__mro__ if base in STATUS)


def add_error_handlers(app: FastAPI) -> None:
    """Make every error leave in the one form."""
    app.add_exception_handler(PersistenceError, _ours)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _http)


def error_response(
    request_id: str, status: int, code: str, detail: str | list[Problem], *, retry_after_s: float | None = None
) -> Response:
    """An error in the one form."""
    headers = None if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    answer = ErrorAnswer(detail=detail, error_code=code, request_id=request_id)
    return json_response(answer, status=status, headers=headers)


def internal_error(request_id: str) -> Response:
    """The answer when something failed that no handler knows; nothing of it leaves the process."""
    return error_response(request_id, 500, "INTERNAL_ERROR", _INTERNAL)


async def _ours(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, PersistenceError)  # noqa: S101  # the signature is the framework's
    request_id = request.state.request_id
    if isinstance(exc, ValidationFailed):
        problems = [Problem(problem.index, problem.field, problem.reason) for problem in exc.problems]
        return error_response(request_id, 422, exc.code, problems)
    status = status_of(type(exc))
    if status == 500:
        _log.error("request.failed", exc_info=exc)
        return internal_error(request_id)
    retry_after = exc.retry_after_s if isinstance(exc, Unavailable) else None
    if isinstance(exc, (errors.StorageError, errors.StorageUnavailable)) and not isinstance(exc, errors.QueryTimeout):
        return error_response(request_id, status, "STORAGE_UNAVAILABLE", _STORAGE_AWAY, retry_after_s=retry_after or 5)
    if status == 503 and retry_after is None:
        retry_after = 5
    return error_response(request_id, status, exc.code, str(exc), retry_after_s=retry_after)


async def _bad_parameters(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101  # the signature is the framework's
    problems = [
        Problem(None, ".".join(str(part) for part in error["loc"][1:]), str(error["msg"]))
        for error in exc.errors()[:MAX_PROBLEMS]
    ]
    return error_response(request.state.request_id, 422, ValidationFailed.code, problems)


async def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101  # the signature is the framework's
    response = error_response(request.state.request_id, exc.status_code, f"HTTP_{exc.status_code}", str(exc.detail))
    response.headers.update(exc.headers or {})
    return response

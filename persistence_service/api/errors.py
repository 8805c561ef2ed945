"""Errors as answers: one table from error class to HTTP status, one form for all of them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from persistence_service import errors
from persistence_service.api.responses import json_response
from persistence_service.errors import PersistenceError, Unavailable, ValidationFailed
from persistence_service.models.answers import ErrorAnswer, Problem
from persistence_service.models.limits import MAX_PROBLEMS

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = structlog.get_logger(__name__)

# Every class has a row of its own, but for those of `Unavailable`, which may take its row; a test holds this.
STATUS: dict[type[PersistenceError], int] = {
    errors.PersistenceError: 500,
    errors.ConfigurationError: 500,
    errors.RequestError: 400,
    errors.MalformedBody: 400,
    errors.UnsupportedMedia: 415,
    errors.PayloadTooLarge: 413,
    errors.RequestTimeout: 408,
    errors.ValidationFailed: 422,
    errors.Forbidden: 403,
    errors.SessionNotFound: 404,
    errors.TaskNotFound: 404,
    errors.DeadLetterNotFound: 404,
    errors.Unavailable: 503,
    errors.StorageError: 503,
    errors.DataRejected: 500,
    errors.StorageSetupError: 503,
    errors.UnclassifiedStorageError: 503,
    errors.UnknownBackend: 500,
    errors.UnknownCollection: 500,
    errors.SchemaTooNew: 503,
    errors.BackendClosed: 503,
    errors.JournalError: 500,
    errors.JournalLocked: 500,
    errors.JournalRecordDamaged: 500,
    errors.DeadLetterDamaged: 409,
    errors.JournalVersionUnknown: 500,
}
_RETRY_AFTER_S = 5
RETRY_LATER = {"Retry-After": str(_RETRY_AFTER_S)}
_STORAGE_AWAY = "the database can't be used now; what was acknowledged is safe, ask again later"
_INTERNAL = "something went wrong in the service; the request may be repeated, and the log has the details"
_HTTP_DETAILS = {
    404: "there is no such call; /docs lists all there are",
    405: "this call does not take this method; the header Allow has those it takes",
}
_LONGEST_FIELD = 200


def status_of(error: type[PersistenceError]) -> int:
    """The HTTP status of an error class: its own row, or that of its nearest base."""
    return next(STATUS[base] for base in error.__mro__ if base in STATUS)


def code_of(error: type[PersistenceError]) -> str:
    """The code that an error class is answered with. Callers see one kind of trouble with storage, but for a slow query."""
    status = status_of(error)
    if status == 500:
        return PersistenceError.code
    if issubclass(error, (errors.StorageError, errors.StorageUnavailable)) and not issubclass(
        error, errors.QueryTimeout
    ):
        return errors.StorageUnavailable.code
    return error.code


def detail_of(error: PersistenceError) -> str | list[Problem]:
    """What may be said of an error: never the words of a driver or of the system."""
    if isinstance(error, ValidationFailed):
        return [Problem(problem.index, problem.field, problem.reason) for problem in error.problems]
    code = code_of(type(error))
    if code == PersistenceError.code:
        return _INTERNAL
    return _STORAGE_AWAY if code == errors.StorageUnavailable.code else str(error)


def add_error_handlers(app: FastAPI, calls: Callable[[], Iterable[Route]]) -> None:
    """Make every error leave in the one form; `calls` are those that the application has."""
    app.add_exception_handler(PersistenceError, _ours)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _http(calls))


def error_response(request_id: str, error: PersistenceError) -> Response:
    """`error` in the one form; with Retry-After if the same request can succeed later."""
    status = status_of(type(error))
    headers: dict[str, str] = {}
    if status == 503:
        wait_s = error.retry_after_s if isinstance(error, Unavailable) else None
        headers["Retry-After"] = str(max(1, math.ceil(_RETRY_AFTER_S if wait_s is None else wait_s)))
    if status == 408:
        headers["Connection"] = "close"  # the rest of the body may still come, and nobody waits for it
    answer = ErrorAnswer(detail=detail_of(error), error_code=code_of(type(error)), request_id=request_id)
    return json_response(answer, status=status, headers=headers)


async def _ours(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, PersistenceError)  # noqa: S101  # the signature is the framework's
    if status_of(type(exc)) == 500:
        _log.error("request.failed", exc_info=exc)
    return error_response(request.state.request_id, exc)


async def _bad_parameters(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101  # the signature is the framework's
    problems = [
        errors.FieldProblem(
            None,
            ".".join(str(part) for part in error["loc"][1:])[:_LONGEST_FIELD],
            _reason(str(error["type"]), str(error["msg"])),
        )
        for error in exc.errors()[:MAX_PROBLEMS]
    ]
    return error_response(request.state.request_id, ValidationFailed(problems))


def _reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "is not a parameter of this call"
    return message.removeprefix("Value error, ").replace("Input should be", "must be", 1)


def _http(calls: Callable[[], Iterable[Route]]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101  # the signature is the framework's
        detail = _HTTP_DETAILS.get(exc.status_code, HTTPStatus(exc.status_code).phrase)
        answer = ErrorAnswer(detail=detail, error_code=f"HTTP_{exc.status_code}", request_id=request.state.request_id)
        headers = dict(exc.headers or {})
        if exc.status_code == 405 and (methods := _methods_of(calls(), request.scope["path"])):
            headers["Allow"] = ", ".join(methods)
        return json_response(answer, status=exc.status_code, headers=headers)

    return handle


def _methods_of(calls: Iterable[Route], path: str) -> list[str]:
    """The methods of an address, of all its calls; the framework names those of the first call that fits."""
    fitting = [call for call in calls if call.path_regex.match(path)]
    if not fitting:
        return []
    nearest = min(fitting, key=lambda call: len(call.param_convertors)).path  # /sessions/cleanup before /sessions/{id}
    return sorted({method for call in fitting if call.path == nearest for method in call.methods or ()})

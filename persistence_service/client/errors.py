"""What can go wrong in the client alone, and from the service's answers back to the errors of this package."""

from __future__ import annotations

from typing import TypeVar

import httpx
import msgspec

from persistence_service import errors
from persistence_service.errors import FieldProblem, PersistenceError, Unavailable, ValidationFailed
from persistence_service.models.answers import ErrorAnswer

E = TypeVar("E", bound=PersistenceError)

_answer = msgspec.json.Decoder(ErrorAnswer)
_LONGEST_DETAIL = 200


class UnexpectedAnswer(PersistenceError):  # noqa: N818  # errors are named for what happened
    """An answer that means none of this package's errors: a mistake of the service, or not the service at all.

    `error_code`, `detail` and `request_id` are empty where the answer has none.
    """

    code = "UNEXPECTED_ANSWER"

    def __init__(self, status: int, detail: str, *, error_code: str = "", request_id: str = "") -> None:
        self.status = status
        self.error_code = error_code
        self.detail = detail
        self.request_id = request_id
        super().__init__(f"the answer is {status} {error_code}".rstrip() + f": {detail}")


class ServiceUnreachable(Unavailable):
    """The connection failed or broke, so that nobody knows what became of the request."""

    code = "SERVICE_UNREACHABLE"


class GaveUp(Unavailable):
    """No attempt succeeded within `give_up_s`; `last` is how the last one failed, and what was sent may have been kept."""

    code = "GAVE_UP"

    def __init__(self, attempts: int, elapsed_s: float, last: PersistenceError) -> None:
        self.attempts = attempts
        self.elapsed_s = elapsed_s
        self.last = last
        super().__init__(f"gave up after {attempts} attempt(s) in {elapsed_s:.1f} s: {last}")


def unreachable(cause: httpx.RequestError) -> ServiceUnreachable:
    """A broken connection in words; what httpx says of some is empty."""
    return ServiceUnreachable(
        f"the service can't be reached at {cause.request.url.host}: {str(cause) or type(cause).__name__}"
    )


def error_from(
    response: httpx.Response, *, record_id: str = "", retry_after_s: float | None = None
) -> PersistenceError:
    """The error that `response` stands for; `record_id` is the one that was asked for."""
    try:
        answer = _answer.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = f"not an answer of the persistence service: {response.text[:_LONGEST_DETAIL]!r}"
        return UnexpectedAnswer(response.status_code, detail)
    error = _known(answer, record_id, retry_after_s)
    if error is None:
        return UnexpectedAnswer(
            response.status_code,
            str(answer.detail),
            error_code=answer.error_code,
            request_id=answer.request_id,
        )
    error.add_note(f"request {answer.request_id}")
    return error


def _defines_init(kind: type) -> type:
    return next(base for base in kind.__mro__ if "__init__" in vars(base))


def _built_like(base: type[E]) -> dict[str, type[E]]:
    """`base` and the errors below it that are made of the same arguments, by their codes, but for those without one."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, base)]
    alike = [kind for kind in kinds if _defines_init(kind) is _defines_init(base)]
    return {kind.code: kind for kind in alike if kind.code != PersistenceError.code}


# Those with attributes of their own can't be made of an answer, unless they are named here.
_MISSING = {kind.code: kind for kind in (errors.SessionNotFound, errors.TaskNotFound)}
_REFUSED = _built_like(errors.RequestError)
_UNAVAILABLE: dict[str, type[Unavailable]] = {**_built_like(Unavailable), **_built_like(errors.StorageUnavailable)}


def _known(answer: ErrorAnswer, record_id: str, retry_after_s: float | None) -> PersistenceError | None:
    detail, code = answer.detail, answer.error_code
    if not isinstance(detail, str):
        problems = [FieldProblem(problem.index, problem.field, problem.reason) for problem in detail]
        return ValidationFailed(problems) if code == ValidationFailed.code else None
    if code in _MISSING:
        return _MISSING[code](record_id)
    if code in _UNAVAILABLE:
        return _UNAVAILABLE[code](detail, retry_after_s=retry_after_s)
    return _REFUSED[code](detail) if code in _REFUSED else None

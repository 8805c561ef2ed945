"""From the bytes of a request's body to its items, or to a list of everything that is wrong with them.

The body is parsed and checked in one pass. Only a body that fails is looked at again, item by item, to name each bad one, and
to take whole numbers that are written with a fraction of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec.inspect import type_info
from msgspec.structs import fields

from persistence_service.errors import FieldProblem, MalformedBody, PayloadTooLarge, ValidationFailed
from persistence_service.models.acceptance import session_problem, task_problem
from persistence_service.models.limits import MAX_PROBLEMS, Limits
from persistence_service.models.session import SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import TaskRequest, TimeText

Item = TypeVar("Item", bound=Struct)
_ID_REASON = "must have no white space at its ends and no control characters, and must not be '.' or '..'"
_SESSION_ID_REASON = _ID_REASON + "; a session id has no '/' either"
_STATUS_REASON = f"must be one of {', '.join(Status)}"


class SessionBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /sessions/batch`."""

    sessions: list[SessionRequest]


class TaskBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /tasks/batch`."""

    tasks: list[TaskRequest]


class _SentSession(SessionRequest, frozen=True, forbid_unknown_fields=True):
    """A session whose JSON is still as it was sent: as Python's objects all of a batch's would take 25 times its bytes."""

    game_info: msgspec.Raw = msgspec.Raw(b"null")  # type: ignore[assignment]  # acceptance takes either
    metadata: msgspec.Raw = msgspec.Raw(b"null")  # type: ignore[assignment]  # likewise
    event_time: TimeText | None = None


class _SentSessions(Struct, frozen=True, forbid_unknown_fields=True):
    sessions: list[_SentSession]


class _RawSessions(Struct, forbid_unknown_fields=True):
    sessions: list[msgspec.Raw]


class _RawTasks(Struct, forbid_unknown_fields=True):
    tasks: list[msgspec.Raw]


class BatchParser(Generic[Item]):
    """Reads the bodies of one endpoint."""

    def __init__(
        self,
        decode: Callable[[bytes], list[Item]],
        split: Callable[[bytes], list[msgspec.Raw]],
        item: type[Item],
        problem: Callable[[Item, int, Limits], FieldProblem | None],
    ) -> None:
        self._decode = decode
        self._split = split
        self._type = item
        self._item = msgspec.json.Decoder(item)
        self._whole = frozenset(field.encode_name for field in fields(item) if _is_whole(type_info(field.type)))
        self._problem = problem

    def parse(self, body: bytes, limits: Limits, now_us: int) -> list[Item]:
        """The items of `body`, in order; what their types can't state is still to be checked, by `models.acceptance`.

        Items of a body that fails are held against those rules too, at the service's time `now_us`, so that every bad one is
        named at once.

        Raises:
            MalformedBody: not JSON in UTF-8.
            ValidationFailed: JSON that is not such a batch; names the first 100 bad items.
            PayloadTooLarge: more items than `limits.max_batch_items`.
        """
        try:
            items = self._decode(body)
        except msgspec.ValidationError:
            return self._one_by_one(body, limits, now_us)
        except _MALFORMED as exc:
            raise malformed(exc) from None
        check_count(len(items), limits)
        return items

    def _one_by_one(self, body: bytes, limits: Limits, now_us: int) -> list[Item]:
        try:
            body.decode()
            _any_json.decode(body)  # what is no JSON at all is that first, whatever else is wrong with its beginning
            raws = self._split(body)
        except msgspec.ValidationError as exc:
            raise ValidationFailed([problem_from(None, exc)]) from None
        except _MALFORMED as exc:
            raise malformed(exc) from None
        check_count(len(raws), limits)
        items: list[Item] = []
        problems: list[FieldProblem] = []
        for index, raw in enumerate(raws):
            try:
                item = self._read(raw)
                items.append(item)
                problem = self._problem(item, now_us, limits)
            except msgspec.ValidationError as exc:
                problem = problem_from(None, exc)
            except _MALFORMED as exc:
                raise malformed(exc) from None
            if problem is not None and len(problems) < MAX_PROBLEMS:
                problems.append(replace(problem, index=index))
        if problems:
            raise ValidationFailed(problems)
        return items

    def _read(self, raw: msgspec.Raw) -> Item:
        """One item. A whole number may be written `3.0` as JSON schemas have it, which costs those who write it so."""
        try:
            return self._item.decode(raw)
        except msgspec.ValidationError:
            content = _object(raw)
            numbers = {field: _number(content[field]) for field in self._whole & content.keys()}
            whole = {
                field: msgspec.Raw(b"%d" % number)
                for field, number in numbers.items()
                if number is not None and number.is_integer()
            }
            if not whole:
                raise
            return self._item.decode(msgspec.json.encode(content | whole))


def _object(raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The fields of the object in `raw`, as they are written; none if there is no object that can be read."""
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except _MALFORMED:
        return {}


def _number(raw: msgspec.Raw) -> float | None:
    """The number in `raw` that is written with a fraction or an exponent."""
    try:
        value = msgspec.json.decode(raw)
    except _MALFORMED:
        return None
    return value if isinstance(value, float) else None


def _is_whole(kind: msgspec.inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return any(isinstance(one, msgspec.inspect.IntType) for one in kinds)


_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_any_json = msgspec.json.Decoder(msgspec.Raw)
_sessions = msgspec.json.Decoder(_SentSessions)
_tasks = msgspec.json.Decoder(TaskBatch)
_raw_sessions = msgspec.json.Decoder(_RawSessions)
_raw_tasks = msgspec.json.Decoder(_RawTasks)

SESSION_PARSER = BatchParser[SessionRequest](
    lambda body: [*_sessions.decode(body).sessions],
    lambda body: _raw_sessions.decode(body).sessions,
    _SentSession,
    session_problem,
)
TASK_PARSER: BatchParser[TaskRequest] = BatchParser(
    lambda body: _tasks.decode(body).tasks, lambda body: _raw_tasks.decode(body).tasks, TaskRequest, task_problem
)


def check_count(count: int, limits: Limits) -> None:
    """Raises PayloadTooLarge when a batch of `count` items is over its bound."""
    if count > limits.max_batch_items:
        raise PayloadTooLarge(f"a batch has at most {limits.max_batch_items} items, this one has {count}; split it")


def malformed(cause: Exception) -> MalformedBody:
    """What is wrong with a body that is not JSON, without any of its text."""
    if isinstance(cause, UnicodeDecodeError):
        return MalformedBody("the body is not valid UTF-8")
    if isinstance(cause, RecursionError):
        return MalformedBody("the body is nested too deeply")
    return MalformedBody(f"the body is not valid JSON: {str(cause).removeprefix('JSON is malformed: ')}")


def problem_from(index: int | None, error: msgspec.ValidationError) -> FieldProblem:
    """msgspec's message (`Expected … - at `$.field``, or one that names the field itself) as field and reason."""
    reason, _, path = str(error).partition(" - at ")
    field = path.strip("`").removeprefix("$").lstrip(".")
    for opening in ("Object contains unknown field `", "Object missing required field `"):
        if reason.startswith(opening):
            name = reason.removeprefix(opening).rstrip("`")
            field = f"{field}.{name}" if field else name
            reason = "is not a known field" if "unknown" in opening else "is required"
    if reason.startswith("Invalid enum value"):  # msgspec would repeat the value, however long
        reason = _STATUS_REASON
    elif "matching regex" in reason:
        reason = _SESSION_ID_REASON if field == "session_id" else _ID_REASON
    return FieldProblem(index, field[:200], reason)

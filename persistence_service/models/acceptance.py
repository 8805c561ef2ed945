"""From checked items to records: the rules that a type can't state, the service's stamps, and the digest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from persistence_service.errors import FieldProblem, MalformedBody, ValidationFailed
from persistence_service.models.digest import canonical_json, digest_of
from persistence_service.models.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_PROBLEMS, MAX_RECORD_BYTES, Limits
from persistence_service.models.session import Session, SessionRequest
from persistence_service.models.task import Task, TaskRequest
from persistence_service.models.times import from_micros, parse_time

Item = TypeVar("Item", bound=Struct)
Record = TypeVar("Record", bound=Struct)

_INT64 = range(-(2**63), 2**63)
_INT64_DIGITS = len(str(-(2**63)))
# Sent JSON may be longer than its canonical form (blanks, \u escapes), and takes 25 times its bytes as Python's objects.
_SENT_JSON_BYTES = 8 * MAX_JSON_BYTES
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LONG_INTEGER = re.compile(rb"(?<![\d.eE+-])-?\d{19,}(?![\d.eE])")
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_object = msgspec.json.Decoder(dict[str, Any] | None)
_STEP = Decimal("0.0001")
_HALF_STEP = 0.00005
_NEAR = 1e-9
# A character is at most four bytes of UTF-8, so most texts need no counting.
_BYTES_PER_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class Acceptance:
    """When a batch is accepted: `stamp_us` is the stamp of its first item, each next one is 1 µs later.

    `now_us` is the service's time, against which event times in the future are judged. Both are µs since 1970 UTC.
    """

    stamp_us: int
    now_us: int


class _Rejected(Exception):  # noqa: N818  # not an error of the program: it carries one finding out of nested checks
    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason


def accept_tasks(requests: Sequence[TaskRequest], acceptance: Acceptance, limits: Limits) -> list[Task]:
    """The records of `requests`, in order.

    Raises:
        ValidationFailed: names the first 100 bad items; nothing of the batch may be kept.
    """
    return _accept_all(requests, acceptance, limits, _accept_task)


def accept_sessions(requests: Sequence[SessionRequest], acceptance: Acceptance, limits: Limits) -> list[Session]:
    """The records of `requests`, in order.

    Raises:
        ValidationFailed: names the first 100 bad items; nothing of the batch may be kept.
    """
    return _accept_all(requests, acceptance, limits, _accept_session)


def task_problem(request: TaskRequest, now_us: int, limits: Limits) -> FieldProblem | None:
    """What is wrong with `request` beyond its types at the service's time `now_us`, None when nothing is."""
    return _problem(request, now_us, limits, _accept_task)


def session_problem(request: SessionRequest, now_us: int, limits: Limits) -> FieldProblem | None:
    """What is wrong with `request` beyond its types at the service's time `now_us`, None when nothing is."""
    return _problem(request, now_us, limits, _accept_session)


def _problem(
    request: Item, now_us: int, limits: Limits, accept: Callable[[Item, datetime, datetime, Limits], object]
) -> FieldProblem | None:
    try:
        accept(request, from_micros(now_us), _latest(now_us, limits), limits)
    except _Rejected as exc:
        return FieldProblem(None, exc.field, exc.reason)
    return None


def _latest(now_us: int, limits: Limits) -> datetime:
    """The newest event time that is taken at the service's time `now_us`."""
    return from_micros(now_us + limits.max_clock_skew_us)


def _accept_all(
    requests: Sequence[Item],
    acceptance: Acceptance,
    limits: Limits,
    accept: Callable[[Item, datetime, datetime, Limits], Record],
) -> list[Record]:
    records: list[Record] = []
    problems: list[FieldProblem] = []
    latest = _latest(acceptance.now_us, limits)
    first = from_micros(acceptance.stamp_us)
    for index, request in enumerate(requests):
        try:
            records.append(accept(request, first + timedelta(microseconds=index), latest, limits))
        except _Rejected as exc:
            problems.append(FieldProblem(index, exc.field, exc.reason))
            if len(problems) == MAX_PROBLEMS:
                break
    if problems:
        raise ValidationFailed(problems)
    return records


def _accept_task(request: TaskRequest, stamp: datetime, latest: datetime, limits: Limits) -> Task:
    *plain, confidence, start, end, event = astuple(request)
    _check_texts(request, limits)
    content: tuple[Any, ...] = (
        *plain,
        None if confidence is None else round_confidence(confidence),
        _time("start_time", start),
        _time("end_time", end),
        _event_time(event, stamp, latest),
    )
    return Task(*(*content, digest_of(content), stamp, stamp))


def _accept_session(request: SessionRequest, stamp: datetime, latest: datetime, limits: Limits) -> Session:  # noqa: ARG001  # one signature for both kinds
    *plain, game_info, metadata, event = astuple(request)
    game_info_text = _json_text("game_info", game_info)
    metadata_text = _json_text("metadata", metadata)
    event_time = _event_time(event, stamp, latest)
    content: tuple[Any, ...] = (*plain, game_info_text, metadata_text, event_time)
    dated = (*_dated(game_info_text, event_time), *_dated(metadata_text, event_time))
    return Session(*(*content, digest_of(content), *dated, stamp, stamp))


def _dated(text: str | None, event_time: datetime) -> tuple[datetime | None, bytes | None]:
    """What a JSON value competes with: its event time and its digest, neither without a value."""
    return (None, None) if text is None else (event_time, digest_of(text))


def round_confidence(value: float) -> float:
    """`value` (0 to 1) to four decimals, half to even, as a person reads its digits: 0.12345 gives 0.1234."""
    rounded = round(value, 4)  # by the exact binary value, which is right but near a tie
    if abs(abs(value - rounded) - _HALF_STEP) < _NEAR:
        rounded = float(Decimal(repr(value)).quantize(_STEP, ROUND_HALF_EVEN))
    return rounded + 0.0  # turns -0.0 into 0.0


def _time(field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as exc:
        raise _Rejected(field, f"must be {exc}") from None


def _event_time(text: str | None, stamp: datetime, latest: datetime) -> datetime:
    moment = _time("event_time", text)
    if moment is None:
        return stamp
    if moment > latest:
        raise _Rejected("event_time", "is further in the future than limits.max_clock_skew allows; set the clock right")
    return moment


def _check_texts(request: TaskRequest, limits: Limits) -> None:
    texts = {
        "source_text": request.source_text,
        "target_text": request.target_text or "",
        "context": request.context or "",
        "error_message": request.error_message or "",
    }
    characters = sum(map(len, texts.values()))
    if characters * _BYTES_PER_CHARACTER <= min(limits.max_text_bytes, MAX_RECORD_BYTES):
        return
    total = 0
    for field, text in texts.items():
        size = len(text.encode())
        total += size
        if size > limits.max_text_bytes:
            raise _Rejected(field, f"is longer than {limits.max_text_bytes} bytes of UTF-8")
    if total > MAX_RECORD_BYTES:
        raise _Rejected("", f"the record is longer than {MAX_RECORD_BYTES} bytes")


def _json_text(field: str, value: object) -> str | None:
    """The canonical JSON of an object or null: of one as it was sent (`Raw`), or of Python's."""
    if value is None:
        return None
    sent = value if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    if len(sent) > _SENT_JSON_BYTES:
        raise _Rejected(field, f"is longer than {MAX_JSON_BYTES} bytes of JSON")
    try:
        content = _object.decode(sent)
    except msgspec.ValidationError as exc:
        raise _Rejected(
            field, "holds a number out of range" if "range" in str(exc) else "must be an object or null"
        ) from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedBody("the body is not valid JSON: half a surrogate pair, or what is no UTF-8") from None
    if content is None:
        return None
    text = canonical_json(content)
    if len(text) > MAX_JSON_BYTES:
        raise _Rejected(field, f"is longer than {MAX_JSON_BYTES} bytes of JSON")
    _check_json(field, text)
    return text.decode()


def _check_json(field: str, text: bytes) -> None:
    """Hold canonical JSON to its bounds; all in a few steps over its text, since it may have 100,000 values."""
    bare = _STRING.sub(b"", text)
    pairs = bare.translate(_TO_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_JSON_DEPTH):
        pairs = pairs.replace(b"[]", b"")
    if pairs:
        raise _Rejected(field, f"is nested more than {MAX_JSON_DEPTH} levels deep")
    if any(len(digits) > _INT64_DIGITS or int(digits) not in _INT64 for digits in _LONG_INTEGER.findall(bare)):
        raise _Rejected(field, "holds an integer outside of 64 bits")

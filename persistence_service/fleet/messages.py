"""What workers of one service ask each other, and how it is written: one line of JSON there, one line back.

A record travels as the JSON of its own type, which knows no other fields: what a worker of another version says is understood
as it was meant, or not at all.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Generic, TypeVar, get_args

import msgspec
from msgspec import Struct

from persistence_service.buffer.flusher import FlushReport
from persistence_service.errors import (
    JournalFull,
    JournalUnavailable,
    MemoryLimit,
    PersistenceError,
    QueryTimeout,
    Replaying,
    ShuttingDown,
    StorageUnavailable,
    Unavailable,
)
from persistence_service.models.answers import Health
from persistence_service.models.session import Session
from persistence_service.models.statistics_answers import Statistics
from persistence_service.models.task import Task

A = TypeVar("A")

VERSION: Final = 1
"""Of these messages; workers of two versions (for a moment, while they are restarted one after the other) do not talk."""
MAX_QUESTION_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_IDS: Final = 1000


class Sample(Struct, frozen=True, array_like=True):
    """One value of a metric; as text, since JSON has no infinity."""

    name: str
    labels: dict[str, str]
    value: str


class Family(Struct, frozen=True):
    """A metric and its values."""

    name: str
    description: str
    kind: str
    samples: list[Sample]


class WorkerHealth(Struct, frozen=True):
    """A worker's own health; one that `is_stopping` takes no new batches, and others do."""

    health: Health
    is_stopping: bool


class Question(Struct, Generic[A], frozen=True, tag=True, forbid_unknown_fields=True):
    """Something that a worker asks another; `A` is the type of the answer."""


class Ping(Question[None], frozen=True, tag=True):
    """Whether it is there and knows all that it has accepted."""


class FindSession(Question[Session | None], frozen=True, tag=True):
    """What it has of a session and has not stored."""

    session_id: str


class FindTasks(Question[list[Task]], frozen=True, tag=True):
    """What it has of a task's id and has not stored, one for each session that is named."""

    task_id: str


class FindNewest(Question[datetime | None], frozen=True, tag=True):
    """The newest event time later than `after` among the records of a session that it has not stored."""

    session_id: str
    after: datetime


class FindWaiting(Question[list[str]], frozen=True, tag=True):
    """Which of these sessions, at most MAX_IDS, it has records of that are not stored."""

    session_ids: list[str]


class NoteDeleted(Question[None], frozen=True, tag=True):
    """A session is deleted up to that event time."""

    session_id: str
    up_to: datetime


class ListDeleted(Question[dict[str, datetime]], frozen=True, tag=True):
    """The latest deletions that it knows of: sessions, and up to which event time."""


class Flush(Question[FlushReport], frozen=True, tag=True):
    """Write all that it accepted before, or of it the sessions."""

    only_sessions: bool = False


class FlushSessions(Question[None], frozen=True, tag=True):
    """Write the sessions that it accepted before if any of these, at most MAX_IDS, is among them.

    It is refused by one that may have one of them in a part of a journal that it did not read yet.
    """

    session_ids: list[str]


class ListMissing(Question[list[str]], frozen=True, tag=True):
    """In words, what it has acknowledged and can't show."""


class Scrape(Question[list[Family]], frozen=True, tag=True):
    """Its metrics."""


class ReportHealth(Question[WorkerHealth], frozen=True, tag=True):
    """How it is."""


class ReportStatistics(Question[Statistics], frozen=True, tag=True):
    """Its figures."""


AnyQuestion = (
    Ping
    | FindSession
    | FindTasks
    | FindNewest
    | FindWaiting
    | NoteDeleted
    | ListDeleted
    | Flush
    | FlushSessions
    | ListMissing
    | Scrape
    | ReportHealth
    | ReportStatistics
)


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """The line of a question."""

    version: int
    question: msgspec.Raw


class Answered(Struct, frozen=True, tag=True):
    """The line of an answer."""

    version: int
    answer: msgspec.Raw


class Refused(Struct, frozen=True, tag=True):
    """The line that says why there is none: the code of an error, and its words."""

    version: int
    code: str
    detail: str
    retry_after_s: float | None = None


NOT_UNDERSTOOD: Final = "NOT_UNDERSTOOD"
"""The code of a refusal by a worker of another version, and by one that was asked something it does not know."""

_KNOWN: tuple[type[Unavailable], ...] = (
    JournalFull,
    JournalUnavailable,
    MemoryLimit,
    QueryTimeout,
    Replaying,
    ShuttingDown,
    StorageUnavailable,
)
_BY_CODE = {error.code: error for error in _KNOWN}
_asked = msgspec.json.Decoder(Asked)
_told: msgspec.json.Decoder[Answered | Refused] = msgspec.json.Decoder(Answered | Refused)
_question: msgspec.json.Decoder[AnyQuestion] = msgspec.json.Decoder(AnyQuestion)
_answers: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(get_args(kind.__orig_bases__[0])[0]) for kind in get_args(AnyQuestion)
}


class MessageError(Exception):
    """A line that holds nothing that this version knows."""


def write_question(question: Question[Any]) -> bytes:
    """The line of `question`."""
    return msgspec.json.encode(Asked(VERSION, msgspec.Raw(msgspec.json.encode(question)))) + b"\n"


def read_question(line: bytes) -> AnyQuestion:
    """The question in a line.

    Raises:
        MessageError: there is none.
    """
    try:
        asked = _asked.decode(line)
        if asked.version == VERSION:
            return _question.decode(asked.question)
    except msgspec.MsgspecError as exc:
        raise MessageError(str(exc)) from exc
    raise MessageError(f"it is of version {asked.version}, and only {VERSION} is known here")


def write_answer(answer: object) -> bytes:
    """The line of an answer."""
    return msgspec.json.encode(Answered(VERSION, msgspec.Raw(msgspec.json.encode(answer)))) + b"\n"


def write_error(error: PersistenceError) -> bytes:
    """The line that tells of an error instead."""
    return write_refusal(error.code, str(error), getattr(error, "retry_after_s", None))


def write_refusal(code: str, detail: str, retry_after_s: float | None = None) -> bytes:
    """The line that says why there is no answer."""
    return msgspec.json.encode(Refused(VERSION, code, detail, retry_after_s)) + b"\n"


def read_answer(question: Question[A], line: bytes) -> A | Refused:
    """The answer to `question` in a line, or why there is none.

    Raises:
        MessageError: it is neither.
    """
    try:
        told = _told.decode(line)
        if isinstance(told, Refused):
            return told
        if told.version == VERSION:
            answer: A = _answers[type(question)].decode(told.answer)
            return answer
    except msgspec.MsgspecError as exc:
        raise MessageError(str(exc)) from exc
    raise MessageError(f"it is of version {told.version}, and only {VERSION} is known here")


def error_of(refused: Refused, worker: str) -> Unavailable | None:
    """The error that `worker` told of, None if it is none of those that a caller is told."""
    kind = _BY_CODE.get(refused.code)
    return None if kind is None else kind(f"{worker}: {refused.detail}", retry_after_s=refused.retry_after_s)

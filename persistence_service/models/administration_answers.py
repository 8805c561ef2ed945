"""The bodies of what operators ask for and are answered: deletion, cleanup, dead letters."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from persistence_service.models.answers import Cursor, Number, Time
from persistence_service.models.correction import request_of
from persistence_service.models.dead_letter import DeadLetter, DeadLetterReason
from persistence_service.models.session import Session
from persistence_service.models.task import Task

_RECORD = [{"$ref": f"#/components/schemas/{name}"} for name in ("SessionRequest", "TaskRequest")]

RecordAsSent = Annotated[
    msgspec.Raw,
    Meta(description="a session or a task as in a batch, `event_time` included", extra_json_schema={"oneOf": _RECORD}),
]


class SessionDeleted(Struct, frozen=True):
    """The session and its tasks are gone. Records of it up to that time stay deleted; begin anew with later event times."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["deleted"]})]
    session_id: str
    deleted_up_to: Time


class CleanupDone(Struct, frozen=True):
    """How much was deleted; of a dry run, how much would have been."""

    deleted_sessions: Number
    deleted_tasks: Number
    dry_run: bool


class DeadLetterView(Struct, frozen=True):
    """A record that could not be stored, without the record: what it is, and why.

    `error_number` and `error_column` are the database's, where it told any. `updated_at` is when it was refused last.
    """

    letter_id: str
    collection: Annotated[str, Meta(extra_json_schema={"enum": ["translation_sessions", "translation_tasks"]})]
    record_key: Annotated[str, Meta(description="the session_id or task_id of the record")]
    session_id: str
    reason: Annotated[str, Meta(extra_json_schema={"enum": [reason.value for reason in DeadLetterReason]})]
    detail: str
    error_number: int | None
    error_column: str | None
    event_time: Time
    record_bytes: Number
    created_at: Time
    updated_at: Time


class DeadLetterWithRecord(DeadLetterView, frozen=True):
    """A dead letter with its record, in the form that a replay takes back."""

    record: RecordAsSent


class DamagedLetter(Struct, frozen=True):
    """The file of a dead letter that can't be read back; it can only be discarded."""

    letter_id: str
    detail: str


class DeadLetterList(Struct, frozen=True):
    """One page of dead letters. `total` is a lower bound when `total_exact` is false, and null with `count=false`."""

    total: int | None
    total_exact: bool
    page_size: int
    items: list[DeadLetterView]
    next_cursor: Cursor
    damaged: list[DamagedLetter]


class LetterReplayed(Struct, frozen=True):
    """What became of one dead letter: `reason` and `detail` say why, if it was refused again and stays one."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["replayed", "dropped", "still_refused"]})]
    letter_id: str
    reason: str | None
    detail: str | None


class LettersReplayed(Struct, frozen=True):
    """What became of the dead letters that matched; a dry run counts `matched` alone."""

    matched: Number
    replayed: Number
    dropped: Number
    still_refused: Number
    dry_run: bool


class LetterDiscarded(Struct, frozen=True):
    """The dead letter is gone, with its record."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["discarded"]})]
    letter_id: str


def letter_view(letter: DeadLetter) -> DeadLetterView:
    """`letter` as it is listed."""
    return DeadLetterView(*(getattr(letter, field) for field in DeadLetterView.__struct_fields__))


def letter_with_record(letter: DeadLetter, record: Session | Task) -> DeadLetterWithRecord:
    """`letter` as it is shown alone."""
    sent = msgspec.Raw(msgspec.json.encode(request_of(record)))
    return DeadLetterWithRecord(**asdict(letter_view(letter)), record=sent)

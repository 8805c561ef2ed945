"""Dead letters: records that could not be stored, kept with their reason for a person to mend and replay."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class DeadLetterReason(StrEnum):
    """Why a record could not be stored."""

    UNKNOWN_SESSION = "unknown_session"
    TASK_ID_CONFLICT = "task_id_conflict"
    DATA_REJECTED = "data_rejected"


class DeadLetter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One dead letter without the record itself, whose JSON is compressed in `parts` pieces (`DeadLetterPart`).

    `letter_id` is made from the record, so that the same record never lies here twice. `collection` and `record_key` say
    what it is a record of, `event_time` and `record_bytes` are the record's; `error_number` and `error_column` are the
    database's where it told any, `detail` is in our words.
    """

    letter_id: str
    collection: str
    record_key: str
    session_id: str
    reason: str
    detail: str
    error_number: int | None
    error_column: str | None
    event_time: datetime
    record_bytes: int
    parts: int
    created_at: datetime
    updated_at: datetime


class DeadLetterPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A piece of a dead letter's record: zlib-compressed JSON of the record as it is kept, cut in order of `part_id`."""

    part_id: str
    letter_id: str
    data: bytes


class SettledLetter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A dead letter that a person discarded, or replayed with a correction: its record never becomes one again.

    It may well come once more, from a part of the journal that is still there after a restart, or from a worker.
    """

    letter_id: str
    created_at: datetime

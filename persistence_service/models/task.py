"""A task: one cell of a workbook, as a worker sends it and as it is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from persistence_service.models.limits import MAX_DURATION_MS, MAX_INT, MAX_NAME, MAX_SESSION_ID, MAX_TASK_ID
from persistence_service.models.status import Status

# No white space at the ends, no control characters (Unicode category Cc), not "." or "..". Written so that it means the same
# here and in ECMA-262, which JSON schemas use: neither "\Z" nor "\s" nor "$" does.
_BLANK = r"[ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_END = r"(?![\s\S])"
ID_PATTERN = rf"^(?!\.{{1,2}}{_END})(?!{_BLANK})[^\u0000-\u001f\u007f-\u009f]+(?<!{_BLANK}){_END}"
# The same, and no "/": a session id is one segment of a URL's path.
SESSION_ID_PATTERN = ID_PATTERN.replace(r"\u009f]", r"\u009f/]")

SessionId = Annotated[str, Meta(min_length=1, max_length=MAX_SESSION_ID, pattern=SESSION_ID_PATTERN)]
TaskId = Annotated[str, Meta(min_length=1, max_length=MAX_TASK_ID, pattern=ID_PATTERN)]
BatchId = Annotated[str, Meta(min_length=1, max_length=MAX_TASK_ID, pattern=ID_PATTERN)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
TimeText = Annotated[
    str,
    Meta(
        description="RFC 3339, years 1000 to 9999; UTC without an offset",
        examples=["2026-01-31T12:00:00.000000Z"],
        extra_json_schema={"format": "date-time", "pattern": "^[1-9]"},
    ),
]


class TaskRequest(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One task of a request; the first fields are those of `Task`, in its order."""

    task_id: TaskId
    session_id: SessionId
    batch_id: BatchId
    sheet_name: Name
    row_index: Count
    column_name: Name
    source_text: str
    status: Status
    target_text: str | None = None
    context: str | None = None
    error_message: str | None = None
    retry_count: Count = 0
    duration_ms: Annotated[int, Meta(ge=0, le=MAX_DURATION_MS)] | None = None
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    start_time: TimeText | None = None
    end_time: TimeText | None = None
    event_time: TimeText | None = None


class Task(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One task as it is kept: what the worker sent, checked and stamped, and what the service adds."""

    task_id: str
    session_id: str
    batch_id: str
    sheet_name: str
    row_index: int
    column_name: str
    source_text: str
    status: Status
    target_text: str | None
    context: str | None
    error_message: str | None
    retry_count: int
    duration_ms: int | None
    confidence: float | None
    start_time: datetime | None
    end_time: datetime | None
    event_time: datetime
    digest: bytes
    created_at: datetime
    updated_at: datetime

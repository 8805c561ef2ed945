"""The bodies of answers. Their JSON schemas are what `/openapi.json` shows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task

T = TypeVar("T")

Time = Annotated[datetime, Meta(tz=True, description="RFC 3339, in UTC with `Z`")]
Number = Annotated[int, Meta(ge=0)]
Cursor = Annotated[str | None, Meta(description="continues behind the last of these; null at the end")]


def _one_of(*words: str) -> Meta:
    return Meta(extra_json_schema={"enum": list(words)})


JsonObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["object", "null"]})]


class SessionView(Struct, frozen=True):
    """A session as it is answered."""

    session_id: str
    filename: str
    file_path: str
    status: Status
    llm_provider: str
    total_tasks: int
    completed_tasks: int
    failed_tasks: int
    processing_tasks: int
    game_info: JsonObject
    metadata: JsonObject
    event_time: Time
    created_at: Time
    updated_at: Time


class TaskView(Struct, frozen=True):
    """A task as it is answered."""

    task_id: str
    session_id: str
    batch_id: str
    sheet_name: str
    row_index: int
    column_name: str
    source_text: str
    target_text: str | None
    context: str | None
    status: Status
    confidence: float | None
    error_message: str | None
    retry_count: int
    start_time: Time | None
    end_time: Time | None
    duration_ms: int | None
    event_time: Time
    created_at: Time
    updated_at: Time


class Page(Struct, Generic[T], frozen=True):
    """One page of a list. `total` is a lower bound when `total_exact` is false, and null with `count=false`."""

    total: int | None
    total_exact: bool
    page: int | None
    page_size: int
    total_pages: int | None
    items: list[T]
    next_cursor: Cursor


class UnstoredItem(Struct, frozen=True):
    """An item of a batch that is in the journal and not in the database, by its place in the batch."""

    index: Number
    reason: Annotated[
        str, _one_of("unknown_session", "task_id_conflict", "data_rejected", "storage_unavailable", "session_deleted")
    ]


class BatchAccepted(Struct, frozen=True, omit_defaults=True):
    """The answer to a batch: `count` items were received, and are as safe as `durability` says.

    With `ack=storage` the items that are not stored are listed: those that wait, those that are dead letters, and those that
    were `dropped`, since their session was deleted and they are not newer.
    """

    status: Annotated[str, _one_of("accepted")]
    count: Annotated[int, Meta(ge=0, description="items received")]
    timestamp: Time
    durability: Annotated[str, _one_of("memory", "journal", "storage")]
    waiting: list[UnstoredItem] = []
    dead_lettered: list[UnstoredItem] = []
    dropped: list[UnstoredItem] = []


class FlushDone(Struct, frozen=True):
    """The answer to a flush.

    `waiting` records wait for their session, or were set aside; `dead_lettered` ones became dead letters since it was asked
    for.
    """

    status: Annotated[str, _one_of("flushed")]
    sessions_written: Number
    tasks_written: Number
    duration_ms: Number
    waiting: Number
    dead_lettered: Number


class UnfinishedCounts(Struct, frozen=True):
    """Unfinished tasks of a session by status."""

    pending: int
    processing: int


class IncompleteSession(SessionView, frozen=True):
    """A session that is unfinished by its status or by its tasks; `last_activity` is the newest change of both."""

    unfinished_tasks: UnfinishedCounts
    last_activity: Time


class IncompleteSessions(Struct, frozen=True):
    """Unfinished sessions, latest activity first. `count` is of all.

    `complete` is false while something that was acknowledged is `missing`, which says in words what.
    """

    count: int
    sessions: list[IncompleteSession]
    next_cursor: Cursor
    complete: bool
    missing: list[str]


class RestoredSession(Struct, frozen=True):
    """A session and what is left to do of it. `tasks_count` is of all of it."""

    session_id: str
    session: SessionView
    tasks_count: int
    tasks: list[TaskView]
    restored_at: Time
    next_cursor: Cursor


class BufferView(Struct, frozen=True):
    """The buffer's figures: records accepted and not stored.

    Those `spilled` wait in the journal alone; `set_aside` are refused ones beyond `buffer.max_dead_letter_rate`.
    """

    sessions_count: int
    tasks_count: int
    total_count: int
    capacity: int
    usage_percent: float
    size_bytes: int
    last_flush_time: Time | None
    spilled_records: int
    waiting_for_session: int
    set_aside: int
    oldest_unstored_age_s: float
    replaying: bool


class JournalView(Struct, frozen=True):
    """The journal's figures; `losses` are sequence ranges that could not be read back, `failing` says why it can't write."""

    bytes: int
    segments: int
    unstored_items: int
    losses: list[str]
    failing: str | None


class Health(Struct, frozen=True):
    """How the service is: healthy, degraded (storage is away, batches are kept) or unhealthy (batches are refused)."""

    status: Annotated[str, _one_of("healthy", "degraded", "unhealthy")]
    database: Annotated[str, _one_of("healthy", "unhealthy")]
    detail: Annotated[str, Meta(description="what is wrong; empty if nothing is")]
    buffer: BufferView
    journal: JournalView
    version: str


class Liveness(Struct, frozen=True):
    """The answer to a probe."""

    status: Annotated[str, _one_of("alive", "ready", "not ready")]


class Problem(Struct, frozen=True):
    """One wrong value of a request."""

    index: int | None
    field: str
    reason: str


class ErrorAnswer(Struct, frozen=True):
    """Every error: a sentence to act on, or for 422 the list of what is wrong; a stable code; the request's id."""

    detail: str | list[Problem]
    error_code: str
    request_id: str


_NULL = msgspec.Raw(b"null")


def session_view(session: Session) -> SessionView:
    """`session` as it is answered."""
    return SessionView(
        session_id=session.session_id,
        filename=session.filename,
        file_path=session.file_path,
        status=session.status,
        llm_provider=session.llm_provider,
        total_tasks=session.total_tasks,
        completed_tasks=session.completed_tasks,
        failed_tasks=session.failed_tasks,
        processing_tasks=session.processing_tasks,
        game_info=_NULL if session.game_info is None else msgspec.Raw(session.game_info.encode()),
        metadata=_NULL if session.metadata is None else msgspec.Raw(session.metadata.encode()),
        event_time=session.event_time,
        created_at=session.created_at,
        updated_at=session.updated_at,
    )


def task_view(task: Task) -> TaskView:
    """`task` as it is answered."""
    return TaskView(*(getattr(task, field) for field in TaskView.__struct_fields__))

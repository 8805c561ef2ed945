"""One example of each body, answer and error, for `/openapi.json`. They are values of the real types, so they can't be wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import asdict

from persistence_service import __version__, errors
from persistence_service.models.administration_answers import (
    CleanupDone,
    DeadLetterList,
    DeadLetterView,
    DeadLetterWithRecord,
    LetterDiscarded,
    LetterReplayed,
    LettersReplayed,
    RecordAsSent,
    SessionDeleted,
)
from persistence_service.models.answers import (
    BatchAccepted,
    BufferView,
    FlushDone,
    Health,
    IncompleteSession,
    IncompleteSessions,
    JournalView,
    Liveness,
    Page,
    RestoredSession,
    SessionView,
    TaskView,
    UnfinishedCounts,
    UnstoredItem,
)
from persistence_service.models.requests import SessionBatch, TaskBatch
from persistence_service.models.session import SessionRequest
from persistence_service.models.statistics_answers import (
    BufferFigures,
    CountsByStatus,
    ProcessInfo,
    SessionFigures,
    SizeFigures,
    Statistics,
    StorageFigures,
    TaskFigures,
)
from persistence_service.models.status import Status
from persistence_service.models.task import TaskRequest

REQUEST_ID = "0190b7a45c3d4e6f8a9b0c1d2e3f4a5b"
_SESSION_ID = "s-2026-01-31-items"
_TASK_ID = f"{_SESSION_ID}:000042:zh"
_CURSOR = "ksQIr3mHbJ4wLhqSsnMtMjAyNi0wMS0zMS1pdGVtcw"
_EVENT = datetime(2026, 1, 31, 12, 0, 4, 250_000, UTC)
_ACCEPTED = datetime(2026, 1, 31, 12, 0, 4, 301_742, UTC)

_SESSION = SessionView(
    session_id=_SESSION_ID,
    filename="items.xlsx",
    file_path="/srv/games/rpg/items.xlsx",
    status=Status.PROCESSING,
    llm_provider="openai",
    total_tasks=1200,
    completed_tasks=311,
    failed_tasks=2,
    processing_tasks=4,
    game_info=msgspec.Raw(b'{"source_lang":"en","target_lang":"zh"}'),
    metadata=msgspec.Raw(b"null"),
    event_time=_EVENT,
    created_at=_ACCEPTED,
    updated_at=_ACCEPTED,
)
_TASK = TaskView(
    task_id=_TASK_ID,
    session_id=_SESSION_ID,
    batch_id="items-0001",
    sheet_name="Items",
    row_index=42,
    column_name="zh",
    source_text="Potion of Healing",
    target_text=None,
    context="inventory",
    status=Status.PROCESSING,
    confidence=None,
    error_message=None,
    retry_count=0,
    start_time=_EVENT,
    end_time=None,
    duration_ms=None,
    event_time=_EVENT,
    created_at=_ACCEPTED,
    updated_at=_ACCEPTED,
)
_BUFFER = BufferView(
    sessions_count=1,
    tasks_count=50,
    total_count=51,
    capacity=50_000,
    usage_percent=0.1,
    size_bytes=23_512,
    last_flush_time=_ACCEPTED,
    spilled_records=0,
    waiting_for_session=0,
    set_aside=0,
    oldest_unstored_age_s=3.127,
    replaying=False,
)

_LETTER_ID = "5d2f0c6b1a9e4f7783c4b2a1908f7e6d"
_LETTER = DeadLetterView(
    letter_id=_LETTER_ID,
    collection="translation_tasks",
    record_key=_TASK_ID,
    session_id=_SESSION_ID,
    reason="data_rejected",
    detail="the database refuses it (error 1406, column context)",
    error_number=1406,
    error_column="context",
    event_time=_EVENT,
    record_bytes=612,
    created_at=_ACCEPTED,
    updated_at=_ACCEPTED,
)
_RECORD = msgspec.Raw(
    msgspec.json.encode(
        TaskRequest(
            task_id=_TASK_ID,
            session_id=_SESSION_ID,
            batch_id="items-0001",
            sheet_name="Items",
            row_index=42,
            column_name="zh",
            source_text="Potion of Healing",
            status=Status.COMPLETED,
            target_text="治疗药水",
            event_time="2026-01-31T12:00:04.250000Z",
        )
    )
)

BY_TYPE: dict[Any, msgspec.Struct | msgspec.Raw] = {
    SessionBatch: SessionBatch(
        sessions=[
            SessionRequest(
                session_id=_SESSION_ID,
                filename="items.xlsx",
                file_path="/srv/games/rpg/items.xlsx",
                status=Status.PROCESSING,
                llm_provider="openai",
                total_tasks=1200,
                game_info={"source_lang": "en", "target_lang": "zh"},
                event_time="2026-01-31T12:00:04.250Z",
            )
        ]
    ),
    TaskBatch: TaskBatch(
        tasks=[
            TaskRequest(
                task_id=_TASK_ID,
                session_id=_SESSION_ID,
                batch_id="items-0001",
                sheet_name="Items",
                row_index=42,
                column_name="zh",
                source_text="Potion of Healing",
                status=Status.COMPLETED,
                target_text="治疗药水",
                confidence=0.97,
                duration_ms=840,
                event_time="2026-01-31T12:00:05.090Z",
            )
        ]
    ),
    BatchAccepted: BatchAccepted(status="accepted", count=1, timestamp=_ACCEPTED, durability="journal"),
    FlushDone: FlushDone(
        status="flushed", sessions_written=1, tasks_written=50, duration_ms=6, waiting=0, dead_lettered=0
    ),
    SessionView: _SESSION,
    TaskView: _TASK,
    Page[SessionView]: Page(
        total=1, total_exact=True, page=1, page_size=20, total_pages=1, items=[_SESSION], next_cursor=None
    ),
    Page[TaskView]: Page(
        total=1200, total_exact=True, page=1, page_size=1, total_pages=1200, items=[_TASK], next_cursor=_CURSOR
    ),
    IncompleteSessions: IncompleteSessions(
        count=1,
        sessions=[
            IncompleteSession(
                **msgspec.structs.asdict(_SESSION),
                unfinished_tasks=UnfinishedCounts(pending=883, processing=4),
                last_activity=_ACCEPTED,
            )
        ],
        next_cursor=None,
        complete=True,
        missing=[],
    ),
    RestoredSession: RestoredSession(
        session_id=_SESSION_ID,
        session=_SESSION,
        tasks_count=887,
        tasks=[_TASK],
        restored_at=_ACCEPTED,
        next_cursor=_CURSOR,
    ),
    Health: Health(
        status="healthy",
        database="healthy",
        detail="",
        buffer=_BUFFER,
        journal=JournalView(bytes=1_048_576, segments=1, unstored_items=51, losses=[], failing=None),
        version=__version__,
    ),
    Liveness: Liveness("ready"),
    SessionDeleted: SessionDeleted("deleted", _SESSION_ID, deleted_up_to=_ACCEPTED),
    CleanupDone: CleanupDone(deleted_sessions=3, deleted_tasks=3410, dry_run=False),
    RecordAsSent: _RECORD,
    DeadLetterList: DeadLetterList(
        total=1, total_exact=True, page_size=20, items=[_LETTER], next_cursor=None, damaged=[]
    ),
    DeadLetterWithRecord: DeadLetterWithRecord(**msgspec.structs.asdict(_LETTER), record=_RECORD),
    LetterReplayed: LetterReplayed("replayed", _LETTER_ID, None, None),
    LettersReplayed: LettersReplayed(matched=12, replayed=11, dropped=0, still_refused=1, dry_run=False),
    LetterDiscarded: LetterDiscarded("discarded", _LETTER_ID),
    Statistics: Statistics(
        sessions=SessionFigures(
            total=14, by_status=CountsByStatus(pending=1, processing=1, completed=11, failed=0, cancelled=1)
        ),
        tasks=TaskFigures(
            total=16_800,
            by_status=CountsByStatus(pending=2_083, processing=4, completed=14_711, failed=2, cancelled=0),
            average_duration_ms=843.207,
            duration_count=14_713,
            average_confidence=0.961204,
            confidence_count=14_711,
        ),
        storage=StorageFigures(
            backend="sqlite",
            engine="sqlite",
            version="3.45.1",
            sizes=SizeFigures(total_bytes=31_522_816, log_bytes=4_194_304, free_bytes=0, collections={}),
        ),
        buffer=BufferFigures(**asdict(_BUFFER), spilled_bytes=0, journal_bytes=1_048_576, journal_full_in_s=None),
        process=ProcessInfo(
            pid=4711,
            uptime_s=86_412.108,
            cpu_s=913.42,
            resident_bytes=118_489_088,
            peak_resident_bytes=131_072_000,
            threads=9,
        ),
        as_of=_ACCEPTED,
    ),
}

BY_STATUS: dict[tuple[Any, int | None], msgspec.Struct] = {
    (BatchAccepted, 202): BatchAccepted(
        status="accepted",
        count=50,
        timestamp=_ACCEPTED,
        durability="journal",
        waiting=[UnstoredItem(index=7, reason="unknown_session")],
    ),
    (Liveness, 503): Liveness("not ready"),
}

TEXTS = {
    "text/plain": 'buffer_size{type="tasks"} 50.0\n'
    'api_requests_total{endpoint="/health",method="GET",status="200"} 7.0\n'
}

MEANINGS: dict[tuple[Any, int], str] = {
    (BatchAccepted, 200): "The whole batch is as safe as `durability` says.",
    (BatchAccepted, 202): (
        "`ack=storage` was asked for and not reached for all: the whole batch is safe in the journal, and the items in "
        "`waiting` and `dead_lettered` are not in the database."
    ),
    (CleanupDone, 200): "So much was deleted, or of a dry run would have been.",
    (LetterReplayed, 200): "What became of the letter: `still_refused` stays one, with its reason.",
    (FlushDone, 200): "Everything accepted before the call is stored, but what waits and what can't be stored.",
    (Health, 200): "Batches are accepted; `degraded` if the database is away or something was lost.",
    (Health, 503): "`unhealthy`: batches are refused.",
    (Liveness, 503): "Not ready: a batch sent now would be refused.",
}

ERRORS: dict[type[errors.PersistenceError], errors.PersistenceError] = {
    error_type: error
    for error in (
        errors.MalformedBody("the body is not valid JSON: trailing characters (byte 20)"),
        errors.UnsupportedMedia("the body must be application/json"),
        errors.PayloadTooLarge("a batch has at most 10000 items, this one has 12000; split it"),
        errors.RequestTimeout("the body did not arrive in time; send the request again, faster"),
        errors.ValidationFailed([errors.FieldProblem(3, "confidence", "Expected `float` <= 1.0")]),
        errors.Forbidden("this Host is not served; add its name to security.allowed_hosts"),
        errors.SessionNotFound(_SESSION_ID),
        errors.TaskNotFound(_TASK_ID),
        errors.DeadLetterNotFound(_LETTER_ID),
        errors.DeadLetterDamaged(_LETTER_ID, "it is not as it was written"),
        errors.BufferFull("the buffer is full until the database catches up; send the batch again", retry_after_s=1),
        errors.MemoryLimit("too many bytes of other requests are in work; send the request again", retry_after_s=1),
        errors.JournalFull("the journal has reached journal.max_bytes; it has room again when records are stored"),
        errors.JournalUnavailable(
            "the journal can't be written to its disk; whether the batch is kept is not known, send it again"
        ),
        errors.Replaying("the journal of the last run is still being read; ask again in a moment", retry_after_s=1),
        errors.ShuttingDown("the service is shutting down; send the batch again in a moment", retry_after_s=5),
        errors.StorageUnavailable("the database is away"),
        errors.QueryTimeout("the query took too long and was ended; narrow it"),
        errors.PersistenceError(),
    )
    for error_type in (type(error),)
}

"""Makers of records for tests, values that databases get wrong, and Hypothesis strategies for histories of updates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from persistence_service.models.digest import digest_of
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task

START = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
NO_DIGEST = bytes(16)

# Ids that a database's collation may take for one another; none of them may.
DISTINCT_IDS: tuple[str, ...] = (
    "T1",
    "t1",
    "T1 ",  # the API refuses it, a backend must still tell it from the first
    "Ｔ1",
    "T1\u200b",
    "Ť1",
    "é",
    "e\u0301",
    "ß",
    "ss",
    "ı",
    "i",
    "I",
    "😀",
    "😁",
    "ｶﾞ",
    "ガ",
    "か\u3099",
    "が",
    "%",
    "_",
    "\\",
    "'",
    '"',
    "a/b?c#d%e",
)

HOSTILE_TEXTS: tuple[str, ...] = (
    "",
    " ",
    " leading and trailing \t",
    "line\nbreak\r\nand\rreturn",
    "U+0000 in the \0 middle\0",
    "\0",
    "quotes ' \" ` \\' -- ; DROP TABLE translation_tasks; /* */",
    "percent % and underscore _ and backslash \\",
    "\ufeffbyte order mark",
    "\uffff\ufffe not characters",
    "\U0010ffff",
    "𠮷野家で食べる",
    "😀👩‍👩‍👧‍👦🇨🇳",
    "e\u0301 is not é",
    "مرحبا بالعالم",
    "\x01\x07\x1b[31m\x7f\x85",
    "null",
    "NULL",
    "=1+1",
    "{'json': \"or not\"}",
)


def at(seconds: float) -> datetime:
    """A time so many seconds after `START`, to the microsecond."""
    return START + timedelta(microseconds=round(seconds * 1_000_000))


def session_record(session_id: str = "session-1", **changes: Any) -> Session:  # noqa: ANN401  # values of its fields
    """A session that began at `START`; `changes` are fields of it. Its digests fit its content."""
    plain = Session(
        session_id=session_id,
        filename="game.xlsx",
        file_path="/books/game.xlsx",
        status=Status.PENDING,
        llm_provider="provider",
        processing_tasks=0,
        total_tasks=0,
        completed_tasks=0,
        failed_tasks=0,
        game_info=None,
        metadata=None,
        event_time=START,
        digest=b"",
        game_info_time=None,
        game_info_digest=None,
        metadata_time=None,
        metadata_digest=None,
        created_at=START,
        updated_at=START,
    )
    record = replace(plain, **changes)
    stamps: dict[str, Any] = {"digest": digest_of(astuple(record)[:12])}
    for field in ("game_info", "metadata"):
        text = getattr(record, field)
        stamps[f"{field}_time"] = None if text is None else record.event_time
        stamps[f"{field}_digest"] = None if text is None else digest_of(text)
    return replace(record, **{**stamps, **changes})


def task_record(task_id: str = "task-1", session_id: str = "session-1", **changes: Any) -> Task:  # noqa: ANN401  # values of its fields
    """A task of `session_id`; `changes` are fields of it. Its digest fits its content."""
    plain = Task(
        task_id=task_id,
        session_id=session_id,
        batch_id="batch-1",
        sheet_name="Sheet1",
        row_index=0,
        column_name="A",
        source_text="source",
        status=Status.PENDING,
        target_text=None,
        context=None,
        error_message=None,
        retry_count=0,
        duration_ms=None,
        confidence=None,
        start_time=None,
        end_time=None,
        event_time=START,
        digest=b"",
        created_at=START,
        updated_at=START,
    )
    record = replace(plain, **changes)
    return record if "digest" in changes else replace(record, digest=digest_of(astuple(record)[:17]))


# Few values of each, so that keys, times and states collide.
_moments = st.integers(0, 4).map(at)
_statuses = st.sampled_from(Status)
_counts = st.integers(0, 3)


def task_updates(session_id: str = "session-1") -> st.SearchStrategy[list[Task]]:
    """Histories of a few tasks of one session, with ties in every place of the merge rule."""
    update = st.builds(
        task_record,
        task_id=st.sampled_from(("task-1", "task-2", "TASK-1")),
        session_id=st.just(session_id),
        status=_statuses,
        event_time=_moments,
        target_text=st.sampled_from((None, "one", "two", "")),
        confidence=st.sampled_from((None, 0.5)),
        end_time=st.none() | _moments,
        created_at=_moments,
        updated_at=_moments,
    )
    return st.lists(update, min_size=1, max_size=8)


def session_updates() -> st.SearchStrategy[list[Session]]:
    """Histories of a few sessions, with ties in every place of the merge rule."""
    update = st.builds(
        session_record,
        session_id=st.sampled_from(("session-1", "session-2", "SESSION-1")),
        status=_statuses,
        event_time=_moments,
        filename=st.sampled_from(("a.xlsx", "b.xlsx")),
        processing_tasks=_counts,
        total_tasks=_counts,
        completed_tasks=_counts,
        failed_tasks=_counts,
        game_info=st.sampled_from((None, "{}", '{"a":1}')),
        metadata=st.sampled_from((None, "{}", '{"b":"ü"}')),
        created_at=_moments,
        updated_at=_moments,
    )
    return st.lists(update, min_size=1, max_size=8)

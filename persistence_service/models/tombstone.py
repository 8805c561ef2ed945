"""Deletion: a tombstone says up to which event time the records of a session are gone, whenever they arrive."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from persistence_service.models.session import Session
from persistence_service.models.task import Task


class Tombstone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Everything of the session with an event time up to `deleted_up_to` is deleted.

    `removed_at` is when its rows were all removed, None as long as that is not finished. A later deletion of the same
    session has a later `deleted_up_to` and begins with None again.
    """

    session_id: str
    deleted_up_to: datetime
    removed_at: datetime | None
    created_at: datetime
    updated_at: datetime


def is_covered(event_time: datetime, deleted_up_to: datetime | None) -> bool:
    """Whether what is of that time is deleted; None is no deletion."""
    return deleted_up_to is not None and event_time <= deleted_up_to


def surviving_session(session: Session, deleted_up_to: datetime) -> Session | None:
    """What is left of a session record (perhaps merged from several) beside a tombstone; None if it is dropped.

    `game_info` and `metadata` of such a time are cleared; the counters may include older records.
    """
    if is_covered(session.event_time, deleted_up_to):
        return None
    changes: dict[str, None] = {}
    if session.game_info_time is not None and session.game_info_time <= deleted_up_to:
        changes |= {"game_info": None, "game_info_time": None, "game_info_digest": None}
    if session.metadata_time is not None and session.metadata_time <= deleted_up_to:
        changes |= {"metadata": None, "metadata_time": None, "metadata_digest": None}
    return msgspec.structs.replace(session, **changes) if changes else session


def surviving_task(task: Task, deleted_up_to: datetime) -> Task | None:
    """The task if it is newer than its session's tombstone, None if it is dropped."""
    return None if is_covered(task.event_time, deleted_up_to) else task


def surviving(record: Any, deleted_up_to: datetime) -> Any:  # noqa: ANN401  # a session or a task, and the same or None
    """What is left of a record of either kind beside a tombstone; None if it is dropped."""
    match record:
        case Session():
            return surviving_session(record, deleted_up_to)
        case Task():
            return surviving_task(record, deleted_up_to)
    raise TypeError(f"{type(record).__name__} is neither a session nor a task")

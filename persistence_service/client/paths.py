"""Where things are: ids as segments of a path."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from persistence_service.errors import SessionNotFound, TaskNotFound
from persistence_service.models.task import SessionId, TaskId

BASE_PATH = "/api/v1/translation"


def session_segment(session_id: str) -> str:
    """The id as one segment of a path. What can be no id would lead to another call, so it is not asked for.

    Raises:
        SessionNotFound: no session can have this id.
    """
    try:
        return quote(msgspec.convert(session_id, SessionId), safe="")
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise SessionNotFound(session_id) from None


def task_segment(task_id: str) -> str:
    """As `session_segment`.

    Raises:
        TaskNotFound: no task can have this id.
    """
    try:
        return quote(msgspec.convert(task_id, TaskId), safe="")
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise TaskNotFound(task_id) from None

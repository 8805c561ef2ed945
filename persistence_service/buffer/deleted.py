"""The deletions that this process knows of, for what waits in memory and what arrives."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from persistence_service.models.tombstone import is_covered

_REMEMBERED: Final = 10_000


class DeletedSessions:
    """The latest tombstones that were written here. The backend has all of them; what is not known here is dropped there.

    A record must not meet one of its key that is deleted: a completed one would win, and take it along when it is dropped.
    """

    def __init__(self) -> None:
        self._up_to: dict[str, datetime] = {}

    def note(self, session_id: str, up_to: datetime) -> None:
        """The session's tombstone is committed."""
        before = self._up_to.pop(session_id, up_to)
        self._up_to[session_id] = max(up_to, before)
        if len(self._up_to) > _REMEMBERED:
            del self._up_to[next(iter(self._up_to))]

    def known(self) -> dict[str, datetime]:
        """All of them: sessions, and up to which event time each is deleted."""
        return dict(self._up_to)

    def up_to(self, session_id: str) -> datetime | None:
        """The event time up to which the session is known to be deleted."""
        return self._up_to.get(session_id)

    def covers(self, record: Any) -> bool:  # noqa: ANN401  # a session or a task
        """Whether the record is known to be deleted."""
        return is_covered(record.event_time, self._up_to.get(record.session_id))

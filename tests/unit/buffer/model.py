"""What the service must hold, by the specification's rules alone: everything accepted, the merge rule, and tombstones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import reduce
from typing import Any

from msgspec.structs import replace

from persistence_service.models.merge import merge_sessions, merge_tasks
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.models.times import EPOCH

_COUNTERS = ("total_tasks", "completed_tasks", "failed_tasks")


def without_service_times(record: Any) -> Any:  # noqa: ANN401  # a session or a task
    return replace(record, created_at=EPOCH, updated_at=EPOCH)


class Model:
    """Every record that was accepted, by key. `deleted` are the sessions' tombstones, as the backend has them."""

    def __init__(self) -> None:
        self.sessions: dict[str, list[Session]] = defaultdict(list)
        self.tasks: dict[tuple[str, str], list[Task]] = defaultdict(list)
        self.deleted: dict[str, datetime] = {}

    def accept(self, records: Iterable[Session | Task]) -> None:
        for record in records:
            plain = without_service_times(record)
            if isinstance(plain, Session):
                self.sessions[plain.session_id].append(plain)
            else:
                self.tasks[plain.task_id, plain.session_id].append(plain)

    def session(self, session_id: str) -> Session | None:
        """The row that the session's surviving records make, None without any."""
        surviving = self._newer(self.sessions.get(session_id, []), session_id)
        return reduce(merge_sessions, surviving) if surviving else None

    def task(self, task_id: str, session_id: str) -> Task | None:
        """The row that the task's surviving records make, None without any; whether its session is known or not."""
        surviving = self._newer(self.tasks.get((task_id, session_id), []), session_id)
        return reduce(merge_tasks, surviving) if surviving else None

    def allows_session(self, session_id: str, stored: Session | None) -> bool:
        """Whether that is what may be stored of the session."""
        expected = self.session(session_id)
        if expected is None or stored is None:
            return stored is expected
        everything = reduce(merge_sessions, self.sessions[session_id])
        most = {name: getattr(everything, name) for name in _COUNTERS}
        within = all(getattr(expected, name) <= getattr(stored, name) <= most[name] for name in _COUNTERS)
        return within and replace(stored, **{name: getattr(expected, name) for name in _COUNTERS}) == expected

    def allows_task(self, task_id: str, session_id: str, stored: Task | None) -> bool:
        """Whether that is what may be stored of the task."""
        expected = self.task(task_id, session_id)
        if self.session(session_id) is None:
            return stored is None
        return stored == expected or self.may_lack(task_id, session_id, stored)

    def may_lack(self, task_id: str, session_id: str, stored: Task | None) -> bool:
        """Whether newer records may have lost to a completed one which the tombstone dropped, so that `stored` is left."""
        records = self.tasks[task_id, session_id]
        newer = self._newer(records, session_id)
        if not any(record.status is Status.COMPLETED for record in records if record not in newer):
            return False
        if any(record.status is Status.COMPLETED for record in newer):
            return False
        return stored is None or stored in newer

    def was_accepted(self, record: Session | Task) -> bool:
        """Whether the state that `record` tells was ever sent."""
        sent: Iterable[Session | Task] = (
            self.sessions.get(record.session_id, [])
            if isinstance(record, Session)
            else self.tasks.get((record.task_id, record.session_id), [])
        )
        return any(record.digest == each.digest and record.event_time == each.event_time for each in sent)

    def _newer(self, records: Iterable[Any], session_id: str) -> list[Any]:
        up_to = self.deleted.get(session_id)
        return [_without_old_parts(record, up_to) for record in records if up_to is None or record.event_time > up_to]


def _without_old_parts(record: Any, up_to: datetime | None) -> Any:  # noqa: ANN401  # a session or a task
    return record if up_to is None or record.event_time > up_to else None

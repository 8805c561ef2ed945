"""Recovery: which sessions are unfinished, and what is left to do of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from persistence_service.buffer.timing import Timing
from persistence_service.buffer.tombstones import deletions_of, left_of
from persistence_service.errors import SessionNotFound
from persistence_service.fleet.whole import WholeBuffer
from persistence_service.models.session import Session
from persistence_service.models.status import UNFINISHED, Status
from persistence_service.models.task import Task
from persistence_service.models.times import from_micros
from persistence_service.models.tombstone import is_covered
from persistence_service.services.cursor import decode_cursor, encode_cursor, fingerprint_of
from persistence_service.services.query import POSITION, page_of
from persistence_service.storage.collections import LAST_ACTIVITY, SESSIONS, TASKS
from persistence_service.storage.query import (
    COUNT,
    AnyOf,
    Between,
    Condition,
    Equals,
    HasChild,
    OneOf,
    Query,
    Sort,
)
from persistence_service.storage.registry import StorageRegistry

_JUST_AFTER = timedelta(microseconds=1)
_UNFINISHED = OneOf("status", UNFINISHED)
_INCOMPLETE = AnyOf((_UNFINISHED, HasChild(TASKS, (_UNFINISHED,))))


@dataclass(frozen=True, slots=True)
class Incomplete:
    """An unfinished session: its unfinished tasks by status, and the newest change of it or of its tasks."""

    session: Session
    unfinished: dict[Status, int]
    last_activity: datetime


@dataclass(frozen=True, slots=True)
class IncompletePage:
    """Unfinished sessions, latest activity first; `count` is of all, not of this page.

    A session that is being deleted is not shown, so a page may be short, and as long as its rows are being removed `count`
    may include it when it would be on another page.
    `missing` says in words what was acknowledged and can't be among them.
    """

    count: int
    sessions: list[Incomplete]
    next_cursor: str | None
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Restored:
    """A session and a page of what is left to do of it, in position order; `tasks_count` is of all of that."""

    session: Session
    tasks: list[Task]
    tasks_count: int
    restored_at: datetime
    next_cursor: str | None


class RecoveryService:
    """Answers the recovery endpoints. Everything accepted is flushed first, so what it says is the truth."""

    def __init__(
        self,
        *,
        registry: StorageRegistry,
        buffer: WholeBuffer,
        missing: Callable[[], Awaitable[list[str]]],
        timing: Timing,
    ) -> None:
        """`missing` says in words what the service has acknowledged and can't show."""
        self._registry = registry
        self._buffer = buffer
        self._missing = missing
        self._timing = timing

    async def incomplete_sessions(self, *, limit: int, cursor: str | None, idle_s: float | None) -> IncompletePage:
        """Sessions unfinished by their status or with unfinished tasks; with `idle_s` only those without activity so long.

        Raises:
            ValidationFailed: the cursor belongs to another list.
            StorageUnavailable, Replaying: the backend or a worker is away, so the truth can't be known.
        """
        await self._buffer.flush()
        where: list[Condition] = [_INCOMPLETE]
        fingerprint = fingerprint_of("incomplete", idle_s)  # the limit itself moves with the clock
        if idle_s is not None:
            where.append(Between(LAST_ACTIVITY, high=self._now() - timedelta(seconds=idle_s)))
        order = Query(order=(Sort(LAST_ACTIVITY, descending=True),)).total_order(SESSIONS.key)
        after = decode_cursor(cursor, fingerprint, order, SESSIONS.record) if cursor else None
        backend = self._registry.backend_for(SESSIONS)
        # The activity that the page was ordered by comes with it: asked for later, it might have moved, and the walk with it.
        rows = await backend.select(
            SESSIONS,
            (*SESSIONS.fields, LAST_ACTIVITY),
            Query(where=where, order=order, after=after, limit=limit + 1),
        )
        page = [(Session(*row[:-1]), row[-1]) for row in rows[:limit]]
        deleted = await deletions_of(backend, (session.session_id for session, _ in page))
        shown = [each for each in page if not is_covered(each[0].event_time, deleted.get(each[0].session_id))]
        last, last_activity = page[-1] if len(rows) > limit else (None, None)
        return IncompletePage(
            count=await backend.count(SESSIONS, where) - (len(page) - len(shown)),
            sessions=await self._described(shown),
            next_cursor=encode_cursor(fingerprint, [last_activity, last.session_id]) if last else None,
            missing=await self._missing(),
        )

    async def restore(self, session_id: str, *, include_failed: bool, limit: int, cursor: str | None) -> Restored:
        """The session and its unfinished tasks, with `include_failed` the failed ones too.

        Raises:
            SessionNotFound: no such session.
            ValidationFailed: the cursor belongs to another list.
            StorageUnavailable, Replaying: the backend or a worker is away, so the truth can't be known.
        """
        await self._buffer.flush()
        backend = self._registry.backend_for(SESSIONS)
        sessions = await backend.read(SESSIONS, [session_id])
        deleted = await deletions_of(backend, (each.session_id for each in sessions))
        session = left_of(sessions[0], deleted) if sessions else None
        if session is None:
            raise SessionNotFound(session_id)
        statuses = (*UNFINISHED, Status.FAILED) if include_failed else UNFINISHED
        where = (Equals("session_id", session_id), OneOf("status", statuses))
        query = Query(where=where, order=tuple(Sort(field) for field in POSITION))
        tasks, next_cursor = await page_of(self._registry, TASKS, query, cursor=cursor, limit=limit)
        # A session that has begun anew may have old tasks still, which are being removed.
        newer = [Between("event_time", low=up_to + _JUST_AFTER)] if (up_to := deleted.get(session_id)) else []
        return Restored(
            session=session,
            tasks=[task for task in tasks if left_of(task, deleted)],
            tasks_count=await self._registry.backend_for(TASKS).count(TASKS, (*where, *newer)),
            restored_at=self._now(),
            next_cursor=next_cursor,
        )

    async def _described(self, sessions: Sequence[tuple[Session, datetime]]) -> list[Incomplete]:
        of_these = OneOf("session_id", [session.session_id for session, _ in sessions])
        groups = await self._registry.backend_for(TASKS).aggregate(
            TASKS, group_by=("session_id", "status"), measure=(COUNT,), where=(of_these, _UNFINISHED)
        )
        counts = {group.keys: group.figures[0] for group in groups}
        return [
            Incomplete(
                session=session,
                unfinished={status: counts.get((session.session_id, status), 0) for status in UNFINISHED},
                last_activity=last_activity,
            )
            for session, last_activity in sessions
        ]

    def _now(self) -> datetime:
        return from_micros(self._timing.wall_us())

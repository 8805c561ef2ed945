"""Cleanup: sessions that ended long ago are deleted, by the rules of retention."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from persistence_service.buffer.tombstones import deletions_of
from persistence_service.fleet.whole import WholeBuffer
from persistence_service.models.status import Status
from persistence_service.models.tombstone import Tombstone, is_covered
from persistence_service.services.deletion import DeletionService, stored_tasks
from persistence_service.storage.collections import LAST_ACTIVITY, SESSIONS, TASKS
from persistence_service.storage.conflicts import repeating_conflicts
from persistence_service.storage.query import Between, Condition, Equals, OneOf, Query, Sort
from persistence_service.storage.registry import StorageRegistry

_SESSIONS_AT_ONCE = 100
DEFAULT_COMPLETED_DAYS, DEFAULT_FAILED_DAYS, DEFAULT_CANCELLED_DAYS = 90, 30, 30


class AgeOf(StrEnum):
    """Since when a session's age counts."""

    LAST_ACTIVITY = "last_activity"
    CREATED_AT = "created_at"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """How much was deleted; of a dry run, how much a run would have deleted at that moment."""

    deleted_sessions: int
    deleted_tasks: int


class CleanupService:
    """Deletes completed, failed and cancelled sessions past their days, each with a tombstone of its own.

    A run may take long, and its memory does not grow with what it deletes. Interrupted, it has deleted some of the sessions
    wholly, and the one it was at is completed later; how many that were nobody is told, and the next run deletes the rest.
    """

    def __init__(self, *, registry: StorageRegistry, buffer: WholeBuffer, deletion: DeletionService) -> None:
        self._backend = registry.backend_for(SESSIONS)
        self._buffer = buffer
        self._deletion = deletion

    async def cleanup(
        self,
        *,
        completed_days: int = DEFAULT_COMPLETED_DAYS,
        failed_days: int = DEFAULT_FAILED_DAYS,
        cancelled_days: int = DEFAULT_CANCELLED_DAYS,
        age_of: AgeOf = AgeOf.LAST_ACTIVITY,
        dry_run: bool = False,
    ) -> Cleaned:
        """Delete what is at least so many days old; sessions that wait in the buffer with anything are left alone.

        Raises:
            StorageUnavailable: the backend is away, or a query took too long; some may be deleted.
            Replaying: what is buffered can't be known yet.
        """
        self._buffer.require_replayed()
        now = await self._buffer.next_stamp()  # the wall clock may be behind the stamps of records
        days = {
            Status.COMPLETED: completed_days,
            Status.FAILED: failed_days,
            Status.CANCELLED: cancelled_days,
        }
        sessions = tasks = 0
        for status, age in days.items():
            expired = _expired(status, now - timedelta(days=age), age_of)
            async for session_ids in self._pages(expired):
                if dry_run:
                    sessions += len(session_ids)
                    tasks += await self._backend.count(TASKS, (OneOf("session_id", session_ids),))
                    continue
                for session_id in session_ids:
                    deleted_tasks = await self._delete(session_id, expired)
                    if deleted_tasks is not None:
                        sessions += 1
                        tasks += deleted_tasks
        return Cleaned(sessions, tasks)

    async def _pages(self, expired: tuple[Condition, ...]) -> AsyncIterator[list[str]]:
        """The ids of the sessions to delete, by key, so that those left alone are passed by."""
        after: tuple[str] | None = None
        while True:
            query = Query(expired, (Sort(SESSIONS.key),), after=after, limit=_SESSIONS_AT_ONCE)
            rows = await self._backend.select(SESSIONS, (SESSIONS.key, "event_time"), query)
            keys = [session_id for session_id, _ in rows]
            deleted = await deletions_of(self._backend, keys)
            waiting = await self._buffer.waiting_of(keys)
            yield [
                session_id
                for session_id, event_time in rows
                if session_id not in waiting and not is_covered(event_time, deleted.get(session_id))
            ]
            if len(rows) < _SESSIONS_AT_ONCE:
                return
            after = (keys[-1],)

    async def _delete(self, session_id: str, expired: tuple[Condition, ...]) -> int | None:
        """How many tasks went with the session; None if it is left alone after all, since something has changed."""
        with self._deletion.completing():
            marked = await repeating_conflicts(lambda: self._mark(session_id, expired))
            if marked is None:
                return None
            tombstone, tasks = marked
            await self._deletion.remove(tombstone)
        return tasks

    async def _mark(self, session_id: str, expired: tuple[Condition, ...]) -> tuple[Tombstone, int] | None:
        """Store the session's tombstone, unless the session is to be left alone; and how many tasks it has."""
        of_it = Equals(SESSIONS.key, session_id)
        async with self._backend.transaction() as transaction:
            await transaction.lock([session_id], exclusively=True)
            deleted = await deletions_of(transaction, [session_id])
            stored = await transaction.read(SESSIONS, [session_id])
            is_expired = await transaction.select(SESSIONS, (SESSIONS.key,), Query((of_it, *expired), limit=1))
            if not is_expired or await self._buffer.waiting_of([session_id]):
                return None
            if is_covered(stored[0].event_time, deleted.get(session_id)):
                return None
            newest_task, tasks = await stored_tasks(transaction, session_id)
            newest = max(stored[0].event_time, newest_task or stored[0].event_time)
            return await self._deletion.write_tombstone(transaction, session_id, newest), tasks


def _expired(status: Status, cutoff: datetime, age_of: AgeOf) -> tuple[Condition, ...]:
    """The condition; the plain column beside the derived one lets a database look at fewer tasks."""
    if age_of is AgeOf.CREATED_AT:
        return (Equals("status", status), Between("created_at", None, cutoff))
    return (Equals("status", status), Between("updated_at", None, cutoff), Between(LAST_ACTIVITY, None, cutoff))

"""Deletion of sessions: first a tombstone, then the rows, a few at a time, so that writes go on meanwhile.

From the tombstone's commit on the session is deleted, whatever happens to who asked for it: `run` completes what was
interrupted, in this run or in an earlier one, here or in another instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog
from msgspec.structs import replace

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.timing import Timing
from persistence_service.errors import SessionNotFound
from persistence_service.fleet.whole import WholeBuffer
from persistence_service.models.session import Session
from persistence_service.models.times import from_micros
from persistence_service.models.tombstone import Tombstone
from persistence_service.services.background import repeat
from persistence_service.services.query import POSITION
from persistence_service.storage.backend import Transaction
from persistence_service.storage.collections import SESSIONS, TASKS, TOMBSTONES
from persistence_service.storage.conflicts import repeating_conflicts
from persistence_service.storage.query import (
    COUNT,
    Aggregate,
    Between,
    Condition,
    Equals,
    Measurement,
    OneOf,
    Query,
    Sort,
)
from persistence_service.storage.registry import StorageRegistry

_log = structlog.get_logger(__name__)
_TASKS_AT_ONCE = 1000
_TOMBSTONES_AT_ONCE = 100
_LOOK_EVERY_S = 300.0
_NEWEST = Measurement(Aggregate.NEWEST, "event_time")


class DeletionService:
    """Deletes sessions with their tasks, and completes deletions that were interrupted."""

    def __init__(
        self, *, registry: StorageRegistry, buffer: WholeBuffer, timing: Timing, backoff: Backoff | None = None
    ) -> None:
        self._backend = registry.backend_for(SESSIONS)
        self._buffer = buffer
        self._timing = timing
        self._backoff = backoff or Backoff()
        self._interrupted = asyncio.Event()

    async def delete(self, session_id: str) -> datetime:
        """Delete the session and its tasks, stored and buffered; returns when their rows are gone.

        The answer is the event time up to which its records stay deleted, whenever they arrive.

        Raises:
            SessionNotFound: there is no such session, or it is deleted and all of it is gone.
            StorageUnavailable: the backend is away. The outcome is open; asking again is safe.
            Replaying: what is buffered can't be known yet. Here too the outcome may be open.
        """
        # The buffer is looked at first: what a flush moves to the backend meanwhile is then seen twice, never missed.
        buffered = await self._buffer.session(session_id)
        stamp = await self._buffer.next_stamp()
        up_to = await self._buffer.newest_of(session_id, stamp) or stamp
        with self.completing():
            tombstone = await repeating_conflicts(lambda: self._mark(session_id, up_to, buffered))
            await self.remove(tombstone)
        return tombstone.deleted_up_to

    async def _mark(self, session_id: str, up_to: datetime, buffered: Session | None) -> Tombstone:
        """Store the tombstone; one whose rows are still being removed is given back as it is."""
        async with self._backend.transaction() as transaction:
            return await self._mark_in(transaction, session_id, up_to, buffered)

    async def _mark_in(
        self, transaction: Transaction, session_id: str, up_to: datetime, buffered: Session | None
    ) -> Tombstone:
        await transaction.lock([session_id], exclusively=True)
        tombstones = await transaction.query(TOMBSTONES, Query((Equals(TOMBSTONES.key, session_id),), limit=1))
        stored = await transaction.read(SESSIONS, [session_id])
        before = tombstones[0] if tombstones else None
        known = [*stored, *([buffered] if buffered is not None else [])]
        if not any(before is None or session.event_time > before.deleted_up_to for session in known):
            if before is None or before.removed_at is not None:
                raise SessionNotFound(session_id)
            return before
        newest_task, _ = await stored_tasks(transaction, session_id)
        times = [up_to, *(session.event_time for session in stored), *([newest_task] if newest_task else [])]
        return await self.write_tombstone(transaction, session_id, max(times))

    async def write_tombstone(self, transaction: Transaction, session_id: str, up_to: datetime) -> Tombstone:
        """The session is deleted up to that time when `transaction` commits; `remove` must follow, within `completing`.

        The transaction holds the session alone.
        """
        now = from_micros(self._timing.wall_us())
        tombstone = Tombstone(session_id, up_to, removed_at=None, created_at=now, updated_at=now)
        await transaction.write(TOMBSTONES, [tombstone])
        return tombstone

    async def remove(self, tombstone: Tombstone) -> None:
        """Remove every row that `tombstone` covers, the session's last, and none that is newer. May run several times at once.

        Raises:
            StorageUnavailable: the backend is away; what is left is removed later.
            Replaying: a worker could not be told, nothing is removed yet.
        """
        session_id, up_to = tombstone.session_id, tombstone.deleted_up_to
        await self._buffer.note_deleted(session_id, up_to)
        covered = (Equals("session_id", session_id), Between("event_time", None, up_to))
        while await self._remove_tasks(covered):
            pass
        await repeating_conflicts(lambda: self._remove_session(tombstone, covered))

    async def _remove_session(self, tombstone: Tombstone, covered: tuple[Condition, ...]) -> None:
        now = from_micros(self._timing.wall_us())
        async with self._backend.transaction() as transaction:
            await transaction.delete(SESSIONS, covered)
            await transaction.write(TOMBSTONES, [replace(tombstone, removed_at=now, updated_at=now)])

    async def _remove_tasks(self, covered: tuple[Condition, ...]) -> bool:
        """Whether there were any left."""
        query = Query(covered, tuple(Sort(field) for field in POSITION), limit=_TASKS_AT_ONCE)
        keys = [key for (key,) in await self._backend.select(TASKS, (TASKS.key,), query)]
        if keys:
            await repeating_conflicts(lambda: self._backend.delete(TASKS, (OneOf(TASKS.key, keys), *covered)))
        return bool(keys)

    # ------------------------------------------------------------------------------------------------- completion

    @contextmanager
    def completing(self) -> Iterator[None]:
        """Whatever interrupts a deletion that is begun within, `run` completes it."""
        try:
            yield
        except SessionNotFound:
            raise
        except BaseException:
            self._interrupted.set()
            raise

    async def resume(self) -> int:
        """Complete every deletion that was begun; returns how many.

        Raises:
            StorageUnavailable, Replaying: the backend or a worker is away.
        """
        completed = 0
        after: tuple[str] | None = None
        unfinished = (Equals("removed_at", None),)
        while True:
            query = Query(unfinished, (Sort(TOMBSTONES.key),), after=after, limit=_TOMBSTONES_AT_ONCE)
            page = await self._backend.query(TOMBSTONES, query)
            for tombstone in page:
                await self.remove(tombstone)
                completed += 1
            if len(page) < _TOMBSTONES_AT_ONCE:
                return completed
            after = (page[-1].session_id,)

    async def run(self) -> None:
        """Complete what was interrupted: at once, whenever something is, and now and then for other instances'."""
        await repeat(
            self._resume,
            name="deletion",
            every_s=_LOOK_EVERY_S,
            timing=self._timing,
            backoff=self._backoff,
            wanted=self._interrupted,
        )

    async def _resume(self) -> None:
        completed = await self.resume()
        if completed:
            _log.info("deletion.completed", sessions=completed)


async def stored_tasks(transaction: Transaction, session_id: str) -> tuple[datetime | None, int]:
    """The newest event time among the stored tasks of a session, None without any; and how many there are."""
    groups = await transaction.aggregate(
        TASKS, group_by=(), measure=(_NEWEST, COUNT), where=(Equals("session_id", session_id),)
    )
    return (groups[0].figures[0], groups[0].figures[1]) if groups else (None, 0)

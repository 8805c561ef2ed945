"""What was accepted and is not stored, wherever it waits: looked up by key for reads, by session for deletes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from persistence_service.buffer.deleted import DeletedSessions
from persistence_service.buffer.intake import Intake
from persistence_service.buffer.slices import slices
from persistence_service.buffer.spill import SpilledBatch, SpillQueue
from persistence_service.journal.journal import Journal
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.models.tombstone import surviving_session

R = TypeVar("R", bound=msgspec.Struct)
_AT_ONCE: Final = 2_000
_ON_THE_LOOP_BYTES: Final = 256 * 1024


class Unstored:
    """Reads of memory, of what waits in the journal alone, and of what is set aside there.

    Records move on while they are looked for: from the journal into memory, from there to the backend or aside. Memory is
    looked at last, in one go with whatever came aside meanwhile, and the backend after that: so nothing is missed.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        sessions: Intake[Session],
        tasks: Intake[Task],
        queues: Sequence[SpillQueue],
        deleted: DeletedSessions,
    ) -> None:
        self._journal = journal
        self._sessions = sessions
        self._tasks = tasks
        self._queues = queues
        self._deleted = deleted

    async def session(self, session_id: str) -> Session | None:
        """What is accepted of this session and not stored, None when nothing is; what was deleted since is left out."""
        found = next(iter(await self._views(self._sessions, session_id)), None)
        up_to = self._deleted.up_to(session_id)
        return surviving_session(found, up_to) if found is not None and up_to is not None else found

    async def tasks(self, task_id: str) -> list[Task]:
        """What is accepted of this id and not stored, one for each session that is named; what was deleted since is left out."""
        return await self._views(self._tasks, task_id)

    async def _views(self, intake: Intake[R], key: str) -> list[R]:
        journaled: list[R] = []
        seen: set[int] = set()
        while new := self._unseen(seen, lambda queue: queue.holding(intake.kind, key)):
            async for payload in self._payloads(new):
                find = intake.find
                is_large = len(payload) > _ON_THE_LOOP_BYTES
                journaled += await asyncio.to_thread(find, payload, key) if is_large else find(payload, key)
        return intake.buffer.views(key, journaled)

    async def newest_of(self, session_id: str, after: datetime) -> datetime | None:
        """The newest event time later than `after` among a session's records that are not stored, None if there is none."""
        newest = after
        seen: set[int] = set()
        while new := self._unseen(seen, lambda queue: queue.of_session(session_id)):
            for intake in (self._sessions, self._tasks):
                async for payload in self._payloads([batch for batch in new if batch.kind == intake.kind]):
                    records: Sequence[Session | Task] = await asyncio.to_thread(intake.decode, payload)
                    newest = max([newest, *(r.event_time for r in records if r.session_id == session_id)])
        for intake in (self._sessions, self._tasks):
            if intake.buffer.has_session(session_id):
                records = list(intake.buffer.records())
                newest = max([newest, *(r.event_time for r in records if r.session_id == session_id)])
        return newest if newest > after else None

    def is_waiting(self, session_id: str) -> bool:
        """Whether any record of the session is not stored, or may not be."""
        in_memory = any(intake.buffer.has_session(session_id) for intake in (self._sessions, self._tasks))
        return in_memory or any(queue.of_session(session_id) for queue in self._queues)

    def has_session(self, session_id: str) -> bool:
        """Whether a record of the session itself is not stored, or may not be."""
        in_memory = self._sessions.buffer.has_session(session_id)
        return in_memory or any(queue.holding(self._sessions.kind, session_id) for queue in self._queues)

    def note_deleted(self, session_id: str, up_to: datetime) -> None:
        """The session's tombstone is committed: what waits of it up to that time is dropped, and reads leave it out."""
        self._deleted.note(session_id, up_to)
        for intake in (self._sessions, self._tasks):
            if intake.buffer.has_session(session_id):
                intake.buffer.drop_deleted()

    def _unseen(self, seen: set[int], find: Callable[[SpillQueue], Sequence[SpilledBatch]]) -> list[SpilledBatch]:
        """The batches that `find` gives and whose tickets are not in `seen` yet; now they are."""
        new = [batch for queue in self._queues for batch in find(queue) if batch.ticket not in seen]
        seen.update(batch.ticket for batch in new)
        return new

    async def _payloads(self, batches: Sequence[SpilledBatch]) -> AsyncIterator[bytes]:
        """The payloads, a bounded stretch in memory at a time; one that can't be read is left to who drains it, and tells."""
        for batch in batches:  # they stay on disk while they are read, even if a flush is quicker
            self._journal.hold(batch.position.segment, 1)
        try:
            for stretch in slices(batches, lambda batch: batch.position.length, max_items=_AT_ONCE):
                for payload in await self._journal.read_many([batch.position for batch in stretch]):
                    if isinstance(payload, bytes):
                        yield payload
        finally:
            for batch in batches:
                self._journal.release(batch.position.segment, 1)

"""The buffer of the service as a whole: what is asked of it means every worker's, whichever of them was asked.

Siblings are asked first and the database after: a record that moves there meanwhile is seen twice, never missed. One that can't
be asked is waited for, then the caller is told to come again: an older state than was acknowledged would be a lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection as Keys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

from persistence_service.buffer.deleted import DeletedSessions
from persistence_service.buffer.flusher import FlushReport
from persistence_service.buffer.manager import BufferManager, Receipt
from persistence_service.errors import Replaying
from persistence_service.fleet.control import PULSE_S, Answers
from persistence_service.fleet.messages import (
    MAX_IDS,
    FindNewest,
    FindSession,
    FindTasks,
    FindWaiting,
    Flush,
    FlushSessions,
    ListDeleted,
    NoteDeleted,
    Ping,
)
from persistence_service.fleet.siblings import Siblings, together
from persistence_service.models.session import Session
from persistence_service.models.task import Task, TaskRequest
from persistence_service.settings import Durability
from persistence_service.storage.collections import SESSIONS, TASKS

_READ_PATIENCE_S: Final = 5.0
_PATIENCE_S: Final = 10.0
_PRESENT_PATIENCE_S: Final = 2 * PULSE_S  # one who answers gives a sign of life sooner


class Heir(Protocol):
    """Takes over the journals of workers that there are no more."""

    @property
    def is_running(self) -> bool:
        """Whether such a journal may hold what is not known here yet."""
        ...

    async def done(self) -> None:
        """Return when it does not; raises Replaying if that can't be said."""
        ...


class NothingInherited:
    """For a service with nothing to take over."""

    is_running = False

    async def done(self) -> None:
        """At once."""


class WholeBuffer:
    """Asks the worker's own buffer and those of its siblings; without siblings, its own alone."""

    def __init__(
        self,
        own: BufferManager,
        siblings: Siblings | None = None,
        *,
        default_ack: Durability = Durability.JOURNAL,
        deleted: DeletedSessions | None = None,
        heir: Heir | None = None,
    ) -> None:
        self._own = own
        self._siblings = siblings or Siblings(None)
        self._slot = self._siblings.of.slot if self._siblings.of is not None else 0
        self._default_ack = default_ack
        self._deleted = deleted or DeletedSessions()
        self._heir = heir or NothingInherited()

    # ---------------------------------------------------------------------------------------------------- intake

    async def accept_tasks(self, requests: Sequence[TaskRequest], ack: Durability | None = None) -> Receipt:
        """As `BufferManager.accept_tasks`. Only where storage is asked for do others hear of it: they may have the sessions."""
        if self._siblings.slots and (ack or self._default_ack) is Durability.STORAGE:
            await self.have_sessions_stored({request.session_id for request in requests})
        return await self._own.accept_tasks(requests, ack)

    async def have_sessions_stored(self, session_ids: Keys[str]) -> bool:
        """Let those store them that have them and can; returns whether that was everyone who could have them.

        Where it was not, tasks of these sessions wait.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ_PATIENCE_S):
                done = await self._asked_to_store(session_ids)
                return len(done) == len(self._siblings.slots) and not self.is_incomplete
        return False

    async def _asked_to_store(self, session_ids: Keys[str]) -> Keys[int]:
        if len(session_ids) > MAX_IDS:
            every = Flush(only_sessions=True)
            return await self._siblings.ask_present(every, patience_s=_PRESENT_PATIENCE_S)
        those = FlushSessions(list(session_ids))
        return await self._siblings.ask_present(those, patience_s=_PRESENT_PATIENCE_S)

    # -------------------------------------------------------------------------------------------- single records

    @property
    def is_incomplete(self) -> bool:
        """Whether what was not found here may still be in a journal that this worker reads."""
        return self._own.replaying or self._heir.is_running

    @property
    def are_all_there(self) -> bool:
        """Whether, a moment ago at most, every worker could be asked and had read its journal."""
        return self._siblings.are_all_there and not self.is_incomplete

    def require_replayed(self) -> None:
        """Raises Replaying while what was not found here may still be in a journal that this worker reads."""
        self._own.require_replayed()
        if self._heir.is_running:
            raise Replaying(
                "the journal of a former worker is being taken over; ask again in a moment", retry_after_s=1
            )

    async def session(self, session_id: str) -> Session | None:
        """What is accepted of this session and stored nowhere, None when nothing is; what was deleted since is left out.

        Raises:
            Replaying: a worker can't be asked, or its journal is still being read.
        """
        self.require_replayed()
        theirs = await self._siblings.ask_all(FindSession(session_id), patience_s=_READ_PATIENCE_S)
        return self._session_of(await self._own.session(session_id), theirs)

    async def tasks(self, task_id: str) -> list[Task]:
        """What is accepted of this id and stored nowhere, one for each session that is named; as `session`."""
        self.require_replayed()
        theirs = await self._siblings.ask_all(FindTasks(task_id), patience_s=_READ_PATIENCE_S)
        views = sorted({**theirs, self._slot: await self._own.tasks(task_id)}.items())
        return TASKS.merged(task for _, tasks in views for task in tasks)

    async def glimpse(self, session_id: str) -> tuple[Session | None, bool]:
        """What those who can be asked now know of a session, and whether these were all, with all of their journals."""
        is_whole = not self.is_incomplete
        theirs = await self._siblings.ask_present(FindSession(session_id), patience_s=_PRESENT_PATIENCE_S)
        found = self._session_of(await self._own.session(session_id), theirs)
        return found, is_whole and len(theirs) == len(self._siblings.slots)

    @staticmethod
    def _session_of(own: Session | None, theirs: Mapping[int, Session | None]) -> Session | None:
        found = SESSIONS.merged(view for view in (own, *theirs.values()) if view is not None)
        return found[0] if found else None

    async def newest_of(self, session_id: str, after: datetime) -> datetime | None:
        """The newest event time later than `after` among a session's records that are not stored, None if there is none.

        Raises:
            Replaying: a worker can't be asked.
        """
        theirs = await self._siblings.ask_all(FindNewest(session_id, after), patience_s=_PATIENCE_S)
        found = [await self._own.newest_of(session_id, after), *theirs.values()]
        return max((newest for newest in found if newest is not None), default=None)

    async def waiting_of(self, session_ids: Keys[str]) -> set[str]:
        """Which of these sessions any record is not stored of, or may not be.

        Raises:
            Replaying: a worker can't be asked, or its journal is still being read.
        """
        self.require_replayed()
        waiting = {session_id for session_id in session_ids if self._own.is_waiting(session_id)}
        if len(waiting) < len(session_ids):
            theirs = await self._siblings.ask_all(FindWaiting(list(session_ids)), patience_s=_READ_PATIENCE_S)
            waiting.update(*theirs.values())
        return waiting

    # ------------------------------------------------------------------------------------------------- deletions

    async def next_stamp(self) -> datetime:
        """A time stamp later than every one that the service gave before; see `BufferManager.next_stamp`."""
        return await self._own.next_stamp()

    async def note_deleted(self, session_id: str, up_to: datetime) -> None:
        """A session's tombstone is committed: all drop what waits of it up to that time, and leave it out of reads.

        Raises:
            Replaying: a worker could not be told, the others are; tell it again.
        """
        # One that is starting asks for what is known here before it reads its journal: it is known here first.
        self._own.note_deleted(session_id, up_to)
        await self._siblings.tell_all(NoteDeleted(session_id, up_to), patience_s=_PATIENCE_S)

    async def learn_deleted(self) -> None:
        """Learn what the siblings know to be deleted: before the journal is read, and after they can tell of more."""
        theirs = await self._siblings.ask_present(ListDeleted(), patience_s=_PATIENCE_S)
        for deleted in theirs.values():
            for session_id, up_to in deleted.items():
                self._own.note_deleted(session_id, up_to)

    # ----------------------------------------------------------------------------------------------------- flush

    async def flush(self) -> FlushReport:
        """Write everything that any worker accepted before this call.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost.
            Replaying: a worker can't be asked, or a journal can't be read now.
            ShuttingDown: the service is at its end.
        """
        if not self._siblings.slots:
            return await self._flush_own()
        # A task must not be taken for an orphan because its session is with a worker that is slower.
        first = await self._flush_all(only_sessions=True)
        then = await self._flush_all()
        return replace(_summed([first, then]), waiting=then.waiting)

    async def _flush_all(self, *, only_sessions: bool = False) -> FlushReport:
        question = Flush(only_sessions)
        own, theirs = await together(
            self._own_alone(only_sessions=only_sessions), self._siblings.ask_all(question, patience_s=_PATIENCE_S)
        )
        return _summed([*own.values(), *theirs.values()])

    async def _own_alone(self, *, only_sessions: bool) -> dict[int, FlushReport]:
        return {self._slot: await self._flush_own(only_sessions=only_sessions)}

    async def _flush_own(self, *, only_sessions: bool = False) -> FlushReport:
        await self._heir.done()
        return await self._own.flush(only_sessions=only_sessions)

    # ------------------------------------------------------------------------------------------ asked by siblings

    def answers(self) -> Answers:
        """What this worker says to its siblings of its own buffer."""
        return {
            Ping: self._say_whether_whole,
            FindSession: self._say_session,
            FindTasks: self._say_tasks,
            FindNewest: self._say_newest,
            FindWaiting: self._say_waiting,
            NoteDeleted: self._take_note,
            ListDeleted: self._say_deleted,
            Flush: self._say_flushed,
            FlushSessions: self._store_those,
        }

    async def _say_whether_whole(self, _: Ping) -> None:
        self.require_replayed()

    async def _say_session(self, question: FindSession) -> Session | None:
        self.require_replayed()
        return await self._own.session(question.session_id)

    async def _say_tasks(self, question: FindTasks) -> list[Task]:
        self.require_replayed()
        return await self._own.tasks(question.task_id)

    async def _say_newest(self, question: FindNewest) -> datetime | None:
        self.require_replayed()
        return await self._own.newest_of(question.session_id, question.after)

    async def _say_waiting(self, question: FindWaiting) -> list[str]:
        self.require_replayed()
        return [session_id for session_id in question.session_ids if self._own.is_waiting(session_id)]

    async def _take_note(self, question: NoteDeleted) -> None:
        self._own.note_deleted(question.session_id, question.up_to)

    async def _say_deleted(self, _: ListDeleted) -> dict[str, datetime]:
        return self._deleted.known()

    async def _store_those(self, question: FlushSessions) -> None:
        await self._own.store_sessions(question.session_ids)
        self.require_replayed()

    async def _say_flushed(self, question: Flush) -> FlushReport:
        return await self._flush_own(only_sessions=question.only_sessions)


def _summed(reports: Iterable[FlushReport]) -> FlushReport:
    every = list(reports)
    return FlushReport(
        sessions_written=sum(report.sessions_written for report in every),
        tasks_written=sum(report.tasks_written for report in every),
        waiting=sum(report.waiting for report in every),
        dead_lettered=sum(report.dead_lettered for report in every),
    )

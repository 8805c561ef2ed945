"""The buffer manager: takes batches in, keeps them safe, and answers for what is not yet in the backend.

The way of a batch: stamped and checked, its room reserved, appended to the journal, merged into the buffer, acknowledged.
Persist first, batch after; only this order. What was journaled is merged even if the one who sent it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import structlog

from persistence_service.buffer.buffer import Aside, RecordBuffer, Tickets
from persistence_service.buffer.flusher import Flusher, FlushReport
from persistence_service.buffer.intake import Intake
from persistence_service.buffer.policy import AckPolicy, MemoryBounds
from persistence_service.buffer.replay import JournalReplay
from persistence_service.buffer.room import Room
from persistence_service.buffer.timing import EventClock, Timing
from persistence_service.errors import (
    JournalFull,
    PayloadTooLarge,
    PersistenceError,
    ShuttingDown,
    Unavailable,
    UnclassifiedStorageError,
)
from persistence_service.journal.format import MAX_PAYLOAD_BYTES
from persistence_service.journal.journal import Journal
from persistence_service.journal.segment import Position
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.limits import Limits
from persistence_service.models.session import Session, SessionRequest
from persistence_service.models.task import Task, TaskRequest
from persistence_service.models.times import from_micros
from persistence_service.settings import Durability

R = TypeVar("R", bound=msgspec.Struct)
_log = structlog.get_logger(__name__)

# The journal's kinds of record; each payload is a JSON array of records as they are kept.
KIND_SESSIONS = 1
KIND_TASKS = 2


@dataclass(frozen=True, slots=True)
class NotStored:
    """An item of a batch that is safe in the journal and not in the backend: its place in the batch, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an acknowledgement may say: items received, when, and how safe they are.

    `not_stored` is empty unless storage was asked for and not reached for all; `durability` is journal then.
    """

    count: int
    accepted_at: datetime
    durability: Durability
    not_stored: tuple[NotStored, ...] = ()


@dataclass(frozen=True, slots=True)
class BufferStats:
    """Figures of the buffer: records by place, bytes of the journal's form, seconds since the oldest unflushed arrived.

    The counts include those that wait for their session and the refused. `unreadable` are journaled batches that another
    version wrote; `unmerged` those that a mistake of ours kept out of memory, which stay journaled for the next start.
    """

    sessions_count: int
    tasks_count: int
    capacity: int
    size_bytes: int
    waiting_for_session: int
    refused: int
    merged: int
    unreadable: int
    unmerged: int
    last_flush_time: datetime | None
    replaying: bool

    @property
    def total_count(self) -> int:
        return self.sessions_count + self.tasks_count

    @property
    def usage_percent(self) -> float:
        """How much of the room is taken by what the next flushes will write; what is set aside has a room of its own."""
        return round(100 * (self.total_count - self.waiting_for_session - self.refused) / self.capacity, 2)


class BufferManager:
    """Accepts, merges and reports. `replay` must run once, in a task of its own; `flusher.run` in another."""

    def __init__(
        self,
        *,
        journal: Journal,
        sessions: RecordBuffer[Session],
        tasks: RecordBuffer[Task],
        flusher: Flusher,
        clock: EventClock,
        timing: Timing,
        limits: Limits,
        bounds: MemoryBounds,
        ack: AckPolicy,
        tickets: Tickets,
    ) -> None:
        self._journal = journal
        self._sessions = Intake(sessions, KIND_SESSIONS, tickets=tickets, timing=timing, arrived=flusher.notice)
        self._tasks = Intake(tasks, KIND_TASKS, tickets=tickets, timing=timing, arrived=flusher.notice)
        self._flusher = flusher
        self._clock = clock
        self._timing = timing
        self._limits = limits
        self._ack = ack
        self._room = Room((sessions, tasks), flusher, bounds)
        self._replay = JournalReplay(
            journal=journal, intakes=(self._sessions, self._tasks), room=self._room, timing=timing
        )
        self._closing = False
        self._ended: PersistenceError | None = None
        self._unmerged = 0

    # -------------------------------------------------------------------------------------------------- intake

    async def accept_sessions(self, requests: Sequence[SessionRequest], ack: Durability | None = None) -> Receipt:
        """Keep a batch of sessions, all or nothing; returns when it is as safe as `ack` (default `buffer.ack`) says.

        Raises:
            ValidationFailed, PayloadTooLarge: nothing was kept.
            BufferFull, JournalFull, JournalUnavailable, ShuttingDown: the outcome is open; send the batch again, which is safe.
        """
        acceptance = self._stamp(len(requests))
        return await self._keep(self._sessions, accept_sessions(requests, acceptance, self._limits), acceptance, ack)

    async def accept_tasks(self, requests: Sequence[TaskRequest], ack: Durability | None = None) -> Receipt:
        """Keep a batch of tasks; as `accept_sessions` does."""
        acceptance = self._stamp(len(requests))
        return await self._keep(self._tasks, accept_tasks(requests, acceptance, self._limits), acceptance, ack)

    def _stamp(self, count: int) -> Acceptance:
        return Acceptance(stamp_us=self._clock.reserve(max(count, 1)), now_us=self._timing.wall_us())

    async def _keep(
        self, intake: Intake[R], records: list[R], acceptance: Acceptance, ack: Durability | None
    ) -> Receipt:
        wanted = ack or self._ack.default
        durability = wanted if wanted.at_least(self._ack.least) else self._ack.least
        accepted_at = from_micros(acceptance.stamp_us)
        if self._closing:
            raise ShuttingDown("the service is shutting down; send the batch again in a moment", retry_after_s=5)
        if self._ended is not None:
            raise ShuttingDown("the service has failed and must be restarted; send the batch again then")
        if not records:
            return Receipt(0, accepted_at, durability)
        ticket = await self._journaled(intake, records, acceptance, durability)
        if durability is Durability.STORAGE:
            left = await self._store(intake.buffer, records, ticket)
            if left:
                return Receipt(len(records), accepted_at, Durability.JOURNAL, left)
        return Receipt(len(records), accepted_at, durability)

    def _journaled(
        self, intake: Intake[R], records: list[R], acceptance: Acceptance, durability: Durability
    ) -> asyncio.Future[int]:
        """Hand the batch to the journal; the future has its ticket when it is journaled and merged.

        Cancelling the future, or whoever awaits it, leaves the append and the merge alone.
        """
        payload, sizes = intake.encode(records)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLarge(f"the batch is longer than {MAX_PAYLOAD_BYTES} bytes as it is kept; split it")
        self._room.reserve(len(records), len(payload), intake.buffer)

        def refused(error: Unavailable) -> None:
            """A full journal has room again when records are stored, so that is begun now."""
            if isinstance(error, JournalFull):
                self._flusher.make_room()
                error.retry_after_s = self._room.seconds_to_free(len(records))

        try:
            written = self._journal.append(
                intake.kind,
                payload,
                items=len(records),
                accepted_at_us=acceptance.stamp_us,
                high_water_us=acceptance.stamp_us + len(records) - 1,
                durable=durability is not Durability.MEMORY,
            )
        except BaseException as exc:
            self._room.give_back(len(records), len(payload))
            if isinstance(exc, Unavailable):
                refused(exc)
            raise
        merged: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def merge(done: asyncio.Future[Position]) -> None:
            self._room.give_back(len(records), len(payload))
            ticket, error = 0, done.exception()
            if isinstance(error, Unavailable):
                refused(error)
            if error is None:
                watched = durability is Durability.STORAGE
                try:
                    ticket = intake.merge(records, sizes, done.result(), watched=watched)
                except Exception as exc:  # noqa: BLE001  # the supervision point of merging: the sender waits for it
                    error = exc
                    self._unmerged += 1
                    now = "its batch stays in the journal for the next start"
                    _log.error("batch.not_merged", sequence=done.result().sequence, now=now, exc_info=exc)
            if merged.done():  # the sender has gone
                intake.buffer.unwatch(ticket)
                return
            if error is None:
                merged.set_result(ticket)
            else:
                merged.set_exception(error)

        written.add_done_callback(merge)
        return merged

    async def _store(self, buffer: RecordBuffer[R], records: list[R], ticket: int) -> tuple[NotStored, ...]:
        try:
            with suppress(TimeoutError, Unavailable):  # what is not stored says so below
                await self._flusher.flush(patient=True, timeout_s=self._ack.timeout_s)
            reasons = ((index, buffer.why_unstored(record, ticket)) for index, record in enumerate(records))
            return tuple(NotStored(index, reason.value) for index, reason in reasons if reason is not None)
        finally:
            buffer.unwatch(ticket)

    # -------------------------------------------------------------------------------------------------- replay

    async def replay(self) -> None:
        """Merge what the last run left in the journal, as fast as there is room. New batches are accepted meanwhile."""
        await self._replay.run()

    @property
    def replaying(self) -> bool:
        """Whether some of the last run's journal has not been read yet, so that an id not found may still turn up."""
        return self._replay.is_running

    def require_replayed(self) -> None:
        """Raises Replaying while an id that was not found may still be in the last run's journal."""
        self._replay.require_done()

    # ------------------------------------------------------------------------------------------- asked by others

    async def flush(self) -> FlushReport:
        """Write everything accepted before this call, the journal of the last run included.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost.
            Replaying: the journal of the last run can't be read now.
            ShuttingDown: the service is at its end.
        """
        while self.replaying:
            await self._flusher.flush()
            await self._replay.step()
        return await self._flusher.flush()

    def begin_shutdown(self) -> None:
        """End the intake; what was accepted stays safe."""
        self._closing = True

    def note_ended(self, task: str, error: Exception) -> None:
        """A background task has ended by a mistake of ours: the service accepts no more, until it is restarted."""
        self._ended = UnclassifiedStorageError(
            f"the task {task!r} has ended by {type(error).__name__}; restart the service"
        )

    async def session(self, session_id: str) -> Session | None:
        """What is buffered of this session, None when nothing is; what a deletion has overtaken is left out."""
        return self._sessions.buffer.view(session_id)

    async def task(self, task_id: str) -> Task | None:
        """What is buffered of this task, None when nothing is; what a deletion has overtaken is left out."""
        return self._tasks.buffer.view(task_id)

    async def newest_of(self, session_id: str, after: datetime) -> datetime | None:
        """The newest event time later than `after` among the buffered records of a session, None when there is none."""
        buffers: tuple[RecordBuffer[Any], ...] = (self._sessions.buffer, self._tasks.buffer)
        times = (r.event_time for buffer in buffers for r in buffer.records() if r.session_id == session_id)
        return max((time for time in times if time > after), default=None)

    def sessions_waiting(self) -> Callable[[str], bool]:
        """A predicate of this moment: whether any record of a session is buffered, or may be."""
        buffers: tuple[RecordBuffer[Any], ...] = (self._sessions.buffer, self._tasks.buffer)
        buffered = {record.session_id for buffer in buffers for record in buffer.records()}
        return buffered.__contains__

    def note_deleted(self, session_id: str, up_to: datetime) -> None:
        """The session's tombstone is written: from now on reads leave its buffered records up to that time out."""

    def next_stamp(self) -> datetime:
        """A time stamp of the service's own: later than every one it gave before."""
        stamp_us = self._clock.reserve(1)
        self._journal.raise_high_water(stamp_us)
        return from_micros(stamp_us)

    def aside(self) -> Iterator[tuple[str, str, Aside[Any]]]:
        """Every record that waits outside of the flush: its collection's name, its key, and why."""
        buffers: tuple[RecordBuffer[Any], ...] = (self._sessions.buffer, self._tasks.buffer)
        for buffer in buffers:
            for aside in buffer.aside():
                yield buffer.collection.name, buffer.collection.key_of(aside.entry.record), aside

    @property
    def accepting(self) -> bool:
        """Whether a batch sent now would be taken in. Sessions are, while tasks may be refused for lack of room aside."""
        return self._room.is_left and not self._closing and self._ended is None

    @property
    def storage_failure(self) -> PersistenceError | None:
        """Why the last write to the backend failed, or why there will be none; None when it succeeded."""
        return self._ended or self._flusher.failure

    def oldest_unstored_age_s(self) -> float:
        """Seconds since the oldest record that is not in the backend arrived in this process, 0 when there is none."""
        places = (self._sessions.buffer, self._tasks.buffer)
        arrivals = [
            at for buffer in places for at in (buffer.oldest_arrival_s, buffer.oldest_aside_s) if at is not None
        ]
        return self._timing.monotonic() - min(arrivals) if arrivals else 0.0

    def stats(self) -> BufferStats:
        """The figures of this moment."""
        sessions, tasks = self._sessions.buffer, self._tasks.buffer
        flushed = self._flusher.last_flush_us
        return BufferStats(
            sessions_count=sessions.total,
            tasks_count=tasks.total,
            capacity=self._room.capacity,
            size_bytes=self._room.held_bytes,
            waiting_for_session=tasks.orphans,
            refused=sessions.refused + tasks.refused,
            merged=sessions.merged + tasks.merged,
            unreadable=self._replay.unreadable,
            unmerged=self._unmerged,
            last_flush_time=None if flushed is None else from_micros(flushed),
            replaying=self.replaying,
        )

"""The buffer manager: takes batches in, keeps them safe, and answers for what is not yet in the backend.

The way of a batch: stamped and checked, appended to the journal, merged into the buffer, acknowledged. Persist first, batch
after; only this order. What was journaled is taken in even if the one who sent it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import structlog

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.entries import Place, UnstoredReason
from persistence_service.buffer.flusher import Flusher, FlushReport, Waiting
from persistence_service.buffer.forecast import Forecast
from persistence_service.buffer.intake import KIND_SESSIONS, KIND_STAMP, KIND_TASKS, Intake
from persistence_service.buffer.policy import AckPolicy
from persistence_service.buffer.reads import Unstored
from persistence_service.buffer.replay import JournalReplay
from persistence_service.buffer.timing import Clock, Timing
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
Q = TypeVar("Q", bound=msgspec.Struct)
_log = structlog.get_logger(__name__)

_UNKNOWN_WAIT_S = 5.0
_MANY = 1_000  # records: so many take some 15 ms to check
_SHORTEST_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class NotStored:
    """An item of a batch that is safe and not in its collection: its place in the batch, where it is instead, and why."""

    index: int
    place: Place
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
    """Figures of the buffer: accepted records that are not in the backend, and their bytes in the journal's form.

    The counts include those that wait in the journal alone (`spilled_records`), orphans (`waiting_for_session`) and
    `set_aside` ones; `memory_records` are those in memory that the next flush writes. `unreadable` are journaled batches
    that another version wrote; `unmerged` those that a mistake of ours kept out, which stay journaled for the next start.
    """

    sessions_count: int
    tasks_count: int
    capacity: int
    memory_records: int
    size_bytes: int
    spilled_records: int
    spilled_bytes: int
    waiting_for_session: int
    set_aside: int
    merged: int
    unreadable: int
    unmerged: int
    last_flush_time: datetime | None
    replaying: bool
    replay_failing: bool
    dead_lettering_stopped: bool

    @property
    def total_count(self) -> int:
        return self.sessions_count + self.tasks_count

    @property
    def usage_percent(self) -> float:
        """How much of the memory for what the next flushes will write is taken."""
        return round(100 * self.memory_records / self.capacity, 2)


class BufferManager:
    """Accepts, merges and reports. `replay` must run once, in a task of its own; `flusher.run` in another."""

    def __init__(
        self,
        waiting: Waiting,
        *,
        journal: Journal,
        intakes: Mapping[int, Intake[Any]],
        flusher: Flusher,
        replay: JournalReplay,
        clock: Clock,
        timing: Timing,
        limits: Limits,
        ack: AckPolicy,
        unstored: Unstored,
    ) -> None:
        self._waiting = waiting
        self._unstored = unstored
        self._journal = journal
        self._sessions: Intake[Session] = intakes[KIND_SESSIONS]
        self._tasks: Intake[Task] = intakes[KIND_TASKS]
        self._flusher = flusher
        self._replay = replay
        self._clock = clock
        self._timing = timing
        self._limits = limits
        self._ack = ack
        self._forecast = Forecast()
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
        records = await self._accepted(accept_sessions, requests, acceptance)
        return await self._keep(self._sessions, records, acceptance, ack)

    async def accept_tasks(self, requests: Sequence[TaskRequest], ack: Durability | None = None) -> Receipt:
        """Keep a batch of tasks; as `accept_sessions` does."""
        acceptance = self._stamp(len(requests))
        records = await self._accepted(accept_tasks, requests, acceptance)
        return await self._keep(self._tasks, records, acceptance, ack)

    async def _accepted(
        self,
        accept: Callable[[Sequence[Q], Acceptance, Limits], list[R]],
        requests: Sequence[Q],
        acceptance: Acceptance,
    ) -> list[R]:
        """The records of a batch; a large one is checked beside the loop, so that others have their turn."""
        if len(requests) > _MANY:
            return await asyncio.to_thread(accept, requests, acceptance, self._limits)
        return accept(requests, acceptance, self._limits)

    def _stamp(self, count: int) -> Acceptance:
        stamp_us = self._clock.reserve(max(count, 1))
        return Acceptance(stamp_us=stamp_us, now_us=stamp_us)

    def now_us(self) -> int:
        """What event times are held against: the wall clock, or the newest stamp if it is ahead of that.

        After the wall clock jumped back, records that were told of such a stamp (by a deletion) are later still.
        """
        return max(self._timing.wall_us(), self._clock.high_water_us)

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
        journaled = self._journaled(intake, records, acceptance, durability)
        try:
            ticket = await journaled
        except asyncio.CancelledError:
            if journaled.done() and not journaled.cancelled() and journaled.exception() is None:
                intake.buffer.unwatch(journaled.result())
            raise
        if durability is Durability.STORAGE:
            left = await self._store(intake.buffer, records, ticket)
            if left:
                return Receipt(len(records), accepted_at, Durability.JOURNAL, left)
        return Receipt(len(records), accepted_at, durability)

    def _journaled(
        self, intake: Intake[R], records: list[R], acceptance: Acceptance, durability: Durability
    ) -> asyncio.Future[int]:
        """Hand the batch to the journal; the future has its ticket when it is journaled and taken in.

        Cancelling the future, or whoever awaits it, leaves the append and the taking in alone.
        """
        payload, sizes = intake.encode(records)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLarge(f"the batch is longer than {MAX_PAYLOAD_BYTES} bytes as it is kept; split it")
        self._note_size()
        try:
            written = self._journal.append(
                intake.kind,
                payload,
                items=len(records),
                accepted_at_us=acceptance.stamp_us,
                high_water_us=acceptance.stamp_us + len(records) - 1,
                durable=durability is not Durability.MEMORY,
            )
        except JournalFull as exc:
            self._note_full(exc, len(payload))
            raise
        merged: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def take_in(done: asyncio.Future[Position]) -> None:
            ticket, error = 0, done.exception()
            if isinstance(error, JournalFull):
                self._note_full(error, len(payload))
            if error is None:
                watched = durability is Durability.STORAGE
                try:
                    ticket = intake.take_in(records, sizes, done.result(), watched=watched)
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

        written.add_done_callback(take_in)
        return merged

    def _note_full(self, error: JournalFull, size: int) -> None:
        """A full journal has room again when records are stored, so that is begun now."""
        self._flusher.make_room()
        error.retry_after_s = self._seconds_to_room(size)

    def _seconds_to_room(self, size: int) -> float:
        """How long the backend needs until a record of `size` bytes fits, by the rate of its last chunks."""
        rate = self._flusher.items_per_s
        if self._flusher.failure is not None or not rate:
            return max(_UNKNOWN_WAIT_S, self._flusher.next_attempt_in_s)
        return max(_SHORTEST_WAIT_S, self._journal.items_until_room(size) / rate)

    async def _store(self, buffer: RecordBuffer[R], records: list[R], ticket: int) -> tuple[NotStored, ...]:
        try:
            with suppress(TimeoutError, Unavailable):  # what is not stored says so below
                await self._flusher.flush(patient=True, timeout_s=self._ack.timeout_s)
            if self._waiting.spill.has_up_to(ticket):
                unavailable = UnstoredReason.STORAGE_UNAVAILABLE
                return tuple(NotStored(index, Place.WAITING, unavailable) for index in range(len(records)))
            found = ((index, buffer.why_unstored(record, ticket)) for index, record in enumerate(records))
            return tuple(NotStored(index, *why) for index, why in found if why is not None)
        finally:
            buffer.unwatch(ticket)

    # -------------------------------------------------------------------------------------------------- replay

    async def replay(self) -> None:
        """Take in what the last run left in the journal, as fast as the disk is. New batches are accepted meanwhile."""
        await self._replay.run()

    @property
    def replaying(self) -> bool:
        """Whether some of the last run's journal has not been read yet, so that an id not found may still turn up."""
        return self._replay.is_running

    def require_replayed(self) -> None:
        """Raises Replaying while an id that was not found may still be in the last run's journal."""
        self._replay.require_done()

    # ------------------------------------------------------------------------------------------- asked by others

    async def flush(self, *, only_sessions: bool = False) -> FlushReport:
        """Write everything accepted before this call, or of it the sessions, the journal of the last run included.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost.
            Replaying: the journal of the last run can't be read now.
            ShuttingDown: the service is at its end.
        """
        await self._replay.done()
        return await self._flusher.flush(only_sessions=only_sessions)

    async def store_sessions(self, session_ids: Iterable[str]) -> None:
        """Write the sessions accepted before this call if any of these is among them, as far as the journal was read.

        Raises:
            StorageUnavailable, ShuttingDown: as `flush`.
        """
        if any(self._unstored.has_session(session_id) for session_id in session_ids):
            await self._flusher.flush(only_sessions=True)

    def begin_shutdown(self) -> None:
        """End the intake; what was accepted stays safe."""
        self._closing = True

    def note_ended(self, task: str, error: Exception) -> None:
        """A background task has ended by a mistake of ours: the service accepts no more, until it is restarted."""
        self._ended = UnclassifiedStorageError(
            f"the task {task!r} has ended by {type(error).__name__}; restart the service"
        )

    async def session(self, session_id: str) -> Session | None:
        """See `Unstored.session`."""
        return await self._unstored.session(session_id)

    async def tasks(self, task_id: str) -> list[Task]:
        """See `Unstored.tasks`."""
        return await self._unstored.tasks(task_id)

    async def newest_of(self, session_id: str, after: datetime) -> datetime | None:
        """See `Unstored.newest_of`."""
        return await self._unstored.newest_of(session_id, after)

    def is_waiting(self, session_id: str) -> bool:
        """See `Unstored.is_waiting`."""
        return self._unstored.is_waiting(session_id)

    def note_deleted(self, session_id: str, up_to: datetime) -> None:
        """See `Unstored.note_deleted`."""
        self._unstored.note_deleted(session_id, up_to)

    async def next_stamp(self) -> datetime:
        """A time stamp of the service's own: later than every one it gave before, in earlier runs too.

        Raises:
            JournalFull, JournalUnavailable: it can't be kept now.
        """
        stamp_us = self._clock.reserve(1)
        await asyncio.shield(
            self._journal.append(
                KIND_STAMP, b"", items=0, accepted_at_us=stamp_us, high_water_us=stamp_us, beyond_bounds=True
            )
        )
        return from_micros(stamp_us)

    @property
    def accepting(self) -> bool:
        """Whether a batch sent now would be taken in, as far as it is not for the journal to say."""
        return not self._closing and self._ended is None

    @property
    def storage_failure(self) -> PersistenceError | None:
        """Why the last write to the backend failed, or why there will be none; None when it succeeded."""
        return self._ended or self._flusher.failure

    def oldest_unstored_age_s(self) -> float:
        """Seconds since the oldest record that is not in the backend was accepted, by whatever run; 0 when there is none."""
        arrivals = [
            at
            for buffer in (self._waiting.sessions, self._waiting.tasks)
            for at in (buffer.oldest_arrival_s, buffer.oldest_aside_s)
            if at is not None
        ]
        queues = (self._waiting.spill, self._waiting.set_aside.queue)
        arrivals += [batch.arrived_s for queue in queues if (batch := queue.oldest) is not None]
        return self._timing.monotonic() - min(arrivals) if arrivals else 0.0

    def seconds_until_journal_full(self) -> float | None:
        """Until it has no room, by journal.max_bytes or on its volume, if it fills like lately; None while it does not.

        0 as long as it refuses what comes: then it does not grow.
        """
        if self._journal.stats().full:
            return 0.0
        self._note_size()
        return self._forecast.seconds_until(
            self._journal.most_bytes, self._timing.monotonic(), self._journal.service_bytes
        )

    def _note_size(self) -> None:
        self._forecast.note(
            self._timing.monotonic(), self._journal.service_bytes, in_outage=self._flusher.failure is not None
        )

    def stats(self) -> BufferStats:
        """The figures of this moment."""
        waiting = self._waiting
        sessions, tasks = waiting.sessions, waiting.tasks
        queues = (waiting.spill, waiting.set_aside.queue)
        flushed = self._flusher.last_flush_us
        return BufferStats(
            sessions_count=sessions.total + sum(queue.records[KIND_SESSIONS] for queue in queues),
            tasks_count=tasks.total + sum(queue.records[KIND_TASKS] for queue in queues),
            capacity=waiting.room.capacity,
            memory_records=waiting.room.unflushed,
            size_bytes=waiting.room.held_bytes,
            spilled_records=sum(queue.total for queue in queues),
            spilled_bytes=sum(queue.size_bytes for queue in queues),
            waiting_for_session=tasks.orphans,
            set_aside=sessions.refused + tasks.refused + waiting.set_aside.queue.total,
            merged=sessions.merged + tasks.merged,
            unreadable=self._replay.unreadable,
            unmerged=self._unmerged + self._replay.unmerged,
            last_flush_time=None if flushed is None else from_micros(flushed),
            replaying=self.replaying,
            replay_failing=self._replay.is_failing,
            dead_lettering_stopped=waiting.letterbox.is_stopped or waiting.set_aside.has_refused,
        )

"""The buffer manager: takes batches in, keeps them safe, and answers for what is not yet in the backend.

The way of a batch: stamped and checked, its room reserved, appended to the journal, merged into the buffer, acknowledged.
Persist first, batch after; only this order. What was journaled is merged even if the one who sent it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import structlog

from persistence_service.buffer.buffer import Aside, Entry, RecordBuffer, Tickets
from persistence_service.buffer.flusher import Flusher, FlushReport
from persistence_service.buffer.timing import EventClock, Timing
from persistence_service.errors import BufferFull, PersistenceError, Replaying, ShuttingDown, StorageUnavailable
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
_encode = msgspec.json.Encoder(order="deterministic").encode

# The journal's kinds of record; each payload is a JSON array of records as they are kept.
KIND_SESSIONS = 1
KIND_TASKS = 2
_LOOK_AGAIN_S = 1.0


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
    """Figures of the buffer: records by place, bytes of the journal's form, seconds since the oldest unstored arrived."""

    sessions_count: int
    tasks_count: int
    capacity: int
    size_bytes: int
    waiting_for_session: int
    refused: int
    merged: int
    oldest_age_s: float
    last_flush_time: datetime | None
    replaying: bool

    @property
    def total_count(self) -> int:
        return self.sessions_count + self.tasks_count

    @property
    def usage_percent(self) -> float:
        return round(100 * self.total_count / self.capacity, 2)


@dataclass(frozen=True, slots=True)
class BufferPolicy:
    """Bounds on memory, and the durability of an acknowledgement: by default, at the least, and how long storage may take."""

    max_memory_records: int
    max_memory_bytes: int
    ack: Durability
    min_ack: Durability
    ack_timeout_s: float


class _Intake:
    """One collection's way in: how its records are written to the journal, and read back."""

    def __init__(self, buffer: RecordBuffer[Any], kind: int) -> None:
        self.buffer = buffer
        self.kind = kind
        self.decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[buffer.collection.record]).decode  # type: ignore[name-defined]  # a type made at run time


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
        policy: BufferPolicy,
        tickets: Tickets,
    ) -> None:
        self._journal = journal
        self._sessions = sessions
        self._tasks = tasks
        self._flusher = flusher
        self._clock = clock
        self._timing = timing
        self._limits = limits
        self._policy = policy
        self._tickets = tickets
        self._intakes = {
            KIND_SESSIONS: _Intake(sessions, KIND_SESSIONS),
            KIND_TASKS: _Intake(tasks, KIND_TASKS),
        }
        self._reserved_records = 0
        self._reserved_bytes = 0
        self._room = asyncio.Event()
        self._replay_step = asyncio.Event()
        self._replayed = asyncio.Event()
        self._closing = False
        flusher.on_room = self._room.set

    # -------------------------------------------------------------------------------------------------- intake

    async def accept_sessions(self, requests: Sequence[SessionRequest], ack: Durability | None = None) -> Receipt:
        """Keep a batch of sessions, all or nothing; returns when it is as safe as `ack` (default `buffer.ack`) says.

        Raises:
            ValidationFailed: nothing was kept.
            BufferFull, JournalFull, JournalUnavailable, ShuttingDown: the outcome is open; send the batch again, which is safe.
        """
        acceptance = self._stamp(len(requests))
        records = accept_sessions(requests, acceptance, self._limits)
        return await self._keep(self._intakes[KIND_SESSIONS], records, acceptance, ack)

    async def accept_tasks(self, requests: Sequence[TaskRequest], ack: Durability | None = None) -> Receipt:
        """Keep a batch of tasks; as `accept_sessions` does."""
        acceptance = self._stamp(len(requests))
        records = accept_tasks(requests, acceptance, self._limits)
        return await self._keep(self._intakes[KIND_TASKS], records, acceptance, ack)

    def _stamp(self, count: int) -> Acceptance:
        return Acceptance(stamp_us=self._clock.reserve(max(count, 1)), now_us=self._timing.wall_us())

    async def _keep(
        self, intake: _Intake, records: list[Any], acceptance: Acceptance, ack: Durability | None
    ) -> Receipt:
        durability = max(ack or self._policy.ack, self._policy.min_ack, key=list(Durability).index)
        accepted_at = from_micros(acceptance.stamp_us)
        if self._closing:
            raise ShuttingDown("the service is shutting down; send the batch again in a moment", retry_after_s=5)
        if not records:
            return Receipt(0, accepted_at, durability)
        payload = _encode(records)
        self._reserve(len(records), len(payload))
        try:
            written = self._journal.append(
                intake.kind,
                payload,
                items=len(records),
                accepted_at_us=acceptance.stamp_us,
                high_water_us=acceptance.stamp_us + len(records) - 1,
                durable=durability is not Durability.MEMORY,
            )
        except BaseException:
            self._unreserve(len(records), len(payload))
            raise
        merged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda done: self._journaled(done, intake, records, len(payload), merged))
        await merged  # cancelling this waiter leaves the append and the merge alone
        if durability is Durability.STORAGE:
            left = await self._store(intake.buffer, records)
            if left:
                return Receipt(len(records), accepted_at, Durability.JOURNAL, left)
        return Receipt(len(records), accepted_at, durability)

    def _journaled(
        self,
        written: asyncio.Future[Position],
        intake: _Intake,
        records: list[Any],
        size: int,
        merged: asyncio.Future[None],
    ) -> None:
        self._unreserve(len(records), size)
        error = written.exception()
        if error is None:
            self._merge(intake.buffer, records, written.result(), size)
        if merged.done():
            return
        if error is None:
            merged.set_result(None)
        else:
            merged.set_exception(error)

    def _merge(self, buffer: RecordBuffer[R], records: list[R], position: Position, size: int) -> None:
        now = self._timing.monotonic()
        ticket = self._tickets.next()
        each = max(1, size // len(records))
        hold = [(position.segment, 1)]
        for record in records:
            buffer.add(Entry(record, ticket, now, each, list(hold)))
        self._flusher.notice()

    async def _store(self, buffer: RecordBuffer[R], records: list[R]) -> tuple[NotStored, ...]:
        try:
            async with asyncio.timeout(self._policy.ack_timeout_s):
                await self._flusher.flush()
        except (TimeoutError, StorageUnavailable):
            pass  # what is still unsettled says so below
        left: list[NotStored] = []
        for index, record in enumerate(records):
            reason = buffer.why_aside(record)
            if reason is not None:
                left.append(NotStored(index, reason.value))
            elif buffer.is_unsettled(buffer.collection.key_of(record)):
                left.append(NotStored(index, "storage_unavailable"))
        return tuple(left)

    # ---------------------------------------------------------------------------------------------------- room

    def _reserve(self, records: int, size: int) -> None:
        policy = self._policy
        over_records = self._used_records() + records - policy.max_memory_records
        over_bytes = self._used_bytes() + size - policy.max_memory_bytes
        # A batch larger than the bounds themselves is let in alone.
        if (over_records > 0 or over_bytes > 0) and self._used_records() > 0:
            self._flusher.notice()
            raise BufferFull(
                "the buffer is full until the database catches up; send the batch again",
                retry_after_s=self._seconds_to_free(max(over_records, records if over_bytes > 0 else 0)),
            )
        self._reserved_records += records
        self._reserved_bytes += size

    def _unreserve(self, records: int, size: int) -> None:
        self._reserved_records -= records
        self._reserved_bytes -= size
        self._room.set()

    def _used_records(self) -> int:
        return self._sessions.total + self._tasks.total + self._reserved_records

    def _used_bytes(self) -> int:
        return self._sessions.size_bytes + self._tasks.size_bytes + self._reserved_bytes

    def _seconds_to_free(self, records: int) -> float:
        rate = self._flusher.rows_per_s
        if self._flusher.failure is not None or not rate:
            return 5.0
        return max(0.1, records / rate)

    # -------------------------------------------------------------------------------------------------- replay

    async def replay(self) -> None:
        """Merge what the last run left in the journal, as fast as there is room. New batches are accepted meanwhile."""
        count = 0
        async for batch in self._journal.replay():
            intake = self._intakes.get(batch.kind)
            try:
                records = intake.decode(batch.payload) if intake else None
            except msgspec.MsgspecError:
                records = None
            if intake is None or not records:
                _log.error("replay.unreadable", sequence=batch.position.sequence, kind=batch.kind, items=batch.items)
                continue  # it keeps its place in the journal, for a version that can read it
            await self._wait_for_room(len(records), len(batch.payload))
            self._merge(intake.buffer, records, batch.position, len(batch.payload))
            self._replay_step.set()
            count += len(records)
        self._replayed.set()
        self._replay_step.set()
        _log.info("replay.finished", records=count)

    async def _wait_for_room(self, records: int, size: int) -> None:
        while self._used_records() and (
            self._used_records() + records > self._policy.max_memory_records
            or self._used_bytes() + size > self._policy.max_memory_bytes
        ):
            self._room.clear()
            self._flusher.notice()
            await self._room.wait()

    @property
    def replaying(self) -> bool:
        """Whether some of the last run's journal has not been read yet, so that an id not found may still turn up."""
        return not self._replayed.is_set()

    # ------------------------------------------------------------------------------------------- asked by others

    async def flush(self) -> FlushReport:
        """Write everything accepted before this call, the journal of the last run included.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost.
        """
        while self.replaying:
            await self._flusher.flush()
            self._replay_step.clear()
            if self.replaying:
                await self._timing.wait(self._replay_step, _LOOK_AGAIN_S)
        return await self._flusher.flush()

    def begin_shutdown(self) -> None:
        """End the intake; what was accepted stays safe."""
        self._closing = True

    def session(self, session_id: str) -> Session | None:
        """What is buffered of this session, None when nothing is."""
        return self._sessions.view(session_id)

    def task(self, task_id: str) -> Task | None:
        """What is buffered of this task, None when nothing is."""
        return self._tasks.view(task_id)

    def require_replayed(self) -> None:
        """Raises Replaying while an id that was not found may still be in the last run's journal."""
        if self.replaying:
            raise Replaying("the journal of the last run is still being read; ask again in a moment", retry_after_s=1)

    def aside(self) -> Iterator[tuple[str, str, Aside[Any]]]:
        """Every record that waits outside of the flush: its collection's name, its key, and why."""
        for intake in self._intakes.values():
            collection = intake.buffer.collection
            for aside in intake.buffer.aside():
                yield collection.name, collection.key_of(aside.entry.record), aside

    @property
    def accepting(self) -> bool:
        """Whether a batch sent now would find room."""
        policy = self._policy
        room = self._used_records() < policy.max_memory_records and self._used_bytes() < policy.max_memory_bytes
        return room and not self._closing

    @property
    def storage_failure(self) -> PersistenceError | None:
        """Why the last write to the backend failed, None when it succeeded."""
        return self._flusher.failure

    def stats(self) -> BufferStats:
        """The figures of this moment."""
        arrivals = [t for b in (self._sessions, self._tasks) if (t := b.oldest_arrival_s) is not None]
        flushed = self._flusher.last_flush_us
        return BufferStats(
            sessions_count=self._sessions.total,
            tasks_count=self._tasks.total,
            capacity=self._policy.max_memory_records,
            size_bytes=self._used_bytes(),
            waiting_for_session=self._tasks.orphans,
            refused=self._sessions.refused + self._tasks.refused,
            merged=self._sessions.merged + self._tasks.merged,
            oldest_age_s=self._timing.monotonic() - min(arrivals) if arrivals else 0.0,
            last_flush_time=None if flushed is None else from_micros(flushed),
            replaying=self.replaying,
        )

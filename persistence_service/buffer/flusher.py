"""The flusher: writes what the buffers hold to the backend, in chunks, one at a time, for ever.

Peek, write, commit, then release: a chunk leaves the buffer only when the backend has committed it. A chunk that failed stays
at the head and is repeated as it is, which is safe because writing is idempotent, so a commit of unknown outcome needs no
special care. What waits in the journal alone is read back, oldest first, whenever memory is half empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.chunk_writer import ChunkReport, ChunkWriter
from persistence_service.buffer.entries import Tickets
from persistence_service.buffer.letterbox import Letterbox
from persistence_service.buffer.orphans import Orphans
from persistence_service.buffer.policy import FlushPolicy
from persistence_service.buffer.refill import Refill
from persistence_service.buffer.room import Room
from persistence_service.buffer.set_aside import SetAside
from persistence_service.buffer.spill import SpillQueue
from persistence_service.buffer.timing import Timing
from persistence_service.errors import (
    PersistenceError,
    ShuttingDown,
    StorageSetupError,
    StorageUnavailable,
    Unavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.observability.metrics import Metrics

_log = structlog.get_logger(__name__)
_SETUP_PAUSE_S = 5.0
_SAID_TO_WORK_PAUSE_S = 0.1
_RATE_WEIGHT = 0.2
_REPLAYED_S = 1.0


class FlushReason(StrEnum):
    """What started a flush."""

    SIZE = "size"
    AGE = "age"
    REQUEST = "request"
    MEMORY = "memory"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What a flush on demand did since it was asked for: records written, and records that became dead letters.

    `waiting` are those that wait for their session, or for the database to take them or their dead letters after all.
    """

    sessions_written: int
    tasks_written: int
    waiting: int
    dead_lettered: int


@dataclass(eq=False, slots=True)
class _Request:
    """Somebody waits until everything up to `ticket`, or of it the sessions, is written. A patient one waits through failures too.

    `has_sought` when it was looked for the sessions of orphans since; one that is patient doesn't ask for that.
    """

    ticket: int
    patient: bool
    only_sessions: bool
    has_sought: bool
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: Unavailable | None = None

    def end(self, error: Unavailable | None = None) -> None:
        self.error = error
        self.done.set()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Everything that a flusher takes from, and the ways of what can't be stored."""

    sessions: RecordBuffer[Session]
    tasks: RecordBuffer[Task]
    spill: SpillQueue
    refill: Refill
    letterbox: Letterbox
    set_aside: SetAside
    room: Room
    tickets: Tickets


class Flusher:
    """Owns the way from the buffers to the backend. `run` is its one task; everything else only asks of it.

    `prepare` makes the backend ready and costs nothing once it is; it is called before every flush, and at the start.
    """

    def __init__(
        self,
        waiting: Waiting,
        *,
        writer: ChunkWriter,
        orphans: Orphans,
        policy: FlushPolicy,
        timing: Timing,
        metrics: Metrics,
        prepare: Callable[[], Awaitable[None]],
        is_replaying: Callable[[], bool],
        backoff: Backoff | None = None,
    ) -> None:
        self._waiting = waiting
        self._sessions = waiting.sessions
        self._tasks = waiting.tasks
        self._writer = writer
        self._orphans = orphans
        self._policy = policy
        self._timing = timing
        self._metrics = metrics
        self._prepare = prepare
        self._is_replaying = is_replaying
        self._backoff = backoff or Backoff()
        self._wake = asyncio.Event()
        self._requests: list[_Request] = []
        self._busy = False
        self._prepared = False
        self._said_to_work = False
        self._room_wanted = False
        self._draining = False
        self._newest_first = False
        self._stopping = False
        self._unfinished: FlushReason | None = None
        self._written = {self._sessions.collection.name: 0, self._tasks.collection.name: 0}
        self._counted = dict(self._written)
        self._told: type[PersistenceError] | None = None
        self._next_attempt_s = 0.0
        self.failure: PersistenceError | None = None
        self.last_flush_us: int | None = None
        self.items_per_s: float | None = None

    # ------------------------------------------------------------------------------------------ asked by others

    def notice(self) -> None:
        """Records arrived: look whether a flush is due. While the backend fails, the back-off decides instead."""
        if self.failure is None and not self._busy:
            self._wake.set()

    def try_again(self) -> None:
        """The backend is said to work again: don't wait for the back-off to end, now or after the attempt that is under way."""
        self._said_to_work = True
        self._wake.set()

    def make_room(self) -> None:
        """The journal has no room: flush what there is."""
        self._room_wanted = True
        self.notice()

    async def flush(
        self, *, only_sessions: bool = False, patient: bool = False, timeout_s: float | None = None
    ) -> FlushReport:
        """Write everything that arrived before this call, orphans and refused records excepted.

        With `only_sessions` tasks are left to the next flush, if they are not in the way. With `patient` a failure of the backend is waited out at the pace of the back-off.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost, and the flusher goes on trying.
            ShuttingDown: the flusher has ended.
            TimeoutError: `timeout_s` have passed.
        """
        if self._stopping:
            raise ShuttingDown("the service is shutting down; what it accepted is safe", retry_after_s=5)
        before, letters_before = dict(self._written), self._waiting.letterbox.total
        request = _Request(self._waiting.tickets.last, patient, only_sessions, has_sought=patient or only_sessions)
        self._requests.append(request)
        if self.failure is None or not patient:
            self._wake.set()
        try:
            if not await self._timing.wait(request.done, timeout_s):
                raise TimeoutError(f"the flush is not done after {timeout_s} s")
        finally:
            if request in self._requests:
                self._requests.remove(request)
        if request.error is not None:
            raise request.error
        return FlushReport(
            sessions_written=self._written[self._sessions.collection.name] - before[self._sessions.collection.name],
            tasks_written=self._written[self._tasks.collection.name] - before[self._tasks.collection.name],
            waiting=self._sessions.aside_count + self._tasks.aside_count + self._waiting.set_aside.queue.total,
            dead_lettered=self._waiting.letterbox.total - letters_before,
        )

    async def stop(self, *, drain_s: float) -> None:
        """Flush for at most `drain_s` seconds, then let `run` end. What is left stays in the journal.

        A backend that was failing before is tried once more, not waited for. Stopping again changes nothing.
        """
        if self._stopping:
            return
        self._draining = True
        try:
            await self.flush(patient=self.failure is None, timeout_s=drain_s)
        except (TimeoutError, Unavailable) as exc:
            left = self._sessions.total + self._tasks.total + self._waiting.spill.total
            _log.warning("flush.shutdown_incomplete", left=left, reason=type(exc).__name__)
        finally:
            self._stopping = True
            self._wake.set()

    # ------------------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Flush whenever it is due, until `stop`. A flush that failed is due until it succeeds."""
        try:
            while not self._stopping:
                self._wake.clear()
                reason = self._due() or self._unfinished
                if reason is None and self._prepared:
                    await self._timing.wait(self._wake, self._seconds_to_next())
                else:
                    await self._try(reason)
                await asyncio.sleep(0)  # neither may have waited for anything, and others are to have their turn
        finally:
            self._stopping = True
            self._orphans.search.stop()
            self._end_requests(ShuttingDown("the service is shutting down; what it accepted is safe", retry_after_s=5))

    async def _try(self, reason: FlushReason | None) -> None:
        """One attempt at a flush, or without a reason at making the backend ready; after a failure, the pause it calls for."""
        self._unfinished = reason
        self._busy = True
        self._said_to_work = False
        try:
            await self._prepare()
            self._prepared = True
            if reason is not None:
                await self._flush(reason)
        except PersistenceError as exc:
            await self._pause_after(exc)
        except Exception as exc:  # noqa: BLE001  # the supervision point of flushing: nothing may end it
            error = UnclassifiedStorageError(f"unexpected {type(exc).__name__} in the flusher")
            if self._told is not type(error):
                _log.exception("flush.unexpected_error")
            await self._pause_after(error)
        else:
            self._unfinished = None
            self._note_success()
        finally:
            self._busy = False

    def _due(self) -> FlushReason | None:
        if any(not request.only_sessions for request in self._requests):
            return FlushReason.SHUTDOWN if self._draining else FlushReason.REQUEST
        if max(self._sessions.unflushed, self._tasks.unflushed) >= self._policy.max_buffer_size:
            return FlushReason.SIZE
        if self._waiting.spill or (
            self._waiting.room.unflushed and (self._room_wanted or self._waiting.room.is_pressed)
        ):
            return FlushReason.MEMORY
        left = self._seconds_to_next()
        if left is not None and left <= 0:
            return FlushReason.AGE
        return FlushReason.REQUEST if self._requests else None

    def _seconds_to_next(self) -> float | None:
        """Until the next flush is due by age, None when nothing waits."""
        arrivals = [buffer.oldest_arrival_s for buffer in (self._sessions, self._tasks)]
        due_s = self._policy.flush_interval_s - self._timing.monotonic()
        seconds = [at + due_s for at in arrivals if at is not None]
        if (
            self._is_replaying()
        ):  # copies of what is refused may follow; what is old already has time until they are merged
            seconds = [max(left_s, _REPLAYED_S) for left_s in seconds]
        others = (self._orphans.due_in_s, self._waiting.set_aside.due_in_s)
        seconds += [due_in_s for due_in_s in others if due_in_s is not None]
        return min(seconds, default=None)

    async def _flush(self, reason: FlushReason) -> None:
        started = self._timing.monotonic()
        self._room_wanted = False
        is_for_sessions = bool(self._requests) and all(request.only_sessions for request in self._requests)
        is_for_sessions = is_for_sessions and reason is FlushReason.REQUEST
        seeking = [request for request in self._requests if not request.has_sought]
        await self._orphans.seek_parents(asked=reason is FlushReason.SHUTDOWN or bool(seeking))
        for request in seeking:
            request.has_sought = True
        target = self._waiting.tickets.last
        while True:
            await self._flush_up_to(self._sessions, target)
            self._answer_requests(only_sessions=True)
            self._orphans.adopt()
            if self._waiting.spill or not is_for_sessions:
                await self._flush_up_to(self._tasks, target)
                self._orphans.ask_others()
            failure = await self._deal_with_refused()
            self._answer_requests()
            if not self._waiting.spill.has_up_to(target) or (failure and self._waiting.room.is_full_aside):
                break
            await self._waiting.refill.run()
        if failure is not None:
            raise failure
        self.last_flush_us = self._timing.wall_us()
        seconds = self._timing.monotonic() - started
        rows = {name: count - self._counted[name] for name, count in self._written.items()}
        self._counted = dict(self._written)
        self._metrics.flushed(reason.value, seconds, rows)
        if any(rows.values()):
            _log.info("flush", reason=reason.value, ms=round(seconds * 1000), **rows)
        if not self._waiting.set_aside.has_refused:
            self._waiting.letterbox.resume()
        await self._try_set_aside()

    async def _try_set_aside(self) -> None:
        """Give what the database refused too often another chance."""
        due_in_s = self._waiting.set_aside.due_in_s
        if due_in_s is not None and due_in_s <= 0:
            await self._waiting.set_aside.try_again()

    async def _deal_with_refused(self) -> PersistenceError | None:
        """Let them be dead letters, or wait in the journal; or why neither can be now, which holds the others up no more."""
        waiting, failure = self._waiting, None
        if self._orphans.are_to_wait:
            with suppress(Unavailable):  # the journal has no room: they are dead letters then
                await waiting.set_aside.take_over(DeadLetterReason.UNKNOWN_SESSION)
            self._orphans.are_to_wait = False
        try:
            await waiting.letterbox.deliver()
        except PersistenceError as exc:
            failure = exc
        if failure is None or waiting.letterbox.is_stopped or waiting.set_aside.is_urgent:
            try:
                await waiting.set_aside.take_over()
            except PersistenceError as exc:
                failure = failure or exc
        with suppress(Unavailable):  # the journal tells of it, and nothing has failed that was tried before
            await waiting.set_aside.draw_together()
        return failure

    async def _flush_up_to(self, buffer: RecordBuffer[Any], ticket: int) -> None:
        while buffer.has_up_to(ticket):
            await self._flush_chunk(buffer)

    async def _flush_chunk(self, buffer: RecordBuffer[Any]) -> None:
        started = self._timing.monotonic()
        entries = buffer.take(
            max_rows=self._policy.chunk_rows, max_bytes=self._policy.chunk_bytes, newest=self._newest_first
        )
        report = ChunkReport()
        try:
            await self._writer.write(buffer, entries, self._orphans.patience.now_s, report)
        except UnclassifiedStorageError:
            self._newest_first = not self._newest_first  # many that fail at one end don't hide good ones at the other
            raise
        finally:
            self._written[buffer.collection.name] += report.stored
            self._orphans.note_stored(report.stored_parents)
        self._newest_first = False
        self.failure = None
        self._orphans.patience.go_on()
        seconds = self._timing.monotonic() - started
        if report.stored and seconds > 0:
            rate = report.items / seconds
            self.items_per_s = (
                rate if self.items_per_s is None else self.items_per_s + _RATE_WEIGHT * (rate - self.items_per_s)
            )

    def _note_success(self) -> None:
        self.failure = None
        self._orphans.patience.go_on()
        if self._told is not None:
            _log.info("storage.recovered", after_failures=self._backoff.failures)
            self._told = None
        self._backoff.reset()

    async def _pause_after(self, error: PersistenceError) -> None:
        """Tell those who wait for a flush and are not patient, then wait for the back-off, a request, or the stop."""
        if type(error) is not self._told:
            _log.error("storage.failing", error=error.code, number=getattr(error, "number", None), detail=str(error))
            self._told = type(error)
        self.failure = error
        self._orphans.patience.pause()
        self._metrics.flush_failed(error.code)
        self._wake.clear()
        for request in self._requests:
            if not request.patient:
                request.end(_as_unavailable(error))
        self._requests = [request for request in self._requests if request.patient]
        if not self._stopping:
            delay_s = self._backoff.next_delay_s()
            if isinstance(error, (StorageSetupError, UnclassifiedStorageError)):
                delay_s = max(delay_s, _SETUP_PAUSE_S)  # a person must act first
            if self._said_to_work:
                delay_s = min(delay_s, _SAID_TO_WORK_PAUSE_S)
            self._next_attempt_s = self._timing.monotonic() + delay_s
            await self._timing.wait(self._wake, delay_s)

    @property
    def next_attempt_in_s(self) -> float:
        """Seconds until a failing backend is tried again."""
        return max(0.0, self._next_attempt_s - self._timing.monotonic())

    def _answer_requests(self, *, only_sessions: bool = False) -> None:
        """End those that have what they wait for, or of these alone the ones that want `only_sessions`."""
        waiting: list[_Request] = []
        for request in self._requests:
            places = (self._sessions, self._waiting.spill, *(() if request.only_sessions else (self._tasks,)))
            is_early = (only_sessions and not request.only_sessions) or (
                bool(self._tasks.orphans) and not request.has_sought
            )
            if is_early or any(place.has_up_to(request.ticket) for place in places):
                waiting.append(request)
            else:
                request.end()
        self._requests = waiting

    def _end_requests(self, error: Unavailable) -> None:
        for request in self._requests:
            request.end(error)
        self._requests.clear()


def _as_unavailable(error: PersistenceError) -> StorageUnavailable:
    """The error for one who waits: an instance of its own, since each waiter's traceback is added to it."""
    number = getattr(error, "number", None)
    return StorageUnavailable(f"the database can't be written: {error}", number=number)

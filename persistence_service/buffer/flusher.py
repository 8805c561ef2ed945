"""The flusher: writes what the buffers hold to the backend, in chunks, one at a time, for ever.

Peek, write, commit, then release: a chunk leaves the buffer only when the backend has committed it. A chunk that failed stays
at the head and is repeated as it is, which is safe because writing is idempotent, so a commit of unknown outcome needs no
special care. A chunk with a record that can never be stored is halved until that record is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.buffer import AsideReason, Entry, RecordBuffer
from persistence_service.buffer.policy import FlushPolicy, MemoryBounds
from persistence_service.buffer.timing import Timing
from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    QueryTimeout,
    ShuttingDown,
    StorageUnavailable,
    Unavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.observability.metrics import Metrics
from persistence_service.storage.backend import RejectionReason, StorageBackend, WriteResult
from persistence_service.storage.query import COUNT, OneOf

R = TypeVar("R", bound=msgspec.Struct)
_log = structlog.get_logger(__name__)
_PARENTS_AT_ONCE = 1000


class FlushReason(StrEnum):
    """What started a flush."""

    SIZE = "size"
    AGE = "age"
    REQUEST = "request"
    MEMORY = "memory"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What a flush on demand did: records written since it was asked for, and those that wait for a person or a session."""

    sessions_written: int
    tasks_written: int
    waiting: int
    refused: int


@dataclass(eq=False, slots=True)
class _Request:
    """Somebody waits until everything up to `ticket` is written. A patient one waits through failures too."""

    ticket: int
    patient: bool
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: Unavailable | None = None

    def end(self, error: Unavailable | None = None) -> None:
        self.error = error
        self.done.set()


class Flusher:
    """Owns the way from the buffers to the backend. `run` is its one task; everything else only asks of it.

    `prepare` makes the backend ready and costs nothing once it is; it is called before every flush, and at the start.
    """

    def __init__(
        self,
        *,
        sessions: RecordBuffer[Session],
        tasks: RecordBuffer[Task],
        backend: StorageBackend,
        policy: FlushPolicy,
        bounds: MemoryBounds,
        timing: Timing,
        metrics: Metrics,
        last_ticket: Callable[[], int],
        prepare: Callable[[], Awaitable[None]],
        backoff: Backoff | None = None,
    ) -> None:
        self._sessions = sessions
        self._tasks = tasks
        self._backend = backend
        self._policy = policy
        self._bounds = bounds
        self._timing = timing
        self._metrics = metrics
        self._last_ticket = last_ticket
        self._prepare = prepare
        self._backoff = backoff or Backoff()
        self._wake = asyncio.Event()
        self._requests: list[_Request] = []
        self._busy = False
        self._prepared = False
        self._room_wanted = False
        self._draining = False
        self._stopping = False
        self._unfinished: FlushReason | None = None
        self._written = {sessions.collection.name: 0, tasks.collection.name: 0}
        self._counted = dict(self._written)
        self._parents_sought_s = timing.monotonic()
        self._stored_parents: list[str] = []
        self.failure: PersistenceError | None = None
        self.last_flush_us: int | None = None
        self.rows_per_s: float | None = None
        self.on_room: Callable[[], None] = lambda: None

    # ------------------------------------------------------------------------------------------ asked by others

    def notice(self) -> None:
        """Records arrived: look whether a flush is due. While the backend fails, the back-off decides instead."""
        if self.failure is None and not self._busy:
            self._wake.set()

    def make_room(self) -> None:
        """Somebody finds no room in memory: flush what there is."""
        self._room_wanted = True
        self.notice()

    async def flush(self, *, patient: bool = False, timeout_s: float | None = None) -> FlushReport:
        """Write everything that arrived before this call, orphans and refused records excepted.

        With `patient` a failure of the backend is waited out at the pace of the back-off.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost, and the flusher goes on trying.
            ShuttingDown: the flusher has ended.
            TimeoutError: `timeout_s` have passed.
        """
        if self._stopping:
            raise ShuttingDown("the service is shutting down; what it accepted is safe", retry_after_s=5)
        before = dict(self._written)
        request = _Request(self._last_ticket(), patient)
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
            waiting=self._tasks.orphans,
            refused=self._sessions.refused + self._tasks.refused,
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
            left = self._sessions.total + self._tasks.total
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
                    await self._timing.wait(self._wake, self._seconds_to_age_limit())
                else:
                    await self._try(reason)
        finally:
            self._stopping = True
            self._end_requests(ShuttingDown("the service is shutting down; what it accepted is safe", retry_after_s=5))

    async def _try(self, reason: FlushReason | None) -> None:
        """One attempt at a flush, or without a reason at making the backend ready; after a failure, the pause it calls for."""
        self._unfinished = reason
        self._busy = True
        try:
            await self._prepare()
            self._prepared = True
            if reason is not None:
                await self._flush(reason)
        except PersistenceError as exc:
            await self._pause_after(exc)
        except Exception as exc:  # noqa: BLE001  # the supervision point of flushing: nothing may end it
            error = UnclassifiedStorageError(f"unexpected {type(exc).__name__} in the flusher")
            if type(self.failure) is not type(error):
                _log.exception("flush.unexpected_error")
            await self._pause_after(error)
        else:
            self._unfinished = None
            self._note_success()
        finally:
            self._busy = False

    def _due(self) -> FlushReason | None:
        if self._requests:
            return FlushReason.SHUTDOWN if self._draining else FlushReason.REQUEST
        if max(self._sessions.unflushed, self._tasks.unflushed) >= self._policy.max_buffer_size:
            return FlushReason.SIZE
        if (self._room_wanted or self._is_pressed()) and self._sessions.unflushed + self._tasks.unflushed:
            return FlushReason.MEMORY
        left = self._seconds_to_age_limit()
        if left is not None and left <= 0:
            return FlushReason.AGE
        return None

    def _is_pressed(self) -> bool:
        bounds = self._bounds
        records = self._sessions.unflushed + self._tasks.unflushed
        size = self._sessions.unflushed_bytes + self._tasks.unflushed_bytes
        return records >= bounds.pressure * bounds.records or size >= bounds.pressure * bounds.size_bytes

    def _seconds_to_age_limit(self) -> float | None:
        since = [t for buffer in (self._sessions, self._tasks) if (t := buffer.oldest_arrival_s) is not None]
        if self._tasks.orphans:
            since.append(self._parents_sought_s)
        return min(since) + self._policy.flush_interval_s - self._timing.monotonic() if since else None

    async def _flush(self, reason: FlushReason) -> None:
        started = self._timing.monotonic()
        before = sum(self._written.values())
        target = self._last_ticket()
        self._room_wanted = False
        await self._seek_parents(started, reason)
        await self._flush_up_to(self._sessions, target)
        self._tasks.adopt(self._stored_parents)
        self._stored_parents.clear()
        await self._flush_up_to(self._tasks, target)
        self.last_flush_us = self._timing.wall_us()
        seconds = self._timing.monotonic() - started
        rows = {name: count - self._counted[name] for name, count in self._written.items()}
        self._counted = dict(self._written)
        self._metrics.flushed(reason.value, seconds, rows)
        if any(rows.values()):
            _log.info("flush", reason=reason.value, ms=round(seconds * 1000), **rows)
        written = sum(self._written.values()) - before
        if written and seconds > 0:
            self.rows_per_s = written / seconds
        self._answer_requests()

    async def _seek_parents(self, now_s: float, reason: FlushReason) -> None:
        """Look for orphans' sessions that somebody else has stored: when a person asks, and once in a flush interval."""
        asked = reason is FlushReason.SHUTDOWN or any(not request.patient for request in self._requests)
        if not asked and now_s < self._parents_sought_s + self._policy.flush_interval_s:
            return
        self._parents_sought_s = now_s
        sessions = self._sessions.collection
        missing = self._tasks.missing_parents
        for start in range(0, len(missing), _PARENTS_AT_ONCE):
            among = (OneOf(sessions.key, missing[start : start + _PARENTS_AT_ONCE]),)
            try:
                stored = await self._backend.aggregate(
                    sessions, group_by=(sessions.key,), measure=(COUNT,), where=among
                )
            except QueryTimeout:
                _log.warning("flush.parents_not_found_in_time", missing=len(missing))
                return  # orphans hold nobody up
            self._stored_parents.extend(group.keys[0] for group in stored)

    async def _flush_up_to(self, buffer: RecordBuffer[Any], ticket: int) -> None:
        while buffer.has_up_to(ticket):
            await self._flush_chunk(buffer)

    async def _flush_chunk(self, buffer: RecordBuffer[Any]) -> None:
        entries = buffer.take(max_rows=self._policy.max_buffer_size, max_bytes=self._policy.chunk_bytes)
        await self._write(buffer, entries)
        self._note_success()
        self.on_room()

    async def _write(self, buffer: RecordBuffer[R], entries: Sequence[Entry[R]]) -> None:
        """Write one chunk in a transaction; halve it as often as a record in it can't be stored."""
        try:
            result = await self._backend.write(buffer.collection, [entry.record for entry in entries])
        except DataRejected as exc:
            if len(entries) == 1:
                buffer.refuse(entries[0], AsideReason.DATA_REJECTED, _refusal(exc))
                return
            middle = len(entries) // 2
            await self._write(buffer, entries[:middle])
            await self._write(buffer, entries[middle:])
            return
        self._settle(buffer, entries, result)

    def _settle(self, buffer: RecordBuffer[R], entries: Sequence[Entry[R]], result: WriteResult) -> None:
        reasons = {rejection.index: rejection.reason for rejection in result.rejected}
        for index, entry in enumerate(entries):
            match reasons.get(index):
                case None:
                    buffer.settle(entry)
                case RejectionReason.UNKNOWN_PARENT:
                    if not buffer.orphans:
                        self._parents_sought_s = self._timing.monotonic()
                    buffer.set_orphan(entry)
                case RejectionReason.FIXED_FIELD_CHANGED:
                    detail = "a stored task of this id belongs to another session"
                    buffer.refuse(entry, AsideReason.TASK_ID_CONFLICT, detail)
        self._written[buffer.collection.name] += result.stored
        if buffer.collection is self._sessions.collection and self._tasks.orphans:
            self._stored_parents.extend(buffer.collection.key_of(entry.record) for entry in entries)

    def _note_success(self) -> None:
        if self.failure is not None:
            _log.info("storage.recovered", after_failures=self._backoff.failures)
            self.failure = None
        self._backoff.reset()

    async def _pause_after(self, error: PersistenceError) -> None:
        """Tell those who wait for a flush and are not patient, then wait for the back-off, a request, or the stop."""
        if type(error) is not type(self.failure):
            _log.error("storage.failing", error=error.code, number=getattr(error, "number", None), detail=str(error))
        self.failure = error
        self._metrics.flush_failed(error.code)
        self._wake.clear()
        for request in self._requests:
            if not request.patient:
                request.end(_as_unavailable(error))
        self._requests = [request for request in self._requests if request.patient]
        if not self._stopping:
            await self._timing.wait(self._wake, self._backoff.next_delay_s())

    def _answer_requests(self) -> None:
        waiting: list[_Request] = []
        for request in self._requests:
            if self._sessions.has_up_to(request.ticket) or self._tasks.has_up_to(request.ticket):
                waiting.append(request)
            else:
                request.end()
        self._requests = waiting

    def _end_requests(self, error: Unavailable) -> None:
        for request in self._requests:
            request.end(error)
        self._requests.clear()


def _refusal(error: DataRejected) -> str:
    """Our words for it, with what is known of the driver's."""
    number = f"error {error.number}" if error.number is not None else ""
    column = f"column {error.column}" if error.column else ""
    known = ", ".join(filter(None, (number, column)))
    return f"the database refuses it ({known})" if known else "the database refuses it"


def _as_unavailable(error: PersistenceError) -> StorageUnavailable:
    """The error for one who waits: an instance of its own, since each waiter's traceback is added to it."""
    number = getattr(error, "number", None)
    return StorageUnavailable(f"the database can't be written: {error}", number=number)

"""The flusher: writes what the buffers hold to the backend, in chunks, one at a time, for ever.

Peek, write, commit, then release: a chunk leaves the buffer only when the backend has committed it. A chunk that failed stays
at the head and is repeated as it is, which is safe because writing is idempotent, so a commit of unknown outcome needs no
special care. A chunk with a record that can never be stored is halved until that record is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.buffer import AsideReason, Entry, RecordBuffer
from persistence_service.buffer.timing import Timing
from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    StorageSetupError,
    StorageUnavailable,
    Unavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.observability.metrics import Metrics
from persistence_service.storage.backend import RejectionReason, StorageBackend, WriteResult

R = TypeVar("R", bound=msgspec.Struct)
_log = structlog.get_logger(__name__)
_RETRIED = (StorageUnavailable, StorageSetupError, UnclassifiedStorageError)


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


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """When a flush starts, and how large its transactions are."""

    max_buffer_size: int
    flush_interval_s: float
    chunk_bytes: int = 4 * 1024 * 1024
    max_memory_records: int = 50_000
    max_memory_bytes: int = 64 * 1024 * 1024
    memory_pressure: float = 0.8


class Flusher:
    """Owns the way from the buffers to the backend. `run` is its one task; everything else only asks of it."""

    def __init__(
        self,
        *,
        sessions: RecordBuffer[Session],
        tasks: RecordBuffer[Task],
        backend: StorageBackend,
        policy: FlushPolicy,
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
        self._timing = timing
        self._metrics = metrics
        self._last_ticket = last_ticket
        self._prepare = prepare
        self._backoff = backoff or Backoff()
        self._wake = asyncio.Event()
        self._requests: list[tuple[int, asyncio.Future[None]]] = []
        self._busy = False
        self._draining = False
        self._stopping = False
        self._written = {sessions.collection.name: 0, tasks.collection.name: 0}
        self._orphans_tried_s = timing.monotonic()
        self.failure: PersistenceError | None = None
        self.last_flush_us: int | None = None
        self.rows_per_s: float | None = None
        self.on_room: Callable[[], None] = lambda: None

    # ------------------------------------------------------------------------------------------ asked by others

    def notice(self) -> None:
        """Records arrived: look whether a flush is due. While the backend fails, the back-off decides instead."""
        if self.failure is None and not self._busy:
            self._wake.set()

    async def flush(self) -> FlushReport:
        """Write everything that arrived before this call, orphans and refused records excepted.

        Raises:
            StorageUnavailable: the backend is away; nothing is lost, and the flusher goes on trying.
        """
        before = dict(self._written)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests.append((self._last_ticket(), done))
        self._wake.set()
        await done
        return FlushReport(
            sessions_written=self._written[self._sessions.collection.name] - before[self._sessions.collection.name],
            tasks_written=self._written[self._tasks.collection.name] - before[self._tasks.collection.name],
            waiting=self._sessions.orphans + self._tasks.orphans,
            refused=self._sessions.refused + self._tasks.refused,
        )

    async def stop(self, *, drain_s: float) -> None:
        """Flush for at most `drain_s` seconds, then let `run` end. What is left stays in the journal."""
        self._draining = True
        try:
            async with asyncio.timeout(drain_s):
                await self.flush()
        except (TimeoutError, Unavailable) as exc:
            _log.warning(
                "flush.shutdown_incomplete", left=self._sessions.total + self._tasks.total, reason=type(exc).__name__
            )
        self._stopping = True
        self._wake.set()

    # ------------------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Flush whenever it is due, until `stop`. An error that no table foresees is logged, counted, and retried."""
        while not self._stopping:
            self._wake.clear()
            reason = self._due()
            if reason is None:
                await self._timing.wait(self._wake, self._seconds_to_age_limit())
                continue
            self._busy = True
            try:
                await self._prepare()
                await self._flush(reason)
            except _RETRIED as exc:
                await self._pause_after(exc)
            except Exception as exc:  # noqa: BLE001  # the supervision point of flushing: nothing may end it
                _log.exception("flush.unexpected_error")
                await self._pause_after(UnclassifiedStorageError(f"unexpected {type(exc).__name__} in the flusher"))
            finally:
                self._busy = False
        self._answer_requests()

    def _due(self) -> FlushReason | None:
        policy = self._policy
        if self._requests:
            return FlushReason.SHUTDOWN if self._draining else FlushReason.REQUEST
        if max(self._sessions.unflushed, self._tasks.unflushed) >= policy.max_buffer_size:
            return FlushReason.SIZE
        records = self._sessions.total + self._tasks.total
        size = self._sessions.size_bytes + self._tasks.size_bytes
        pressed = records >= policy.memory_pressure * policy.max_memory_records
        if (pressed or size >= policy.memory_pressure * policy.max_memory_bytes) and self._unflushed():
            return FlushReason.MEMORY
        left = self._seconds_to_age_limit()
        if left is not None and left <= 0:
            return FlushReason.AGE
        return None

    def _unflushed(self) -> int:
        return self._sessions.unflushed + self._tasks.unflushed

    def _seconds_to_age_limit(self) -> float | None:
        oldest = min((t for b in (self._sessions, self._tasks) if (t := b.oldest_arrival_s) is not None), default=None)
        if oldest is None and self._tasks.orphans:
            oldest = self._orphans_tried_s
        return None if oldest is None else oldest + self._policy.flush_interval_s - self._timing.monotonic()

    async def _flush(self, reason: FlushReason) -> None:
        started = self._timing.monotonic()
        target = self._last_ticket()
        if reason is not FlushReason.SIZE:  # another instance may have stored their sessions meanwhile
            self._tasks.adopt()
            self._orphans_tried_s = started
        written = dict(self._written)
        while True:
            await self._flush_chunks(self._sessions, target)
            if not self._tasks.has_up_to(target):
                break
            await self._flush_chunk(self._tasks, target)
        self.last_flush_us = self._timing.wall_us()
        seconds = self._timing.monotonic() - started
        rows = {name: count - written[name] for name, count in self._written.items()}
        self._metrics.flushed(reason.value, seconds, rows)
        if total := sum(rows.values()):
            _log.info("flush", reason=reason.value, ms=round(seconds * 1000), **rows)
            if seconds > 0:
                self.rows_per_s = total / seconds
        self._answer_requests()

    async def _flush_chunks(self, buffer: RecordBuffer[Any], target: int) -> None:
        while buffer.has_up_to(target):
            await self._flush_chunk(buffer, target)

    async def _flush_chunk(self, buffer: RecordBuffer[R], target: int) -> None:
        entries = buffer.take(max_rows=self._policy.max_buffer_size, max_bytes=self._policy.chunk_bytes, up_to=target)
        await self._write(buffer, entries)
        if self.failure is not None:
            _log.info("storage.recovered", after_failures=self._backoff.failures)
            self.failure = None
        self._backoff.reset()
        self.on_room()

    async def _write(self, buffer: RecordBuffer[R], entries: Sequence[Entry[R]]) -> None:
        """Write one chunk in a transaction; halve it as often as a record in it can't be stored."""
        try:
            result = await self._backend.write(buffer.collection, [entry.record for entry in entries])
        except DataRejected as exc:
            if len(entries) == 1:
                self._refuse(buffer, entries[0], exc)
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
                    buffer.set_orphan(entry)
                case RejectionReason.FIXED_FIELD_CHANGED:
                    detail = "a stored task of this id belongs to another session"
                    buffer.refuse(entry, AsideReason.TASK_ID_CONFLICT, detail)
                    self._metrics.refused(buffer.collection.name, AsideReason.TASK_ID_CONFLICT)
                    _log.warning("flush.record_refused", collection=buffer.collection.name, reason="task_id_conflict")
        self._written[buffer.collection.name] += result.stored
        if buffer.collection is self._sessions.collection:
            self._tasks.adopt([buffer.collection.key_of(entry.record) for entry in entries])

    def _refuse(self, buffer: RecordBuffer[R], entry: Entry[R], error: DataRejected) -> None:
        where = f" in column {error.column}" if error.column else ""
        detail = f"the database refuses it (error {error.number}{where})"
        buffer.refuse(entry, AsideReason.DATA_REJECTED, detail)
        self._metrics.refused(buffer.collection.name, AsideReason.DATA_REJECTED)
        _log.warning(
            "flush.record_refused", collection=buffer.collection.name, number=error.number, column=error.column
        )

    async def _pause_after(self, error: PersistenceError) -> None:
        """Tell those who wait for a flush, then wait for the back-off, a request, or the stop."""
        if type(error) is not type(self.failure):
            _log.error("storage.failing", error=error.code, number=getattr(error, "number", None), detail=str(error))
        self.failure = error
        self._metrics.flush_failed(error.code)
        self._wake.clear()
        for _, waiter in self._requests:
            if not waiter.done():
                waiter.set_exception(_as_unavailable(error))
        self._requests.clear()
        if not self._stopping:
            await self._timing.wait(self._wake, self._backoff.next_delay_s())
            self._wake.clear()

    def _answer_requests(self) -> None:
        open_requests: list[tuple[int, asyncio.Future[None]]] = []
        for ticket, waiter in self._requests:
            if self._sessions.has_up_to(ticket) or self._tasks.has_up_to(ticket):
                open_requests.append((ticket, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._requests = open_requests


def _as_unavailable(error: PersistenceError) -> StorageUnavailable:
    if isinstance(error, StorageUnavailable):
        return error
    return StorageUnavailable(f"the database can't be written: {error}")

"""Threads that own connections and do one job after the other, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import DBAPIError

from persistence_service.errors import (
    BackendClosed,
    DataRejected,
    PersistenceError,
    QueryTimeout,
    SchemaTooNew,
    StorageSetupError,
)
from persistence_service.storage.sqlite.connection import SqliteConnection
from persistence_service.storage.sqlite.errors import is_generic, translated

T = TypeVar("T")

Connect = Callable[[Callable[[], bool]], SqliteConnection]


class _Job(Generic[T]):
    """Work to be done on a connection, and the future that awaits it. Abandoned when nobody awaits it any more."""

    def __init__(self, work: Callable[[SqliteConnection], T], limit_s: float | None, *, essential: bool) -> None:
        self.work = work
        self.limit_s = limit_s
        self.essential = essential
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.deadline = float("inf")

    def start(self) -> None:
        if self.limit_s is not None:
            self.deadline = time.monotonic() + self.limit_s

    def must_stop(self) -> bool:
        return not self.essential and (self.future.done() or time.monotonic() > self.deadline)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Hand the outcome to the event loop; called by the thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _settle(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401  # a T, or None beside an error
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class ConnectionThreads:
    """`count` threads, each with a connection of its own, that share one queue of jobs in the order of their arrival."""

    def __init__(self, name: str, connect: Connect, count: int) -> None:
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._threads = [_ConnectionThread(f"{name}-{number}", self._queue, connect) for number in range(count)]
        self._limited: set[asyncio.Future[Any]] = set()
        self._started = False
        self._stopped = False

    def start(self) -> None:
        """Start the threads, once. Each connects when it gets its first job."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    async def run(self, work: Callable[[SqliteConnection], T], *, limit_s: float | None = None) -> T:
        """What `work` gives, done by one of the threads.

        Cancelling, or running for longer than `limit_s`, ends the statement that is running; a cancelled job that has not
        begun is left out.

        Raises:
            PersistenceError: what the database said, translated; BackendClosed after `stop`.
        """
        future = self._submit(work, limit_s, essential=False)
        if limit_s is not None:
            self._limited.add(future)
            future.add_done_callback(self._limited.discard)
        return await future

    def submit_essential(self, work: Callable[[SqliteConnection], T]) -> asyncio.Future[T]:
        """Have `work` done to its end, whoever still waits for it: cancelling the future changes nothing.

        Raises:
            BackendClosed: after `stop`.
        """
        return self._submit(work, None, essential=True)

    async def stop(self) -> None:
        """End the jobs that have a limit with BackendClosed, do the others to their end, then close the connections."""
        if not self._stopped:
            self._stopped = True
            for future in list(self._limited):
                if not future.done():
                    future.set_exception(BackendClosed("the backend was closed"))
            for _ in self._threads:
                self._queue.put(None)
        if self._started:
            for thread in self._threads:
                await asyncio.to_thread(thread.join)

    def _submit(
        self, work: Callable[[SqliteConnection], T], limit_s: float | None, *, essential: bool
    ) -> asyncio.Future[T]:
        if self._stopped or not self._started:
            raise BackendClosed("the backend is not open")
        job = _Job(work, limit_s, essential=essential)
        self._queue.put(job)
        return job.future


class _ConnectionThread(threading.Thread):
    """Takes jobs until it gets None. A connection that may be broken is replaced before the next job."""

    def __init__(self, name: str, queue: SimpleQueue[_Job[Any] | None], connect: Connect) -> None:
        super().__init__(name=name, daemon=True)
        self._queue = queue
        self._connect = connect
        self._connection: SqliteConnection | None = None
        self._job: _Job[Any] | None = None

    def run(self) -> None:
        """The thread's life."""
        while (job := self._queue.get()) is not None:
            if job.essential or not job.future.done():
                self._do(job)
        self._disconnect()

    def _do(self, job: _Job[Any]) -> None:
        result: Any = None
        error: Exception | None = None
        self._job = job
        job.start()
        try:
            if self._connection is None:
                self._connection = self._connect(self._must_stop)
            result = job.work(self._connection)
        except Exception as exc:  # noqa: BLE001  # every outcome goes to the task that waits for it
            error = self._translated(exc)
            if self._may_be_broken(error, job):
                self._disconnect()
        self._job = None
        job.settle(result, error)

    def _must_stop(self) -> bool:
        return self._job is not None and self._job.must_stop()

    def _translated(self, exc: Exception) -> Exception:
        error = translated(exc)
        if error is None or error is exc:
            return exc
        if is_generic(error):
            error = self._explained(error)
        error.__cause__ = exc
        return error

    def _explained(self, error: PersistenceError) -> PersistenceError:
        """A missing table has no number of its own: what is wrong with the schema, or else `error`."""
        try:
            problem = self._connection.schema_problem() if self._connection is not None else ""
        except SchemaTooNew as too_new:
            return too_new
        except (sqlite3.Error, DBAPIError):
            problem = ""
        return StorageSetupError(problem, number=sqlite3.SQLITE_ERROR) if problem else error

    def _may_be_broken(self, error: Exception, job: _Job[Any]) -> bool:
        if self._connection is None or isinstance(error, (DataRejected, QueryTimeout)):
            return False
        # Within a transaction it is kept for the roll-back, which is essential.
        return isinstance(error, PersistenceError) and (job.essential or not self._connection.driver.in_transaction)

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

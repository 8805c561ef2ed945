"""Threads that own connections and do one job after the other, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
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
    StorageUnavailable,
)
from persistence_service.storage.sqlite.connection import SqliteConnection
from persistence_service.storage.sqlite.errors import concerns_all, is_generic, translated
from persistence_service.storage.sqlite.file import DatabaseFile

T = TypeVar("T")

Connect = Callable[[], SqliteConnection]

_INTERRUPT_AGAIN_S = (
    0.02  # an interrupt between two statements of a job is lost, so it is repeated until the job has ended
)


class _Job(Generic[T]):
    """Work to be done on a connection, and the future of who awaits it.

    Work that nobody awaits any more is interrupted, or left out if it has not begun; essential work is done all the same.
    """

    def __init__(self, work: Callable[[SqliteConnection], T], *, essential: bool) -> None:
        self.work = work
        self.essential = essential
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.thread: _ConnectionThread | None = None
        self.ended = False
        if not essential:
            self.future.add_done_callback(lambda _: self._stop())

    def give_up(self, error: PersistenceError) -> None:
        """Tell who waits that it ends with `error`, now."""
        if not self.future.done():
            self.future.set_exception(error)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Hand the outcome to the event loop; called by the thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401  # a T, or None beside an error
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def _stop(self) -> None:
        if self.ended:
            return
        if self.thread is not None:
            self.thread.interrupt(self)
        self.loop.call_later(_INTERRUPT_AGAIN_S, self._stop)


class ConnectionThreads:
    """`count` threads, each with a connection of its own, that share one queue of jobs in the order of their arrival."""

    def __init__(self, name: str, connect: Connect, count: int, file: DatabaseFile) -> None:
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._threads = [_ConnectionThread(f"{name}-{number}", self._queue, connect, file) for number in range(count)]
        self._limited: set[_Job[Any]] = set()
        self._started = False
        self._stopped = False

    def start(self) -> None:
        """Start the threads, once. Each connects when it gets its first job."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    async def run(self, work: Callable[[SqliteConnection], T]) -> T:
        """What `work` gives, done by one of the threads. Cancelling ends the statement that is running.

        Raises:
            PersistenceError: what the database said, translated; BackendClosed after `stop`.
        """
        return await self._submit(work, essential=False).future

    async def run_limited(self, work: Callable[[SqliteConnection], T], limit_s: float) -> T:
        """The same for work that only reads: it ends after `limit_s`, waiting for a thread included, and at `stop`.

        Raises:
            QueryTimeout: it ran into its limit.
            PersistenceError: what the database said, translated; BackendClosed after `stop`.
        """
        job = self._submit(work, essential=False)
        self._limited.add(job)
        late = QueryTimeout(f"the query took more than {limit_s:g} s and was ended; narrow it")
        timer = job.loop.call_later(limit_s, job.give_up, late)
        try:
            return await job.future
        finally:
            timer.cancel()
            self._limited.discard(job)

    def submit_essential(self, work: Callable[[SqliteConnection], T]) -> asyncio.Future[T]:
        """Have `work` done to its end, whoever still waits for it: cancelling the future changes nothing.

        Raises:
            BackendClosed: after `stop`.
        """
        future = self._submit(work, essential=True).future
        future.add_done_callback(_retrieve)
        return future

    async def stop(self) -> None:
        """End limited jobs with BackendClosed, do the others to their end, then close the connections."""
        if not self._stopped:
            self._stopped = True
            for job in list(self._limited):
                job.give_up(BackendClosed("the backend was closed"))
            for _ in self._threads:
                self._queue.put(None)
        if self._started:
            for thread in self._threads:
                await asyncio.to_thread(thread.join)

    def _submit(self, work: Callable[[SqliteConnection], T], *, essential: bool) -> _Job[T]:
        if self._stopped or not self._started:
            raise BackendClosed("the backend is not open")
        job = _Job(work, essential=essential)
        self._queue.put(job)
        return job


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Who waited may have gone: then asyncio would log the error as one that nobody saw."""
    if not future.cancelled():
        future.exception()


class _ConnectionThread(threading.Thread):
    """Takes jobs until it gets None. A connection that may be broken is replaced before the next job.

    One that belongs to an old generation is closed at once by whoever renewed it, or here when its job has ended.
    """

    def __init__(self, name: str, queue: SimpleQueue[_Job[Any] | None], connect: Connect, file: DatabaseFile) -> None:
        super().__init__(name=name, daemon=True)
        self._queue = queue
        self._connect = connect
        self._file = file
        self._at_work = threading.Lock()
        file.on_renewal(self._close_idle)
        self._connection: SqliteConnection | None = None
        self._job: _Job[Any] | None = None
        self._job_lock = threading.Lock()

    def run(self) -> None:
        """The thread's life."""
        while (job := self._queue.get()) is not None:
            if job.essential or not job.future.done():
                self._serve(job)
            else:
                job.ended = True
        with self._at_work:
            self._disconnect()

    def interrupt(self, job: _Job[Any]) -> None:
        """End the statement that runs for `job`, never one of the next job's."""
        with self._job_lock:
            if self._job is job and self._connection is not None:
                self._connection.interrupt()

    def _serve(self, job: _Job[Any]) -> None:
        with self._at_work:
            result, error = self._do(job)
        self._close_idle()  # it may have become old when the work was just done
        job.settle(result, error)

    def _do(self, job: _Job[T]) -> tuple[T | None, Exception | None]:
        result: T | None = None
        error: Exception | None = None
        generation = self._file.generation
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._take(job)
            result = job.work(self._connection)
        except Exception as exc:  # noqa: BLE001  # every outcome goes to the task that waits for it
            error = exc
        self._take(None)
        job.ended = True
        if error is not None:
            error = self._translated(error)
            connected = self._connection is not None
            if isinstance(error, PersistenceError) and concerns_all(error, connected=connected):
                if self._connection is not None:
                    generation = self._connection.generation
                self._disconnect()
                self._file.renew(generation)
            elif self._may_be_broken(error, job):
                self._disconnect()
        return result, error

    def _take(self, job: _Job[Any] | None) -> None:
        with self._job_lock:
            self._job = job
        if job is not None:
            job.thread = self

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
        except (SchemaTooNew, StorageSetupError) as exc:
            return exc
        except (sqlite3.Error, DBAPIError, StorageUnavailable):
            problem = ""
        return StorageSetupError(problem, number=sqlite3.SQLITE_ERROR) if problem else error

    def _may_be_broken(self, error: Exception, job: _Job[Any]) -> bool:
        if self._connection is None or isinstance(error, (DataRejected, QueryTimeout)):
            return False
        # Within a transaction it is kept for the roll-back, which is essential.
        return isinstance(error, PersistenceError) and (job.essential or not self._connection.driver.in_transaction)

    def _close_idle(self) -> None:
        """Close a connection of an old generation, if no job has it."""
        if self._at_work.acquire(blocking=False):
            try:
                if self._connection is not None and self._connection.generation != self._file.generation:
                    self._disconnect()
            finally:
                self._at_work.release()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

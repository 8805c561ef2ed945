"""The connections to the primary: a few, shared by all callers, none used again after a doubt.

A pool of our own: aiomysql's wakes no waiter when a connection comes back closed or in a transaction, and connects while it
holds the lock that everyone needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar

from persistence_service.errors import (
    BackendClosed,
    PersistenceError,
    QueryTimeout,
    StorageUnavailable,
    TransactionConflict,
)
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.connector import Connector
from persistence_service.storage.mysql.errors import READ_ONLY
from persistence_service.storage.mysql.idle import IdleConnections
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.permits import Permits
from persistence_service.storage.mysql.upkeep import Upkeep
from persistence_service.storage.mysql.watch import PrimaryWatch

T = TypeVar("T")

_LAST_COMMITS_S = 5.0


class ConnectionPool:
    """At most `pool_size` connections. Constructed without I/O; for one event loop.

    Who has a permit takes an idle connection, or connects if there is none: so there are never more than permits, and no
    lock is held while connecting.
    """

    def __init__(self, options: MysqlOptions) -> None:
        self._options = options
        self._permits = Permits(options.pool_size)
        self._idle = IdleConnections(self._is_fit)
        self._leases: set[_Lease] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._watch = PrimaryWatch(options, self._follow) if len(options.addresses) > 1 else None
        self._connector = Connector(options, self._target)
        self._upkeep = Upkeep(
            options,
            self._idle,
            self._permits,
            connect=self._connector.connect,
            size=lambda: len(self._idle) + len(self._leases),
        )
        self._is_open = False
        self._renewed_at = 0.0  # nothing older is used again

    def on_available(self, notify: Callable[[], None]) -> None:
        """Call `notify`, from the event loop, whenever the server lets us in again after it did not."""
        self._connector.on_available(notify)

    async def open(self) -> None:
        """Connect once, so that a wrong password or a server that is away is told now; may be called again after a failure."""
        self._is_open = True
        try:
            if self._watch is not None:
                await self._watch.open()
            self._idle.put(await self._connector.connect())
        except BaseException:
            self._is_open = False
            if self._watch is not None:
                await self._watch.close()
            raise
        self._upkeep.start()

    async def close(self) -> None:
        """End what runs but for the ends of transactions, for which it waits, not for long; then let go of every connection.

        The outcome of a commit that has no answer by then is unknown.
        """
        if not self._is_open:
            return
        self._is_open = False
        await self._upkeep.stop()
        if self._watch is not None:
            await self._watch.close()
        self._abandon(lease for lease in self._leases if not lease.is_ending)
        self._connector.retarget()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_COMMITS_S):
                await self._all_ended()
        self._abandon(self._leases)
        await self._all_ended()
        while (connection := self._idle.take_oldest()) is not None:
            await connection.close()

    @property
    def primary(self) -> Address | None:
        """Where connections go; None while no host is known to be the primary."""
        return self._options.addresses[0] if self._watch is None else self._watch.primary

    async def read(self, work: Callable[[MysqlConnection], Awaitable[T]]) -> T:
        """`work` on a connection in autocommit; once more on a fresh one if an idle one turns out to be lost."""
        async with self._lease() as lease:
            try:
                return await work(lease.connection)
            except StorageUnavailable:
                if not lease.lay_idle_and_was_lost:
                    raise
            await self._connect_for(lease)
            return await work(lease.connection)

    def transaction(self) -> AbstractAsyncContextManager[MysqlConnection]:
        """BEGIN is done. COMMIT at the block's end, even if that is cancelled; ROLLBACK after an exception.

        A statement that was given up (a time-out, a cancellation) may hold its locks for a while: the server is asked to end it
        if a connection is idle then, and otherwise ends it by itself when it has waited for a lock for long enough.

        Raises:
            StorageUnavailable: also for a COMMIT that was lost: its outcome is unknown.
        """
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[MysqlConnection]:
        async with self._lease() as lease:
            try:
                await lease.connection.begin()
            except StorageUnavailable:
                if not lease.lay_idle_and_was_lost:
                    raise
                await self._connect_for(lease)
                await lease.connection.begin()
            try:
                yield lease.connection
            except BaseException:
                if lease.connection.is_usable:
                    with suppress(PersistenceError):
                        await self._end(lease, lease.connection.roll_back())
                raise
            await self._end(lease, lease.connection.commit())

    async def _end(self, lease: _Lease, end: Coroutine[Any, Any, None]) -> None:
        """End the transaction and put the connection back, also if the caller is cancelled meanwhile."""

        async def end_and_put_back() -> None:
            try:
                await end
            finally:
                self._put_back(lease)

        task = asyncio.create_task(end_and_put_back())
        self._leave_to(task, lease)
        await asyncio.shield(task)

    def _leave_to(self, task: asyncio.Task[None], lease: _Lease) -> None:
        lease.is_ending = True
        self._ends.add(task)
        task.add_done_callback(self._ended)

    async def _all_ended(self) -> None:
        while self._ends:
            await asyncio.wait(self._ends)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ends.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not ask for it

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[_Lease]:
        self._check_open()
        await self._wait_for_permit()
        lease = _Lease()
        self._leases.add(lease)
        try:
            lease.held = self._idle.take()
            lease.lay_idle = lease.held is not None
            if lease.held is None:
                await self._connect_for(lease)
            yield lease
        except StorageUnavailable as exc:
            if exc.number in READ_ONLY:
                self._renew()
            if self._watch is not None and not isinstance(exc, QueryTimeout | TransactionConflict):
                self._watch.doubt()
            raise
        finally:
            if not lease.is_ending:
                self._put_back(lease)

    async def _wait_for_permit(self) -> None:
        limit_s = self._options.acquire_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._permits.acquire()
        except TimeoutError as exc:
            raise StorageUnavailable(
                f"all {self._options.pool_size} connections to the database (database.pool_size) were in use for "
                f"{limit_s:g} s (database.acquire_timeout)"
            ) from exc

    async def _connect_for(self, lease: _Lease) -> None:
        self._check_open()
        lease.held, lease.lay_idle = None, False
        lease.held = await self._connector.connect()

    def _put_back(self, lease: _Lease) -> None:
        connection = lease.held
        if connection is not None and connection.left_running and self._is_of_primary(connection):
            lease.held = self._idle.take()
            if lease.held is not None:
                self._leave_to(asyncio.create_task(self._kill(lease, connection)), lease)
                return
        self._leases.discard(lease)
        if connection is not None:
            self._idle.put(connection)
        self._permits.release()

    async def _kill(self, lease: _Lease, given_up: MysqlConnection) -> None:
        """Free the locks of a statement that was given up, over a connection that lay idle, if there is one."""
        try:
            await lease.connection.kill_statement_of(given_up)
        finally:
            self._put_back(lease)

    def _is_fit(self, connection: MysqlConnection) -> bool:
        return self._is_open and connection.is_clean and self._is_of_primary(connection)

    def _is_of_primary(self, connection: MysqlConnection) -> bool:
        return connection.address == self.primary and connection.opened_at >= self._renewed_at

    def _renew(self) -> None:
        """What an address leads to may have changed (a name, a virtual address, a proxy): only new connections show it."""
        self._renewed_at = time.monotonic()
        self._idle.drop()

    def _target(self) -> Address:
        self._check_open()
        if self._watch is None:
            return self._options.addresses[0]
        if self._watch.primary is None:
            raise self._watch.trouble
        return self._watch.primary

    def _follow(self) -> None:
        """The primary is another: nothing of the former one is used any more, what waits for its answer included."""
        self._abandon(lease for lease in self._leases if lease.held is not None and lease.held.address != self.primary)
        self._idle.drop()
        self._connector.retarget()
        self._upkeep.call()

    def _abandon(self, leases: Iterable[_Lease]) -> None:
        for lease in leases:
            if lease.held is not None:
                lease.held.abandon()

    def _check_open(self) -> None:
        if not self._is_open:
            raise BackendClosed("the connections to the database are closed")


class _Lease:
    """The use of a permit, and of the connection had with it."""

    def __init__(self) -> None:
        self.held: MysqlConnection | None = None
        self.lay_idle = False
        self.is_ending = False  # somebody else puts it back

    @property
    def connection(self) -> MysqlConnection:
        if self.held is None:
            raise StorageUnavailable("there is no connection to the database")
        return self.held

    @property
    def lay_idle_and_was_lost(self) -> bool:
        return self.lay_idle and self.connection.was_lost

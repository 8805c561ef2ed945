"""The connections to the primary: a few, shared by all callers, none used again after a doubt.

A pool of our own: aiomysql's wakes no waiter when a connection comes back closed or in a transaction, and connects while it
holds the lock that everyone needs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import structlog

from persistence_service.errors import BackendClosed, PersistenceError, StorageUnavailable
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.facts import ServerFacts
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.permits import Permits

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class ConnectionPool:
    """At most `pool_size` connections. Constructed without I/O; for one event loop."""

    def __init__(self, options: MysqlOptions) -> None:
        self._options = options
        self._permits = Permits(options.pool_size)
        self._idle: deque[MysqlConnection] = deque()  # the one used last is taken first
        self._in_use: set[MysqlConnection] = set()
        self._known: dict[Address, ServerFacts] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._primary: Address | None = None
        self._is_open = False

    async def open(self) -> None:
        """Connect once, so that a wrong password or a server that is away is told now; may be called again after a failure."""
        self._primary = self._options.addresses[0]
        connection = await self._connect()
        self._idle.append(connection)
        self._is_open = True

    async def close(self) -> None:
        """End what is running, and let go of every connection."""
        self._is_open = False
        for connection in self._in_use:
            connection.abandon()
        while self._finishing:
            await asyncio.wait(self._finishing)
        while self._idle:
            await self._idle.popleft().close()

    @property
    def primary(self) -> Address | None:
        """Where connections go; None while no host is known to be the primary."""
        return self._primary

    async def read(self, work: Callable[[MysqlConnection], Awaitable[T]]) -> T:
        """`work` on a connection in autocommit; once more on a fresh one if an idle one turns out to be lost."""
        async with self._connection() as lease:
            try:
                return await work(lease.connection)
            except StorageUnavailable:
                if not (lease.connection.was_lost and lease.was_idle):
                    raise
            await self._renew(lease)
            return await work(lease.connection)

    def transaction(self) -> AbstractAsyncContextManager[MysqlConnection]:
        """BEGIN is done. COMMIT at the block's end, even if that is cancelled; ROLLBACK after an exception.

        Raises:
            StorageUnavailable: also for a COMMIT that was lost: its outcome is unknown.
        """
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[MysqlConnection]:
        async with self._connection() as lease:
            try:
                await lease.connection.begin()
            except StorageUnavailable:
                if not (lease.connection.was_lost and lease.was_idle):
                    raise
                await self._renew(lease)
                await lease.connection.begin()
            try:
                yield lease.connection
            except BaseException:
                await self._finish(lease, lease.connection.roll_back, quietly=True)
                raise
            await self._finish(lease, lease.connection.commit)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Lease]:
        if not self._is_open:
            raise BackendClosed("the database's connections are closed")
        try:
            async with asyncio.timeout(self._options.acquire_timeout_s):
                await self._permits.acquire()
        except TimeoutError as exc:
            raise StorageUnavailable(
                f"all {self._options.pool_size} connections were in use for {self._options.acquire_timeout_s:g} s "
                "(database.pool_size, database.acquire_timeout)"
            ) from exc
        lease = _Lease()
        try:
            self._take_idle(lease)
            if not lease.was_idle:
                await self._renew(lease)
            yield lease
        finally:
            if not lease.is_finishing:
                self._put_back(lease)

    def _take_idle(self, lease: _Lease) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                lease.hold(connection)
                self._in_use.add(connection)
                return
            connection.abandon()

    async def _renew(self, lease: _Lease) -> None:
        """Have a fresh connection in place of what the lease holds."""
        self._in_use.discard(lease.held) if lease.held else None
        connection = await self._connect()
        lease.hold(connection, fresh=True)
        self._in_use.add(connection)

    def _put_back(self, lease: _Lease) -> None:
        connection = lease.held
        if connection is not None:
            self._in_use.discard(connection)
            if connection.is_usable and not connection.in_transaction and self._is_open:
                self._idle.append(connection)
            else:
                connection.abandon()
        self._permits.release()

    async def _connect(self) -> MysqlConnection:
        address = self._primary
        if address is None:
            raise StorageUnavailable("no host of database.host is the primary now")
        connection = await MysqlConnection.open(self._options, address, self._known.get(address))
        self._known[address] = connection.facts
        return connection

    async def _finish(
        self, lease: _Lease, end: Callable[[], Coroutine[Any, Any, None]], *, quietly: bool = False
    ) -> None:
        """End the transaction and put the connection back, even if the caller is cancelled meanwhile."""

        async def finish() -> None:
            try:
                await end()
            finally:
                self._put_back(lease)

        if quietly and not lease.connection.is_usable:
            return
        lease.is_finishing = True
        task = asyncio.create_task(finish())
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        try:
            await asyncio.shield(task)
        except PersistenceError:
            if not quietly:
                raise


class _Lease:
    """The use of one permit: a connection at a time, and whether somebody else puts it back."""

    def __init__(self) -> None:
        self.held: MysqlConnection | None = None
        self.was_idle = False
        self.is_finishing = False
        self.taken_at = time.monotonic()

    @property
    def connection(self) -> MysqlConnection:
        if self.held is None:
            raise StorageUnavailable("the connection to the database is closed")
        return self.held

    def hold(self, connection: MysqlConnection, *, fresh: bool = False) -> None:
        self.held = connection
        self.was_idle = not fresh

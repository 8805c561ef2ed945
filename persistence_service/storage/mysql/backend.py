"""The backend for MySQL and MariaDB: one server, or a group of which one is the primary."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import msgspec

from persistence_service.errors import BackendClosed, PersistenceError, StorageUnavailable
from persistence_service.storage.backend import BackendHealth, Reader, StorageBackend, Transaction, WriteResult
from persistence_service.storage.collections import ALL_COLLECTIONS, Collection
from persistence_service.storage.mysql import migration
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.diagnosis import diagnose
from persistence_service.storage.mysql.health import HealthCheck, schema_problem, schema_versions
from persistence_service.storage.mysql.name_locks import lock_names
from persistence_service.storage.mysql.operations import Operations
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.pool import ConnectionPool
from persistence_service.storage.mysql.queries import Queries
from persistence_service.storage.mysql.schema import MysqlSchema
from persistence_service.storage.mysql.sizes import sizes_of
from persistence_service.storage.powers import (
    AvailabilityNotifier,
    Diagnosable,
    Finding,
    MigrationPlanner,
    SizeReporter,
    Sizes,
)
from persistence_service.storage.query import Condition, Group, Measurement, Query

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

Work = Callable[[MysqlConnection], Awaitable[T]]

_GIVE_UP_AFTER_LIMIT_S = 5  # the server ends a query at its limit; if it does not say so, we do without it
_WRITES_AT_ONCE = 2  # while the server works on one, the next is being made; a third adds next to nothing
_NOT_OPEN = "the backend is not open"


class _Reading(Reader):
    """Reads that run somewhere: on any connection, or on that of a transaction."""

    _queries: Queries
    _lock = ""

    @abstractmethod
    async def _read(self, work: Work[T]) -> T:
        """What `work` gives where these reads run."""

    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        """See `Reader.read`."""
        return await self._read(lambda connection: self._queries.read(connection, collection, keys, self._lock))

    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        """See `Reader.select`."""
        return await self._read(lambda connection: self._queries.select(connection, collection, fields, query))

    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        """See `Reader.count`."""
        return await self._read(lambda connection: self._queries.count(connection, collection, where, at_most))

    async def aggregate(
        self,
        collection: Collection[R],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        """See `Reader.aggregate`."""
        return await self._read(
            lambda connection: self._queries.aggregate(connection, collection, group_by, measure, where)
        )


class MysqlBackend(_Reading, StorageBackend, SizeReporter, AvailabilityNotifier, MigrationPlanner, Diagnosable):
    """Collections in a database of a MySQL or MariaDB server, which must exist; `migrate` makes its tables.

    Several instances may share it. A query that takes longer than `query_timeout_s` is QueryTimeout; a transaction that
    was undone in favour of another is TransactionConflict.
    """

    name = "mysql"

    def __init__(self, options: MysqlOptions, collections: Sequence[Collection[Any]] = ALL_COLLECTIONS) -> None:
        self._options = options
        self.parallel_writes = max(1, min(_WRITES_AT_ONCE, options.pool_size // 2))
        schema = MysqlSchema(collections)
        self._collections = schema.collections
        self._pool = ConnectionPool(options)
        self._queries = Queries(schema, options.query_timeout_s + _GIVE_UP_AFTER_LIMIT_S)
        self._operations = Operations(schema, self._queries)
        self._health = HealthCheck(self._pool)
        self._open = False
        self._ended = False

    async def open(self) -> None:
        """See `StorageBackend.open`."""
        if self._open or self._ended:
            raise BackendClosed("the backend was opened before")
        await self._pool.open()
        try:
            await self._pool.read(schema_problem)  # one that is too old is no obstacle, one that is too new is
        except BaseException:  # a cancellation too: it is tried again
            await self._pool.close()
            raise
        self._open = True

    async def migrate(self) -> None:
        """See `StorageBackend.migrate`."""
        await migration.migrate(self._options, self._primary())

    async def schema_version(self) -> str:
        """See `MigrationPlanner.schema_version`."""
        return ", ".join(await self._read(schema_versions))

    async def schema_problem(self) -> str:
        """See `MigrationPlanner.schema_problem`."""
        return await self._read(schema_problem)

    async def pending_sql(self) -> str:
        """See `MigrationPlanner.pending_sql`."""
        return await migration.plan(self._options, self._primary())

    async def close(self) -> None:
        """See `StorageBackend.close`: what runs is ended with BackendClosed, but for commits."""
        was_open, self._open, self._ended = self._open, False, True
        self._health.stop()
        if was_open:
            await self._pool.close()

    async def health_check(self) -> BackendHealth:
        """See `StorageBackend.health_check`: asks whether the server takes writes, and the schema's version."""
        return await self._health.check() if self._open else self._health.told(_NOT_OPEN)

    async def diagnose(self) -> Sequence[Finding]:
        """See `Diagnosable.diagnose`."""
        return await diagnose(self._options)

    async def sizes(self) -> Sizes:
        """See `SizeReporter.sizes`: what the server has noted of its tables; rows are estimates."""
        return await self._read(lambda connection: sizes_of(connection, self._collections))

    def on_available(self, notify: Callable[[], None]) -> None:
        """See `AvailabilityNotifier.on_available`."""
        self._pool.on_available(notify)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See `StorageBackend.transaction`. They run side by side, as many as there are connections."""
        with self._while_open():
            async with self._pool.transaction() as connection:
                transaction = _MysqlTransaction(connection, self._queries, self._operations)
                try:
                    yield transaction
                    transaction.check_usable()
                finally:
                    transaction.ended = True

    async def _read(self, work: Work[T]) -> T:
        with self._while_open():
            return await self._pool.read(work)

    def _primary(self) -> Address:
        self._check_open()
        if self._pool.primary is None:
            raise StorageUnavailable("no host is known to be the primary now")
        return self._pool.primary

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        """What `close` has ended is told as such, and not as a server that is away."""
        self._check_open()
        try:
            yield
        except StorageUnavailable as exc:
            self._check_open(exc)
            raise

    def _check_open(self, cause: Exception | None = None) -> None:
        if not self._open:
            raise BackendClosed(_NOT_OPEN) from cause


class _MysqlTransaction(_Reading, Transaction):
    """The transaction that `connection` is in. A call that fails, or is cancelled, is its end.

    What it reads by key is locked. Where a key is absent InnoDB locks the gap, which keeps rows out of it and no other reader.
    """

    _lock = "FOR UPDATE"

    def __init__(self, connection: MysqlConnection, queries: Queries, operations: Operations) -> None:
        self._connection = connection
        self._queries = queries
        self._operations = operations
        self._turn = asyncio.Lock()
        self._failure: PersistenceError | None = None
        self.ended = False

    def check_usable(self) -> None:
        """Raises what ended the transaction, if something did."""
        if self.ended:
            raise BackendClosed("the transaction is at its end")
        if self._failure is not None:
            raise self._failure

    async def lock(self, names: Iterable[str], *, exclusively: bool = False) -> None:
        """See `Transaction.lock`."""
        await self._read(lambda connection: lock_names(connection, names, exclusively=exclusively))

    async def write(self, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """See `Transaction.write`."""
        return await self._read(lambda connection: self._operations.write(connection, collection, records))

    async def delete(self, collection: Collection[R], where: Sequence[Condition]) -> int:
        """See `Transaction.delete`."""
        return await self._read(lambda connection: self._operations.delete(connection, collection, where))

    async def _read(self, work: Work[T]) -> T:
        self.check_usable()
        async with self._turn:
            self.check_usable()
            self._failure = StorageUnavailable("a call of this transaction did not end; nothing of it is stored")
            try:
                result = await work(self._connection)
            except PersistenceError as exc:
                self._failure = exc
                raise
            self._failure = None
            return result

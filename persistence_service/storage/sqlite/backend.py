"""The embedded default: one SQLite file in WAL mode, one writing connection, a few reading ones."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from persistence_service.errors import BackendClosed, PersistenceError, StorageSetupError, StorageUnavailable
from persistence_service.storage.backend import BackendHealth, Reader, StorageBackend, Transaction, WriteResult
from persistence_service.storage.collections import ALL_COLLECTIONS, Collection
from persistence_service.storage.powers import Diagnosable, Finding, MigrationPlanner, SizeReporter, Sizes
from persistence_service.storage.query import Condition, Group, Measurement, Query
from persistence_service.storage.sql.tables import Schema
from persistence_service.storage.sqlite.connection import ConnectionSettings, SqliteConnection
from persistence_service.storage.sqlite.diagnosis import diagnose
from persistence_service.storage.sqlite.file import DatabaseFile
from persistence_service.storage.sqlite.looking import pending_sql, schema_version
from persistence_service.storage.sqlite.operations import Operations
from persistence_service.storage.sqlite.threads import ConnectionThreads

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

_WRITER_CACHE_KIB = 32 * 1024
_READER_CACHE_KIB = 8 * 1024
_HEALTH_WAIT_S = 1


class _Operating(Reader):
    """Reads that run somewhere: in a reader's thread, or in the writer's within its transaction."""

    _operations: Operations

    @abstractmethod
    async def _read(self, work: Callable[[SqliteConnection], T]) -> T:
        """What `work` gives where these reads run."""

    async def _read_keys(self, work: Callable[[SqliteConnection], T]) -> T:
        return await self._read(work)

    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        """See `Reader.read`."""
        return await self._read_keys(lambda connection: self._operations.read(connection, collection, keys))

    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        """See `Reader.select`."""
        return await self._read(lambda connection: self._operations.select(connection, collection, fields, query))

    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        """See `Reader.count`."""
        return await self._read(lambda connection: self._operations.count(connection, collection, where, at_most))

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
            lambda connection: self._operations.aggregate(connection, collection, group_by, measure, where)
        )


class SqliteBackend(_Operating, StorageBackend, SizeReporter, MigrationPlanner, Diagnosable):
    """Collections in the SQLite file at `path`, whose directory `open` creates.

    Several processes may share the file. `readers` connections serve queries, and one more the reads by key, which are short
    and don't wait for queries. A write waits up to `busy_timeout_s` for another process's, then it is
    StorageUnavailable; a read that takes longer than `query_timeout_s` is QueryTimeout, and writes have no such limit.
    """

    name = "sqlite"
    plans_before_open = True

    def __init__(
        self,
        path: Path | str,
        *,
        readers: int = 4,
        busy_timeout_s: float = 5,
        query_timeout_s: float = 10,
        collections: Sequence[Collection[Any]] = ALL_COLLECTIONS,
    ) -> None:
        self._path = Path(path)
        self._query_timeout_s = query_timeout_s
        self._busy_timeout_s = busy_timeout_s
        self._operations = Operations(Schema(collections))
        file = DatabaseFile(self._path)
        settings = ConnectionSettings(file, busy_timeout_s, _WRITER_CACHE_KIB, read_only=False)
        reading = ConnectionSettings(file, busy_timeout_s, _READER_CACHE_KIB, read_only=True)
        self._writer = ConnectionThreads("sqlite-writer", partial(SqliteConnection, settings), 1, file)
        self._readers = ConnectionThreads("sqlite-reader", partial(SqliteConnection, reading), readers, file)
        self._key_reader = ConnectionThreads("sqlite-key-reader", partial(SqliteConnection, reading), 1, file)
        self._writing = asyncio.Lock()
        self._problem = ""
        self._checking: asyncio.Task[None] | None = None
        self._health_wait_s: float = _HEALTH_WAIT_S
        self._open = False
        self._ended = False

    async def open(self) -> None:
        """See `StorageBackend.open`.

        Raises:
            SchemaTooNew: a later version of the code migrated the database.
        """
        if self._open or self._ended:
            raise BackendClosed("the backend was opened before")
        await asyncio.to_thread(_make_directory, self._path.parent)
        self._writer.start()
        self._readers.start()
        self._key_reader.start()
        self._problem = await self._writer.run(SqliteConnection.schema_problem)
        self._open = True

    async def migrate(self) -> None:
        """See `StorageBackend.migrate`."""
        self._check_open()
        async with self._writing:
            await asyncio.shield(self._writer.submit_essential(SqliteConnection.migrate))
            self._problem = ""

    async def close(self) -> None:
        """See `StorageBackend.close`: running reads end with BackendClosed, running writes are done to their end."""
        self._open = False
        self._ended = True
        if self._checking is not None:
            self._checking.cancel()
        await asyncio.gather(self._readers.stop(), self._key_reader.stop(), self._writer.stop())

    async def health_check(self) -> BackendHealth:
        """Commits a transaction that changes nothing; says what is wrong with the disk, the file or the schema.

        Within a second it has its turn, or the last outcome is told: a writer that is busy is not ill, until nothing could
        begin for as long as a query may take. At most one attempt waits, however often it is asked for.
        """
        if self._open:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._check_writing(), name="sqlite-health")
            await asyncio.wait([self._checking], timeout=self._health_wait_s)
        detail = self._problem if self._open else "the backend is not open"
        return BackendHealth(not detail, "sqlite", sqlite3.sqlite_version, detail)

    async def sizes(self) -> Sizes:
        """See `SizeReporter.sizes`. SQLite knows nothing of its tables' sizes without reading them."""
        return await self._read_keys(SqliteConnection.sizes)

    async def schema_version(self) -> str:
        """See `MigrationPlanner.schema_version`."""
        return await asyncio.to_thread(schema_version, self._path, self._busy_timeout_s)

    async def schema_problem(self) -> str:
        """See `MigrationPlanner.schema_problem`."""
        return await self._read_keys(SqliteConnection.schema_problem)

    async def pending_sql(self) -> str:
        """See `MigrationPlanner.pending_sql`."""
        return await asyncio.to_thread(pending_sql, self._path, self._busy_timeout_s)

    async def diagnose(self) -> Sequence[Finding]:
        """See `Diagnosable.diagnose`."""
        return await asyncio.to_thread(diagnose, self._path, self._busy_timeout_s)

    async def _check_writing(self) -> None:
        try:
            async with asyncio.timeout(self._query_timeout_s), self._writing:
                self._problem = await asyncio.shield(self._writer.submit_essential(_try_to_write))
        except TimeoutError:
            self._problem = f"no transaction could begin within {self._query_timeout_s} s"
        except PersistenceError as exc:
            self._problem = str(exc)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See `StorageBackend.transaction`. One runs at a time; the others wait for it, without a limit."""
        self._check_open()
        await self._writing.acquire()
        transaction = _SqliteTransaction(self._writer, self._operations, self._query_timeout_s)
        committed = False
        try:
            await self._writer.run(SqliteConnection.begin)
            yield transaction
            transaction.check_usable()
            await self._writer.submit_essential(SqliteConnection.commit)
            committed = True
        finally:
            transaction.ended = True
            if committed:
                self._writing.release()
            else:
                await self._roll_back()

    async def _roll_back(self) -> None:
        """Roll back, then let the next transaction begin: both happen even if this task does not wait for it."""
        try:
            done = self._writer.submit_essential(SqliteConnection.roll_back)
        except BackendClosed:
            self._writing.release()  # the thread rolls back when it closes its connection
            return
        done.add_done_callback(self._rolled_back)
        with suppress(PersistenceError):
            await asyncio.shield(done)

    def _rolled_back(self, done: asyncio.Future[None]) -> None:
        # After an error the thread has closed the connection, which rolls back too.
        if not done.cancelled():
            done.exception()
        self._writing.release()

    async def _read(self, work: Callable[[SqliteConnection], T]) -> T:
        self._check_open()
        return await self._readers.run_limited(work, self._query_timeout_s)

    async def _read_keys(self, work: Callable[[SqliteConnection], T]) -> T:
        self._check_open()
        return await self._key_reader.run_limited(work, self._query_timeout_s)

    def _check_open(self) -> None:
        if not self._open:
            raise BackendClosed("the backend is not open")


class _SqliteTransaction(_Operating, Transaction):
    """The transaction that the writer's connection is in. A write that fails, or is cancelled, is its end."""

    def __init__(self, writer: ConnectionThreads, operations: Operations, query_timeout_s: float) -> None:
        self._writer = writer
        self._operations = operations
        self._query_timeout_s = query_timeout_s
        self._failure: PersistenceError | None = None
        self.ended = False

    def check_usable(self) -> None:
        """Raises what ended the transaction, if something did."""
        if self.ended:
            raise BackendClosed("the transaction is at its end")
        if self._failure is not None:
            raise self._failure

    async def lock(self, names: Iterable[str], *, exclusively: bool = False) -> None:  # noqa: ARG002  # the interface's
        """See `Transaction.lock`: there is one transaction at a time, which holds everything."""
        self.check_usable()

    async def write(self, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """See `Transaction.write`."""
        return await self._change(lambda connection: self._operations.write(connection, collection, records))

    async def delete(self, collection: Collection[R], where: Sequence[Condition]) -> int:
        """See `Transaction.delete`."""
        return await self._change(lambda connection: self._operations.delete(connection, collection, where))

    async def _change(self, work: Callable[[SqliteConnection], T]) -> T:
        self.check_usable()
        self._failure = StorageUnavailable("a write of this transaction did not end; nothing of it is stored")
        try:
            result = await self._writer.run(work)
        except PersistenceError as exc:
            self._failure = exc
            raise
        self._failure = None
        return result

    async def _read(self, work: Callable[[SqliteConnection], T]) -> T:
        self.check_usable()

        def read(connection: SqliteConnection) -> T:
            connection.check_in_transaction()
            return work(connection)

        return await self._writer.run_limited(read, self._query_timeout_s)


def _try_to_write(connection: SqliteConnection) -> str:
    """What is wrong with the schema; if nothing is, a transaction has written and changed nothing."""
    connection.begin()
    try:
        problem = connection.schema_problem()
        if not problem:
            connection.write_what_is_there()
            connection.commit()
        return problem
    finally:
        connection.roll_back()


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        raise StorageSetupError(
            "the directory of sqlite.path can't be made; give the service's user the right to it"
        ) from exc
    except OSError as exc:
        raise StorageUnavailable(
            f"the directory of sqlite.path can't be made: {exc.strerror}", number=exc.errno
        ) from exc

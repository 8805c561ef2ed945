"""One connection to the database's file, used by one thread."""

from __future__ import annotations

import sqlite3
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Executable, Row, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from persistence_service.errors import StorageSetupError, StorageUnavailable
from persistence_service.storage.powers import Sizes
from persistence_service.storage.sql.migrate import schema_problem, upgrade
from persistence_service.storage.sqlite.file import DatabaseFile

_LOOK_AGAIN_S = 0.01
_JOURNAL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where the database is and how it is used."""

    file: DatabaseFile
    busy_timeout_s: float
    cache_kib: int
    read_only: bool


class SqliteConnection:
    """A connection in autocommit mode, with the driver's (`driver`) for transactions and bulk writes.

    One thread uses it at a time; another may close it meanwhile, if the first is not at work.

    Raises:
        StorageUnavailable, StorageSetupError, sqlite3.Error: the file can't be opened, or should not be.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._file = settings.file
        self._closed = False
        self.generation = self._file.admit(settings.busy_timeout_s)
        with ExitStack() as undo:
            undo.callback(self._file.closed)
            undo.callback(self._file.retire, self.generation)
            self.driver = sqlite3.connect(
                self._file.uri(),
                uri=True,
                timeout=settings.busy_timeout_s,
                isolation_level=None,  # transactions begin and end where we say
                check_same_thread=False,
            )
            undo.callback(self.driver.close)
            _configure(self.driver, settings)
            self._opened = self._file.confirm(self.generation)
            engine = create_engine(
                "sqlite+pysqlite://", creator=lambda: self.driver, poolclass=NullPool, pool_reset_on_return=None
            )
            self._connection: Connection = engine.connect()
            undo.pop_all()

    def rows(self, statement: Executable) -> list[Row[Any]]:
        """All rows that `statement` gives."""
        return list(self._connection.execute(statement).all())

    def changed(self, statement: Executable) -> int:
        """How many rows `statement` changed."""
        return self._connection.execute(statement).rowcount

    def interrupt(self) -> None:
        """End the statement that is running with SQLITE_INTERRUPT, if there is one; the one call that other threads may make."""
        self.driver.interrupt()

    def begin(self) -> None:
        """Start a transaction as the only writer; waits for another process's up to the busy timeout.

        Raises:
            StorageUnavailable: the file was moved or replaced.
        """
        self._check_file()
        self.driver.execute("BEGIN IMMEDIATE")

    def check_in_transaction(self) -> None:
        """Some errors make SQLite roll back by itself; what follows must not be committed without what went before.

        Raises:
            StorageUnavailable: the transaction is gone.
        """
        if not self.driver.in_transaction:
            raise StorageUnavailable("the transaction was rolled back by the database")

    def commit(self) -> None:
        """Make the transaction durable.

        Raises:
            StorageUnavailable: the transaction is gone; or it is in a file that was moved or replaced meanwhile.
        """
        self.check_in_transaction()
        self.driver.execute("COMMIT")
        self._check_file()

    def write_what_is_there(self) -> None:
        """Have the transaction write a page that it does not change: only then a disk that takes no writes is noticed."""
        (version,) = self.driver.execute("PRAGMA user_version").fetchone()
        self.driver.execute(f"PRAGMA user_version={version}")

    def roll_back(self) -> None:
        """Undo the transaction, if there is one."""
        if self.driver.in_transaction:
            self.driver.execute("ROLLBACK")

    def schema_problem(self) -> str:
        """What is wrong with the schema, and what to do; empty if it is as this package needs it.

        Raises:
            SchemaTooNew: its version is not among those of this package.
        """
        return schema_problem(self._connection)

    def sizes(self) -> Sizes:
        """What the database takes; its log may hold pages that are counted in the database too."""
        pages, free, page_bytes = (
            self.driver.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        log_bytes = self._file.log_bytes()
        return Sizes(pages * page_bytes + log_bytes, log_bytes, free * page_bytes)

    def migrate(self) -> None:
        """Bring the schema up to date, in one transaction; takes no lock when it is.

        Raises:
            SchemaTooNew: its version is not among those of this package.
            sqlite3.OperationalError: another process, which may do the same, writes for longer than the busy timeout.
        """
        if not self.schema_problem():
            return
        try:
            self.begin()
            if not self._connection.in_transaction():
                self._connection.begin()  # tells Alembic that the transaction is not its own
            upgrade(self._connection)
            self.commit()
        finally:
            self.roll_back()

    def close(self) -> None:
        """Let go of the file; an open transaction is rolled back. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._file.retire(self.generation)
        try:
            with suppress(sqlite3.Error, DBAPIError):
                self._connection.close()
            self.driver.close()
        finally:
            self._file.closed()

    def _check_file(self) -> None:
        try:
            self._file.check(self._opened)
        except StorageUnavailable:
            if self._file.identity().database != self._opened.database:
                with suppress(sqlite3.Error):  # wherever the file is now, it shall be whole without its log
                    self.driver.execute("PRAGMA wal_checkpoint(PASSIVE)")
            raise


def _write_ahead_mode(driver: sqlite3.Connection, busy_timeout_s: float) -> str:
    """The journal mode after asking for WAL. On a new file SQLite itself does not wait for others that ask for the same."""
    give_up_at = time.monotonic() + busy_timeout_s
    while True:
        try:
            mode: str = driver.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(_LOOK_AGAIN_S)
        else:
            return mode


def _configure(driver: sqlite3.Connection, settings: ConnectionSettings) -> None:
    mode = _write_ahead_mode(driver, settings.busy_timeout_s)
    if mode != "wal":
        raise StorageSetupError(
            f"the database's file (sqlite.path) can't have a write-ahead log, journal mode is {mode}; use a local disk"
        )
    driver.execute("PRAGMA synchronous=FULL")
    driver.execute("PRAGMA foreign_keys=ON")
    driver.execute(f"PRAGMA cache_size=-{settings.cache_kib}")
    driver.execute(f"PRAGMA journal_size_limit={_JOURNAL_BYTES}")
    driver.execute(f"PRAGMA query_only={'ON' if settings.read_only else 'OFF'}")
    driver.execute("PRAGMA schema_version")  # opens the log and the shared index, which the first access would else do

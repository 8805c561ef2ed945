"""One instance at a time changes the schema."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Dialect, MetaData
from sqlalchemy.exc import ProgrammingError

from persistence_service.errors import StorageUnavailable, TransactionConflict
from persistence_service.storage.mysql.errors import number_of
from persistence_service.storage.mysql.migration_connection import MigrationConnection, errors_translated
from persistence_service.storage.mysql.schema import lock_table
from persistence_service.storage.sql.creation import creation

_NO_SUCH_TABLE = 1146


def lock_creation(dialect: Dialect) -> list[str]:
    """The statements that make what is locked, where it is missing."""
    return [
        *creation(lock_table(MetaData()), dialect, if_missing=True),
        "INSERT IGNORE INTO migration_lock (id) VALUES (1)",
    ]


class MigrationLock:
    """A row that is locked in an open transaction of a connection of its own.

    It ends with that connection, and so with its holder. (The server's GET_LOCK would not be known to the next primary of a
    group, and a transaction's locks end with its first statement that changes the schema: hence a second connection.)
    """

    def __init__(self, connection: MigrationConnection) -> None:
        self._connection = connection

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Hold the lock in the block.

        Raises:
            StorageUnavailable: another holds it for longer than `wait_s`.
        """
        give_up_at = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() > give_up_at:
                raise StorageUnavailable("another instance is migrating the database; this one waits for it")
        yield
        self._connection.run("ROLLBACK")

    def confirm(self) -> None:
        """Check that the lock is still held.

        Raises:
            StorageUnavailable: it is lost, and others may be at work by now.
        """
        with errors_translated():
            self._connection.run("SELECT 1")

    def _try(self) -> bool:
        """Whether the lock is held now; waits for as long as the server lets a lock wait."""
        try:
            with errors_translated():
                return self._take() or self._make()
        except TransactionConflict:
            self._connection.run("ROLLBACK")
            return False

    def _take(self) -> bool:
        self._connection.run("START TRANSACTION")
        try:
            if self._connection.run("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE"):
                return True
        except ProgrammingError as exc:
            if number_of(exc.orig) != _NO_SUCH_TABLE:
                raise
        self._connection.run("ROLLBACK")
        return False

    def _make(self) -> bool:
        """Make what is to be locked; the lock itself is then tried for again."""
        for statement in lock_creation(self._connection.sql.dialect):
            self._connection.run(statement)
        return False

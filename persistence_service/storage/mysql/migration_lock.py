"""One instance at a time changes the schema."""

from __future__ import annotations

import time

import structlog
from pymysql.constants import ER
from sqlalchemy import Dialect, MetaData

from persistence_service.errors import StorageSetupError, StorageUnavailable, TransactionConflict
from persistence_service.storage.mysql.migration_connection import MigrationConnection
from persistence_service.storage.mysql.schema import lock_table
from persistence_service.storage.sql.creation import creation

_log = structlog.get_logger(__name__)

_ATTEMPT_S = 1


def lock_creation(dialect: Dialect) -> list[str]:
    """The statements that make what is locked, where it is missing."""
    return [
        *creation(lock_table(MetaData()), dialect, if_missing=True),
        "INSERT IGNORE INTO migration_lock (id) VALUES (1)",
    ]


class MigrationLock:
    """A row that is locked in an open transaction of `connection`, which does nothing else, until that is closed or lost.

    So it ends with its holder. (The server's GET_LOCK would not be known to the next primary of a group; and the first
    statement that changes the schema ends its own connection's transaction, hence a connection of its own.)
    """

    def __init__(self, connection: MigrationConnection) -> None:
        self._connection = connection

    def take(self, wait_s: float) -> None:
        """Wait for the lock, and have it.

        Raises:
            StorageUnavailable: another has it for longer than `wait_s`.
        """
        self._connection.run(f"SET innodb_lock_wait_timeout={_ATTEMPT_S}")
        began = time.monotonic()
        was_told = False
        while not self._try():
            waited_s = time.monotonic() - began
            if waited_s >= _ATTEMPT_S and not was_told:
                was_told = True
                _log.warning("storage.migration_waits", reason="another is migrating the database", at_most_s=wait_s)
            if waited_s > wait_s:
                raise StorageUnavailable("another instance is migrating the database; this one waits for it")

    def confirm(self) -> None:
        """Check that the lock is still held.

        Raises:
            StorageUnavailable: it is lost, and others may be at work by now.
        """
        self._connection.run("SELECT 1")

    def _try(self) -> bool:
        """Whether the lock is held now; waits for as long as the server lets a lock wait."""
        try:
            return self._lock_row() or self._make()
        except TransactionConflict:
            self._connection.run("ROLLBACK")
            return False

    def _lock_row(self) -> bool:
        self._connection.run("START TRANSACTION")
        try:
            if self._connection.run("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE"):
                return True
        except StorageSetupError as exc:
            if exc.number != ER.NO_SUCH_TABLE:
                raise
        self._connection.run("ROLLBACK")
        return False

    def _make(self) -> bool:
        """Make what is to be locked; the lock itself is then tried for again."""
        for statement in lock_creation(self._connection.sql.dialect):
            self._connection.run(statement)
        return False

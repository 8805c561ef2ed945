"""Brings the schema of a MySQL or MariaDB server up to date, or says what that would take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import structlog
from alembic.operations import Operations

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql.adoption import Adoption
from persistence_service.storage.mysql.migration_connection import MigrationConnection, errors_translated
from persistence_service.storage.mysql.migration_lock import MigrationLock, lock_creation
from persistence_service.storage.mysql.names import check_names
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.sql.migrate import newest_version, pending_sql, schema_problem, upgrade

_log = structlog.get_logger(__name__)
T = TypeVar("T")

_NO_PRIVILEGE = {1044, 1142, 1143, 1227, 1370}
_LOCK_WAIT_S = 60


async def migrate(options: MysqlOptions, address: Address, *, lock_wait_s: float = _LOCK_WAIT_S) -> None:
    """Bring the schema of the database, which must exist, up to this code's version; writes nothing when it is.

    Any number of instances may do so at once: one works, the others wait for it. After a crash, or a cancellation, whoever
    comes next goes on.

    Raises:
        SchemaTooNew: a later version of the code was here.
        StorageUnavailable: the server is away, or another instance is at work for longer than `lock_wait_s`.
        StorageSetupError: the account may not do it, or tables that are there can't be adopted.
    """
    await _in_thread(lambda work: _migrate(work, lock_wait_s), options, address)


async def plan(options: MysqlOptions, address: Address) -> str:
    """The SQL that `migrate` would run now, empty if none; changes nothing.

    Raises:
        SchemaTooNew, StorageUnavailable, StorageSetupError: as `migrate`.
    """
    return await _in_thread(_plan, options, address)


class _Work:
    """The connections of one migration, which ends when they are abandoned."""

    def __init__(self, options: MysqlOptions, address: Address) -> None:
        self._options = options
        self._address = address
        self._connections: list[MigrationConnection] = []
        self._abandoned = False

    @contextmanager
    def connected(self) -> Iterator[MigrationConnection]:
        """A connection to the database."""
        with errors_translated():
            connection = MigrationConnection(self._options, self._address)
        self._connections.append(connection)
        if self._abandoned:
            connection.abandon()
        try:
            yield connection
        finally:
            self._connections.remove(connection)
            connection.close()

    def abandon(self) -> None:
        """End the work, from another thread."""
        self._abandoned = True
        for connection in list(self._connections):
            connection.abandon()


def _migrate(work: _Work, lock_wait_s: float) -> None:
    with ExitStack() as stack:
        connection = stack.enter_context(work.connected())
        stack.enter_context(errors_translated())
        if not schema_problem(connection.sql):
            return
        stack.enter_context(_privileges_explained("the schema is not up to date, and the account may not change it"))
        check_names(connection)
        lock = MigrationLock(stack.enter_context(work.connected()))
        lock.take(lock_wait_s)
        if not schema_problem(connection.sql):  # another instance was quicker
            return
        adoption = Adoption(connection, lock.confirm)
        adoption.set_aside()

        def finish_version(version: str, _: Operations) -> None:
            lock.confirm()
            if version == adoption.VERSION:
                adoption.copy()

        upgrade(connection.sql, finish_version)
        _log.info("storage.migrated", version=newest_version())


def _plan(work: _Work) -> str:
    with work.connected() as connection, errors_translated():
        check_names(connection)
        adoption = Adoption(connection)

        def finish_version(version: str, operations: Operations) -> None:
            if version == adoption.VERSION:
                for statement in adoption.copy_plan():
                    operations.execute(statement)

        first = [*lock_creation(connection.sql.dialect), *adoption.set_aside_plan()]
        return pending_sql(connection.sql, finish_version, first)


@contextmanager
def _privileges_explained(what: str) -> Iterator[None]:
    """Says what to do where the account lacks a privilege."""
    try:
        with errors_translated():
            yield
    except StorageSetupError as exc:
        if exc.number not in _NO_PRIVILEGE:
            raise
        raise StorageSetupError(
            f"{what}: run `persistence-service migrate` with an account that may, or have database/schema.sql loaded",
            number=exc.number,
        ) from exc


async def _in_thread(run: Callable[[_Work], T], options: MysqlOptions, address: Address) -> T:
    """What `run` gives, in a thread of its own. Cancelled, it ends the work, and then waits for the thread."""
    work = _Work(options, address)
    with ThreadPoolExecutor(1, thread_name_prefix="mysql-migration") as thread:
        running = asyncio.get_running_loop().run_in_executor(thread, run, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            work.abandon()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()
            raise

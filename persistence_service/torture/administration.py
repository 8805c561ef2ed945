"""Connections of a database's administrator, who looks at what others do there, hinders and ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from persistence_service.errors import PersistenceError
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.faults import CouldNotRun

NO_SUCH_THREAD: Final = 1094
NO_SUCH_VARIABLE: Final = 1193


@asynccontextmanager
async def connected(options: MysqlOptions) -> AsyncIterator[MysqlConnection]:
    """A connection to the server, or to the node of a group that takes writes.

    Raises:
        CouldNotRun: there is none.
    """
    problem = "every node of it is read-only"
    for address in options.addresses:
        try:
            connection = await MysqlConnection.open(options, address)
        except PersistenceError as exc:
            problem = str(exc)
            continue
        if len(options.addresses) > 1 and await number_of(connection, "SELECT @@read_only"):
            await connection.close()
            continue
        try:
            yield connection
        finally:
            await connection.close()
        return
    raise CouldNotRun(f"the torture has no way to the database as {options.user}: {problem}")


async def number_of(connection: MysqlConnection, question: str) -> int:
    """The one number that is the answer."""
    return int((await connection.run(question)).rows[0][0])


async def is_waited_for(connection: MysqlConnection) -> bool:
    """Whether a transaction waits for a row.

    Not asked of the table of transactions: MySQL refuses that while a statement in it has a character beyond utf8mb3 (3854).
    """
    ((_, waits),) = (await connection.run("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")).rows
    return int(waits) > 0


async def deadlocks(connection: MysqlConnection) -> int:
    """How many the server has resolved so far; needs PROCESS."""
    return await number_of(
        connection, "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"
    )


async def lock_timeouts(connection: MysqlConnection) -> int:
    """How many waits for a lock were given up so far; needs PROCESS."""
    return await number_of(
        connection, "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_timeouts'"
    )

"""Pools as tests use them: opened for a block, on a database of their own, and looked at from outside."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pymysql

from persistence_service.errors import TransactionConflict
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.mysql.pool import ConnectionPool
from tests.servers.server import Server

_PATIENCE_S = 120.0
_POLL_S = 0.01


@asynccontextmanager
async def opened(options: MysqlOptions) -> AsyncIterator[ConnectionPool]:
    """A pool that is open, closed at the end."""
    pool = ConnectionPool(options)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what a server or another task does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it never came to this: {what}"
        await asyncio.sleep(_POLL_S)


async def value(pool: ConnectionPool, expression: str) -> Any:  # noqa: ANN401  # whatever the expression is
    """Of one expression, read through the pool."""
    answer = await pool.read(lambda connection: connection.run(f"SELECT {expression}"))
    return answer.rows[0][0]


async def transact(pool: ConnectionPool, *statements: str) -> None:
    """All of `statements` in one transaction."""
    async with pool.transaction() as connection:
        for statement in statements:
            await connection.run(statement)


async def at_once(
    pool: ConnectionPool, count: int, work: Callable[[MysqlConnection], Awaitable[object]]
) -> list[object]:
    """`work` on so many connections at the same time: none begins before all have one."""
    barrier = asyncio.Barrier(count)

    async def meet(connection: MysqlConnection) -> object:
        await barrier.wait()
        return await work(connection)

    return list(await asyncio.gather(*(pool.read(meet) for _ in range(count))))


def connection_ids(server: Server, database: str) -> set[int]:
    """The connections that the server has for `database`."""
    rows = server.sql(f"SELECT id FROM {server.processes} WHERE db = '{database}'")
    return {int(row[0]) for row in rows}


def kill_all(server: Server, database: str) -> int:
    """End every connection to `database`, and wait until they are gone; returns how many there were."""
    ids = connection_ids(server, database)
    for number in ids:
        with suppress(pymysql.OperationalError):  # it ended by itself meanwhile
            server.sql(f"KILL {number}")
    deadline = time.monotonic() + _PATIENCE_S
    while ids & connection_ids(server, database):
        assert time.monotonic() < deadline, "killed connections do not end"
        time.sleep(_POLL_S)
    return len(ids)


async def transact_in_turn(pool: ConnectionPool, *statements: str) -> None:
    """As `transact`, as often as somebody else's lock takes longer than the server lets it wait, for less than a minute."""
    async with asyncio.timeout(40):
        while True:
            with suppress(TransactionConflict):
                return await transact(pool, *statements)

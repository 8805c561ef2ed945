"""Why the pool is our own: what aiomysql's does in the same situations. If one of these fails, ours may not be needed any more."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
import pytest

from tests.integration.mysql.proxy import proxy_to
from tests.servers.server import Server

_WAIT_S = 0.5
_CONNECT_S = 2.0  # a busy machine connects within it


@asynccontextmanager
async def _naive(server: Server, **changes: Any) -> AsyncIterator[aiomysql.Pool]:  # noqa: ANN401  # of several types
    given = {"host": server.host, "port": server.port, "user": server.user, "password": server.password, "maxsize": 1}
    pool = await aiomysql.create_pool(**(given | changes))
    try:
        yield pool
    finally:
        pool.terminate()
        await pool.wait_closed()


async def _hangs(work: Any, wait_s: float = _WAIT_S) -> None:  # noqa: ANN401  # an awaitable of the driver's
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work, wait_s)


@pytest.mark.parametrize("spoil", ["BEGIN", "close"])
async def test_a_connection_that_comes_back_spoilt_wakes_no_waiter(database_server: Server, spoil: str) -> None:
    async with _naive(database_server) as pool:
        connection = await pool.acquire()
        waiter = asyncio.create_task(pool._acquire())
        await asyncio.sleep(0)
        if spoil == "BEGIN":
            await connection.begin()
        else:
            connection.close()
        pool.release(connection)
        await _hangs(waiter)


async def test_who_connects_keeps_everyone_from_the_connections_that_are_free(database_server: Server) -> None:
    async with (
        proxy_to((database_server.host, database_server.port)) as proxy,
        _naive(database_server, host=proxy.address[0], port=proxy.address[1], maxsize=2) as pool,
    ):
        first = await pool.acquire()
        proxy.swallows = True
        connecting = asyncio.create_task(pool._acquire())
        await asyncio.sleep(0.05)
        pool.release(first)
        await _hangs(pool._acquire())  # although `first` is free, and nothing is wrong with it
        connecting.cancel()
        await asyncio.wait([connecting])


async def test_an_answer_that_never_comes_is_waited_for_without_end(database_server: Server) -> None:
    async with (
        proxy_to((database_server.host, database_server.port)) as proxy,
        _naive(database_server, host=proxy.address[0], port=proxy.address[1], connect_timeout=_CONNECT_S) as pool,
    ):
        connection = await pool.acquire()
        proxy.swallows = True
        await _hangs(connection.query("SELECT 1"), _CONNECT_S + _WAIT_S)
        pool.release(connection)


async def test_without_tls_on_the_server_the_driver_goes_on_in_plain_text(mariadb_server: Server) -> None:
    async with _naive(mariadb_server, ssl=ssl.create_default_context()) as pool:
        connection = await pool.acquire()
        await connection.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        assert connection._result.rows == ((("Ssl_cipher", "")),)
        pool.release(connection)

"""Nothing hangs: connecting, waiting for a connection, an answer and a commit all end in time, and for each caller alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import pytest

from persistence_service.errors import BackendClosed, StorageUnavailable
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.mysql.pool import ConnectionPool
from persistence_service.storage.mysql.probe import HostProbe
from tests.integration.mysql.pools import at_once, connection_ids, opened, transact, until, value
from tests.integration.mysql.proxy import full_host, proxy_to, silent_host
from tests.servers.server import Server

_LIMIT_S = 0.5
_SLACK_S = 20.0  # for a machine that is busy; without a limit it would be a minute or more
_CALLERS = 20
_SILENCE_S = 3.0


async def _takes(work: Awaitable[object]) -> float:
    """How long it takes until `work` says that the storage is unavailable."""
    start = time.monotonic()
    with pytest.raises(StorageUnavailable):
        await work
    return time.monotonic() - start


async def _one(connection: MysqlConnection) -> None:
    await connection.run("SELECT 1")


@pytest.mark.parametrize("host", [silent_host, full_host])
async def test_opening_on_a_host_that_never_answers_ends_in_time(
    host: Callable[[], AbstractContextManager[tuple[str, int]]],
) -> None:
    with host() as address:
        options = MysqlOptions((address,), "root", "", "none", connect_timeout_s=_LIMIT_S)
        took_s = await _takes(ConnectionPool(options).open())
    assert _LIMIT_S <= took_s < _LIMIT_S + _SLACK_S


async def test_callers_do_not_queue_behind_a_host_that_went_silent(database_server: Server) -> None:
    database = database_server.new_database()
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(
            database,
            addresses=(proxy.address,),
            pool_size=_CALLERS,
            pool_min=0,
            connect_timeout_s=_SILENCE_S,
            answer_timeout_s=_SILENCE_S,
        )
        async with opened(options) as pool:
            proxy.swallows = True
            took = await asyncio.gather(*(_takes(pool.read(_one)) for _ in range(_CALLERS)))
            assert max(took) < _SILENCE_S + _SLACK_S, "one after the other it would be a minute"
            proxy.swallows = False
            await at_once(pool, 10, _one)


@pytest.mark.parametrize("statement", [b"SELECT 4711", b"INSERT INTO t", b"COMMIT", b"START TRANSACTION"])
async def test_a_statement_without_an_answer_ends_in_time_and_with_its_connection(
    database_server: Server, statement: bytes
) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(
            database, addresses=(proxy.address,), pool_size=1, pool_min=0, answer_timeout_s=_LIMIT_S
        )
        async with opened(options) as pool:
            proxy.swallow_from(statement)

            async def write() -> None:
                async with pool.transaction() as connection:
                    await connection.run("SELECT 4711")
                    await connection.run("INSERT INTO t VALUES (1)")

            assert _LIMIT_S <= await _takes(write()) < _LIMIT_S + _SLACK_S
            proxy.swallow_from(b"no such text")
            proxy.swallows = False
            async with pool.transaction() as connection:
                await connection.run("INSERT INTO t VALUES (1)")
    assert database_server.sql("SELECT a FROM t", database) == [(1,)]


async def test_a_statement_may_have_a_limit_of_its_own(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database(), pool_size=1)) as pool:
        before = await value(pool, "CONNECTION_ID()")
        assert (
            await _takes(pool.read(lambda connection: connection.run("DO SLEEP(50)", limit_s=_LIMIT_S)))
            < _LIMIT_S + _SLACK_S
        )
        assert await value(pool, "CONNECTION_ID()") != before


async def test_what_is_too_much_to_be_sent_to_a_silent_host_does_not_stay_in_memory(database_server: Server) -> None:
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(
            database_server.new_database(), addresses=(proxy.address,), answer_timeout_s=_LIMIT_S
        )
        async with opened(options) as pool:

            async def send(connection: MysqlConnection) -> None:
                transport = connection._wire._writer.transport
                try:
                    await connection.run(b"SELECT '" + b"x" * 15_000_000 + b"'")
                finally:
                    await asyncio.sleep(0)
                    assert transport.get_write_buffer_size() == 0

            # Not read at all: what the kernel does not take stays with us.
            proxy.stall()
            assert await _takes(pool.read(send)) < _LIMIT_S + _SLACK_S


async def test_who_waits_too_long_for_a_connection_is_told_which_setting_it_is(database_server: Server) -> None:
    options = database_server.options(database_server.new_database(), pool_size=2, acquire_timeout_s=_LIMIT_S)
    async with opened(options) as pool, pool.transaction(), pool.transaction():
        with pytest.raises(StorageUnavailable, match=r"database\.pool_size.*database\.acquire_timeout"):
            await pool.read(_one)
        with pytest.raises(StorageUnavailable, match=r"database\.pool_size"):
            async with pool.transaction():
                pass


async def test_connections_are_given_in_the_order_in_which_they_were_asked_for(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database(), pool_size=1)) as pool:
        order: list[int] = []

        async def note(number: int) -> None:
            async def work(_: MysqlConnection) -> None:
                order.append(number)

            await pool.read(work)

        async with pool.transaction():
            waiting = [asyncio.create_task(note(number)) for number in range(5)]
            await asyncio.sleep(0)
        waiting.append(asyncio.create_task(note(5)))
        await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4, 5]


async def test_who_gives_up_or_is_cancelled_while_waiting_costs_no_connection(database_server: Server) -> None:
    database = database_server.new_database()
    options = database_server.options(database, pool_size=2, pool_min=0, acquire_timeout_s=0.05)
    async with opened(options) as pool:
        for _ in range(10):
            async with pool.transaction(), pool.transaction():
                given_up = [asyncio.create_task(_takes(pool.read(_one))) for _ in range(3)]
                cancelled = [asyncio.create_task(pool.read(_one)) for _ in range(3)]
                await asyncio.sleep(0)
                for task in cancelled:
                    task.cancel()
                await asyncio.gather(*given_up)
            for task in [asyncio.create_task(pool.read(_one)) for _ in range(3)]:
                task.cancel()
        await at_once(pool, 2, _one)
        await until(lambda: len(connection_ids(database_server, database)) <= 2, "no connection is left over")


async def test_a_waiter_has_the_connection_of_one_that_came_back_broken(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database(), pool_size=1, pool_min=0)) as pool:
        for spoil in (_leave_open, _abandon):
            async with asyncio.timeout(120):
                first = asyncio.create_task(pool.read(spoil))
                await asyncio.gather(first, *(pool.read(_one) for _ in range(3)))


async def _leave_open(connection: MysqlConnection) -> None:
    await connection.begin()


async def _abandon(connection: MysqlConnection) -> None:
    connection.abandon()


async def test_closing_does_not_wait_for_who_is_connecting(database_server: Server) -> None:
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(
            database_server.new_database(), addresses=(proxy.address,), pool_min=0, connect_timeout_s=60
        )
        async with opened(options) as pool, asyncio.timeout(_SLACK_S):
            proxy.swallows = True
            attempts = [asyncio.create_task(pool.read(_one)) for _ in range(3)]
            await asyncio.sleep(0.05)
            await pool.close()
            ended = await asyncio.gather(*attempts, return_exceptions=True)
    assert {type(error) for error in ended} <= {StorageUnavailable, BackendClosed}


async def test_closing_waits_for_a_commit_but_not_for_long(
    database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence_service.storage.mysql.pool._LAST_COMMITS_S", _LIMIT_S)
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(
            database_server.new_database(), addresses=(proxy.address,), pool_min=0, answer_timeout_s=60
        )
        async with opened(options) as pool:
            proxy.swallow_from(b"COMMIT")
            committing = asyncio.create_task(transact(pool, "DO 1"))
            await until(lambda: proxy.swallows, "the commit is sent")
            begun = time.monotonic()
            await pool.close()
            assert _LIMIT_S <= time.monotonic() - begun < _LIMIT_S + _SLACK_S
            with pytest.raises(StorageUnavailable):
                await committing


async def test_a_host_that_stays_silent_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thawed, it would find a hundred connections that were given up, and refuse this machine (max_connect_errors)."""
    monkeypatch.setattr("persistence_service.storage.mysql.probe._REST_S", 600.0)
    monkeypatch.setattr("persistence_service.storage.mysql.probe._LONGEST_REST_S", 600.0)
    with silent_host() as address:
        probe = HostProbe(MysqlOptions((address,), "root", "", "none"), address)
        took = [await _takes(probe.look(limit_s)) for limit_s in (_LIMIT_S, _LIMIT_S, 2 * _SLACK_S)]
    assert took[0] >= _LIMIT_S, "asked"
    assert took[1] >= _LIMIT_S, "asked again at once: once may be chance"
    assert took[2] < _SLACK_S, "not asked"

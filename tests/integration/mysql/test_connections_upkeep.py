"""What happens to connections that nobody uses: some stay warm, the rest goes, and a server that is back is noticed."""

import asyncio

import pymysql
import pytest

from persistence_service.errors import StorageUnavailable
from persistence_service.storage.mysql import probe, upkeep, watch
from persistence_service.storage.mysql.connection import SESSION_IDLE_S, MysqlConnection
from tests.integration.mysql.pools import at_once, connection_ids, kill_all, opened, transact_in_turn, until, value
from tests.integration.mysql.proxy import proxy_to
from tests.servers.server import Server


async def _one(connection: MysqlConnection) -> None:
    await connection.run("SELECT 1")


async def test_pool_min_connections_are_kept_and_come_back_when_they_are_lost(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=5, pool_min=3)):
        for _ in range(2):
            await until(lambda: len(connection_ids(database_server, database)) == 3, "three are kept")
            kill_all(database_server, database)


async def test_never_more_than_pool_size(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=3, pool_min=3)) as pool:
        for _ in range(20):
            await asyncio.gather(*(value(pool, "SLEEP(0.01)") for _ in range(7)))
            assert len(connection_ids(database_server, database)) <= 3


async def test_connections_beyond_pool_min_are_closed_when_nobody_needs_them(
    database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_SURPLUS_AFTER_S", 0.1)
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=5, pool_min=2)) as pool:
        await at_once(pool, 5, _one)
        assert len(connection_ids(database_server, database)) == 5
        await until(lambda: len(connection_ids(database_server, database)) == 2, "two are kept")
        await at_once(pool, 5, _one)


async def test_an_idle_connection_is_replaced_when_it_is_old(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=3, pool_min=3, pool_recycle_s=0.1)) as pool:
        former = {await value(pool, "CONNECTION_ID()")}
        await until(
            lambda: (now := connection_ids(database_server, database)) != set() and not former & now, "it is replaced"
        )


async def test_idle_connections_are_asked_so_often_that_the_server_does_not_end_them(
    database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upkeep._PING_AFTER_S + upkeep._ROUND_S + upkeep._PING_S < SESSION_IDLE_S
    monkeypatch.setattr(upkeep, "_PING_AFTER_S", 0.1)
    monkeypatch.setattr(upkeep, "_ROUND_S", 0.1)
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=2, pool_min=2)) as pool:
        for _ in range(5):  # nobody asks while the machine does nothing for seconds
            await at_once(pool, 2, lambda connection: connection.run("SET SESSION wait_timeout=3"))
            kept = connection_ids(database_server, database)
            await _one_that_nobody_asks_is_ended(database_server, database, wait_s=4)
            if connection_ids(database_server, database) == kept:
                break
        else:
            pytest.fail("they are ended too")


async def _one_that_nobody_asks_is_ended(server: Server, database: str, *, wait_s: int) -> None:
    with pymysql.connect(
        host=server.host, port=server.port, user="root", database=database, ssl_disabled=True
    ) as unasked:
        with unasked.cursor() as cursor:
            cursor.execute(f"SET SESSION wait_timeout={wait_s}")
        await until(lambda: unasked.thread_id() not in connection_ids(server, database), "the server ends it")
        unasked._force_close()


async def test_a_client_that_vanished_in_a_transaction_does_not_hold_its_locks_for_long(
    database_server: Server,
) -> None:
    """The server is not told, as when a machine loses power: only the session's wait_timeout ends it."""
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with (
        proxy_to((database_server.host, database_server.port)) as proxy,
        opened(database_server.options(database, addresses=(proxy.address,), pool_min=0)) as vanishing,
        opened(database_server.options(database)) as other,
    ):

        async def vanish() -> None:
            async with vanishing.transaction() as connection:
                assert (await connection.run("SELECT @@wait_timeout")).rows == ((SESSION_IDLE_S,),)
                await connection.run("SET SESSION wait_timeout=2")
                await connection.run("INSERT INTO t VALUES (1)")
                proxy.forget()
                connection.abandon()

        with pytest.raises(StorageUnavailable):
            await vanish()
        await transact_in_turn(other, "INSERT INTO t VALUES (1)")  # waits for the lock, and has it in time


async def test_a_server_that_is_back_is_noticed_before_anybody_asks(own_server: Server) -> None:
    async with opened(own_server.options(own_server.new_database())) as pool:
        back = asyncio.Event()
        pool.on_available(back.set)
        for end in (own_server.stop, own_server.kill):
            await asyncio.to_thread(end)
            await until(lambda: pool._connector._is_away, "it is missed")
            await asyncio.to_thread(own_server.start)
            await asyncio.wait_for(back.wait(), 120)
            back.clear()
            assert await value(pool, "1") == 1


async def test_a_connection_that_was_asked_while_the_primary_changed_is_not_used_again(
    database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_PING_AFTER_S", 0.1)
    monkeypatch.setattr(upkeep, "_PING_S", 60.0)
    monkeypatch.setattr(watch, "_LOOK_S", 0.5)
    monkeypatch.setattr(probe, "_REST_S", 0.0)
    server = (database_server.host, database_server.port)
    async with proxy_to(server) as former, proxy_to(server) as later:
        options = database_server.options(
            database_server.new_database(),
            addresses=(former.address, later.address),
            allow_lossy_failover=True,
            pool_size=1,
            connect_timeout_s=1,
            check_interval_s=0.1,
            acquire_timeout_s=60,
        )
        later.swallows = True
        async with opened(options) as pool:
            former.stall()
            await until(lambda: not pool._permits._free, "the idle connection is asked, and its answer is on its way")
            later.swallows = False
            await until(lambda: pool.primary == later.address, "the other host is the primary")
            former.resume()
            assert await pool.read(_address) == later.address


async def _address(connection: MysqlConnection) -> tuple[str, int]:
    return connection.address

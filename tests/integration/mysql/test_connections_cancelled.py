"""A caller that is cancelled leaves nothing behind: no connection with half an answer, no lock, no lost place in the pool."""

import asyncio

import pytest

from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.pool import ConnectionPool
from tests.integration.mysql.pools import at_once, connection_ids, opened, transact_in_turn, until, value
from tests.integration.mysql.proxy import proxy_to
from tests.servers.server import Server

_COUNT = 3


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _is_running(server: Server, database: str, text: str) -> bool:
    rows = server.sql(f"SELECT info FROM {server.processes} WHERE db = '{database}' AND info IS NOT NULL")
    return any(text in row[0] for row in rows)


async def _is_whole(pool: ConnectionPool, server: Server, database: str) -> None:
    """All places of the pool work, each connection gives the answer to its own question, and there are none beside them."""
    assert [rows for rows in await at_once(pool, _COUNT, _echo) if rows != [(4711,)]] == []
    await until(lambda: len(connection_ids(server, database)) <= _COUNT, "no connection is left over")


async def _echo(connection: MysqlConnection) -> list[tuple[object, ...]]:
    return list((await connection.run("SELECT 4711")).rows)


async def test_cancelled_in_a_query(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:
        for _ in range(5):
            tasks = [asyncio.create_task(pool.read(_sleep)) for _ in range(_COUNT)]
            await until(lambda: _is_running(database_server, database, "SLEEP"), "it runs")
            for task in tasks:
                await _cancel(task)
        await _is_whole(pool, database_server, database)


async def _sleep(connection: MysqlConnection) -> object:
    return await connection.run("SELECT SLEEP(2)")


async def test_cancelled_while_a_long_answer_is_read(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:
        for turns in range(1, 40, 3):
            task = asyncio.create_task(pool.read(_read_much))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
        await _is_whole(pool, database_server, database)


async def _read_much(connection: MysqlConnection) -> object:
    return await connection.run("SELECT a.column_name, REPEAT('x', 1000) FROM information_schema.columns a")


async def test_cancelled_in_a_write(database_server: Server) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:

        async def write(number: int) -> object:
            async with pool.transaction() as connection:
                await connection.run(f"INSERT INTO t VALUES ({number})")
                return await connection.run(f"INSERT INTO t SELECT {number + 100} + SLEEP(2)")

        tasks = [asyncio.create_task(write(number)) for number in range(_COUNT)]
        await until(lambda: _is_running(database_server, database, "SLEEP"), "it runs")
        for task in tasks:
            await _cancel(task)
        await _is_whole(pool, database_server, database)
        await _nothing_is_locked(pool)
        assert await value(pool, "COUNT(*) FROM t") == 0


async def _nothing_is_locked(pool: ConnectionPool) -> None:
    """The keys that were written before can be written: waits for the server's undoing, as any other writer does."""
    await transact_in_turn(pool, "INSERT INTO t VALUES (0), (1), (2)", "DELETE FROM t")


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_transaction_given_up_while_it_waits_for_a_lock_leaves_its_own(
    database_server: Server, how: str
) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    database_server.sql("INSERT INTO t VALUES (1), (2)", database)
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:
        await at_once(pool, _COUNT, _echo)

        async def wait() -> object:
            async with pool.transaction() as connection:
                await connection.run("SET SESSION innodb_lock_wait_timeout=100")
                await connection.run("DELETE FROM t WHERE a = 1")
                return await connection.run("DELETE FROM t WHERE a = 2", limit_s=1 if how == "timed out" else 60)

        async with pool.transaction() as holding:
            await holding.run("DELETE FROM t WHERE a = 2")
            task = asyncio.create_task(wait())
            await until(lambda: task.done() or _is_running(database_server, database, "a = 2"), "it waits")
            if how == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            await transact_in_turn(pool, "DELETE FROM t WHERE a = 1")  # else it is locked for 100 s
        await _is_whole(pool, database_server, database)


async def test_cancelled_between_statements_rolls_back_and_keeps_the_connection(database_server: Server) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with opened(database_server.options(database, pool_size=1)) as pool:
        before = await value(pool, "CONNECTION_ID()")
        written = asyncio.Event()

        async def write_and_wait() -> object:
            async with pool.transaction() as connection:
                await connection.run("INSERT INTO t VALUES (1)")
                written.set()
                return await asyncio.Event().wait()

        task = asyncio.create_task(write_and_wait())
        await written.wait()
        await _cancel(task)
        assert await value(pool, "COUNT(*) FROM t") == 0
        assert await value(pool, "CONNECTION_ID()") == before


async def test_a_commit_goes_on_when_its_caller_is_cancelled(database_server: Server) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with opened(database_server.options(database, pool_size=1)) as pool:
        before = await value(pool, "CONNECTION_ID()")
        for number in range(5):
            commits = asyncio.Event()

            async def write(number: int = number, commits: asyncio.Event = commits) -> object:
                async with pool.transaction() as connection:
                    await connection.run(f"INSERT INTO t VALUES ({number})")
                    commits.set()
                return None

            task = asyncio.create_task(write())
            await commits.wait()  # the task has yet to leave its block
            for _ in range(number % 3):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await value(pool, "COUNT(*) FROM t") == number + 1
        assert await value(pool, "CONNECTION_ID()") == before


async def test_cancelled_in_a_commit_that_never_ends_the_place_comes_back(database_server: Server) -> None:
    database = database_server.new_database()
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(
            database, addresses=(proxy.address,), pool_size=1, pool_min=0, answer_timeout_s=0.5
        )
        async with opened(options) as pool:
            proxy.swallow_from(b"COMMIT")

            async def commit() -> object:
                async with pool.transaction():
                    pass
                return None

            task = asyncio.create_task(commit())
            await until(lambda: proxy.swallows, "it commits")
            await _cancel(task)
            proxy.swallow_from(b"no such text")
            proxy.swallows = False
            assert await value(pool, "1") == 1


async def test_cancelled_while_connecting(database_server: Server) -> None:
    database = database_server.new_database()
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(database, addresses=(proxy.address,), pool_size=_COUNT, pool_min=0)
        async with opened(options) as pool:
            async with pool.transaction():  # so that the others have to connect
                proxy.swallows = True
                tasks = [asyncio.create_task(pool.read(_echo)) for _ in range(_COUNT - 1)]
                await asyncio.sleep(0.05)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                proxy.swallows = False
            await _is_whole(pool, database_server, database)


async def test_closing_ends_what_runs_and_leaves_no_connection(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:
        await at_once(pool, _COUNT, _echo)
        task = asyncio.create_task(pool.read(_sleep))
        await until(lambda: _is_running(database_server, database, "SLEEP"), "it runs")
    async with asyncio.timeout(120):
        assert (await asyncio.gather(task, return_exceptions=True))[0].__class__.__name__ in {
            "StorageUnavailable",
            "BackendClosed",
        }
    await until(
        lambda: all(
            row[0] == "Killed" or "SLEEP" in str(row[1])
            for row in database_server.sql(
                f"SELECT command, info FROM {database_server.processes} WHERE db = '{database}'"
            )
        ),
        "no connection is left",
    )

"""What a connection is when it is handed out, and that losing connections is no error to anybody who comes afterwards."""

import asyncio

import pytest

from persistence_service.errors import DataRejected, QueryTimeout, StorageUnavailable, UnclassifiedStorageError
from persistence_service.storage.mysql.connection import SESSION_IDLE_S, MysqlConnection
from persistence_service.storage.mysql.errors import READ_ONLY
from persistence_service.storage.mysql.facts import ServerFacts
from persistence_service.storage.mysql.pool import ConnectionPool
from tests.integration.mysql.pools import at_once, connection_ids, kill_all, opened, transact, until, value
from tests.servers.server import Server

_COUNT = 4


async def _one(connection: MysqlConnection) -> None:
    await connection.run("SELECT 1")


async def test_every_session_is_prepared_whatever_the_server_is_set_to(own_server: Server) -> None:
    database = own_server.new_database()
    own_server.sql("SET GLOBAL sql_mode='ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    own_server.sql("SET GLOBAL time_zone='+05:00'")
    own_server.sql("SET GLOBAL autocommit=0")
    try:
        async with opened(own_server.options(database)) as pool:
            assert await value(pool, "@@sql_mode") == (
                "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
            )
            assert await value(pool, "@@time_zone") == "+00:00"
            assert await value(pool, "@@autocommit") == 1
            assert await value(pool, "@@character_set_client") == "utf8mb4"
            assert await value(pool, "'a ' = 'a'") == 0, "padded texts are equal"
            assert await value(pool, "'a' = 'A'") == 0
            assert await value(pool, "@@innodb_lock_wait_timeout") <= 10
            assert await value(pool, "@@lock_wait_timeout") <= 10
            assert await value(pool, "@@wait_timeout") == SESSION_IDLE_S
            answer = await pool.read(
                lambda connection: connection.run(
                    "SHOW VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation')"
                )
            )
            assert {row[1] for row in answer.rows} == {"REPEATABLE-READ"}
            escaped = await pool.read(_escaped)
            assert await value(pool, f"'{escaped}'") == "it's \\ \"\0\n"
    finally:
        own_server.sql("SET GLOBAL sql_mode=DEFAULT")
        own_server.sql("SET GLOBAL time_zone=DEFAULT")
        own_server.sql("SET GLOBAL autocommit=1")


async def _escaped(connection: MysqlConnection) -> str:
    return connection.escape_text("it's \\ \"\0\n")


async def test_values_come_as_the_backend_expects_them(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database())) as pool:
        answer = await pool.read(
            lambda connection: connection.run(
                "SELECT CAST('2026-01-02 03:04:05.678901' AS DATETIME(6)), DATE '2026-01-02', SUM(3), 2.5, 0.1e0, "
                "'中文', x'00FF', NULL, 18446744073709551615"
            )
        )
    assert answer.rows[0] == (
        "2026-01-02 03:04:05.678901",
        "2026-01-02",
        3,
        2.5,
        0.1,
        "中文",
        b"\x00\xff",
        None,
        18446744073709551615,
    )
    assert type(answer.rows[0][2]) is int


async def test_what_the_server_can_do_is_found_by_trying(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database(), query_timeout_s=0.2)) as pool:
        facts = await pool.read(_facts)
        assert facts.row_alias is (database_server.kind == "mysql")
        assert facts.is_mariadb is (database_server.kind == "mariadb")
        assert facts.max_packet_bytes == database_server.sql("SELECT @@max_allowed_packet")[0][0]
        endless = facts.limited_select.format(
            statement="COUNT(*) FROM information_schema.columns a, information_schema.columns b, "
            "information_schema.columns c, information_schema.columns d"
        )
        with pytest.raises(QueryTimeout):
            await pool.read(lambda connection: connection.run(endless))
        await pool.read(lambda connection: connection.run(facts.limited_select.format(statement="'{braces}'")))


async def _facts(connection: MysqlConnection) -> ServerFacts:
    return connection.facts


async def test_one_text_is_one_statement(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database())) as pool:
        with pytest.raises(UnclassifiedStorageError):
            await pool.read(lambda connection: connection.run("SELECT 1; SELECT 2"))


async def test_a_text_that_is_not_unicode_is_refused_and_the_connection_stays(database_server: Server) -> None:
    async with opened(database_server.options(database_server.new_database())) as pool:
        before = await value(pool, "CONNECTION_ID()")
        with pytest.raises(DataRejected):
            await pool.read(lambda connection: connection.run("SELECT '\ud800'"))
        assert await value(pool, "CONNECTION_ID()") == before


async def _transact_killed(pool: ConnectionPool, server: Server, database: str, *statements: str) -> None:
    async with pool.transaction() as connection:
        kill_all(server, database)
        for statement in statements:
            await connection.run(statement)


async def test_killed_connections_are_no_error_to_whoever_comes_next(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:
        for _ in range(5):
            await at_once(pool, _COUNT, _one)
            assert kill_all(database_server, database) == _COUNT
            await at_once(pool, _COUNT, _one)
            assert kill_all(database_server, database) == _COUNT
            for _ in range(_COUNT):
                await transact(pool, "SELECT 1")


async def test_a_transaction_whose_connection_is_killed_fails_and_the_next_one_works(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=1)) as pool:
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await _transact_killed(pool, database_server, database, "SELECT 1")
            await transact(pool, "SELECT 1")


async def test_a_killed_commit_is_unavailable(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=1)) as pool:
        with pytest.raises(StorageUnavailable):
            await _transact_killed(pool, database_server, database)
        assert await value(pool, "1") == 1


async def test_a_session_that_the_server_ended_for_idleness_is_no_error(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database, pool_size=_COUNT)) as pool:
        await at_once(pool, _COUNT, lambda connection: connection.run("SET SESSION wait_timeout=1"))
        for expression in ("1", "2"):
            former = connection_ids(database_server, database)
            await until(
                lambda former=former: not former & connection_ids(database_server, database),  # type: ignore[misc]  # mypy has no type for the default of a lambda
                "the server ends idle sessions",
            )
            assert await value(pool, expression) == int(expression)
            await transact(pool, "DO 1")
            await at_once(pool, _COUNT, lambda connection: connection.run("SET SESSION wait_timeout=1"))


async def test_a_restarted_server_is_used_again_as_soon_as_it_is_there(own_server: Server) -> None:
    database = own_server.new_database()
    async with opened(own_server.options(database, pool_size=_COUNT)) as pool:
        for end in (own_server.stop, own_server.kill):
            await at_once(pool, _COUNT, _one)
            await asyncio.to_thread(end)
            with pytest.raises(StorageUnavailable):
                await value(pool, "1")
            with pytest.raises(StorageUnavailable):
                await transact(pool)
            back = asyncio.Event()
            pool.on_available(back.set)
            await asyncio.to_thread(own_server.start)
            await at_once(pool, _COUNT, _one)
            await asyncio.wait_for(back.wait(), 120)


async def test_a_restart_between_two_calls_is_no_error(own_server: Server) -> None:
    database = own_server.new_database()
    async with opened(own_server.options(database, pool_size=_COUNT)) as pool:
        await at_once(pool, _COUNT, _one)
        own_server.stop()  # the event loop hears of nothing meanwhile
        own_server.start()
        await at_once(pool, _COUNT, _one)


async def test_a_read_only_server_is_unavailable_until_it_is_writable_again(own_server: Server) -> None:
    database = own_server.new_database()
    own_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    own_server.sql("CREATE USER IF NOT EXISTS plain IDENTIFIED BY 'word'")
    own_server.sql(f"GRANT ALL ON {database}.* TO plain")
    variable = "super_read_only" if own_server.kind == "mysql" else "read_only"
    async with opened(own_server.options(database, user="plain", password="word")) as pool:
        for number in range(2):
            own_server.sql(f"SET GLOBAL {variable}=1")
            try:
                with pytest.raises(StorageUnavailable) as caught:
                    await transact(pool, f"INSERT INTO t VALUES ({number})")
                assert caught.value.number in {1290, 1836}
                assert await value(pool, "COUNT(*) FROM t") == number
            finally:
                own_server.sql("SET GLOBAL read_only=0")
            await transact(pool, f"INSERT INTO t VALUES ({number})")


async def _write_and_fail(pool: ConnectionPool) -> None:
    async with pool.transaction() as connection:
        await connection.run("INSERT INTO t VALUES (1)")
        raise ZeroDivisionError


async def test_what_a_block_raises_undoes_it_and_leaves_a_clean_connection(database_server: Server) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with opened(database_server.options(database, pool_size=1)) as pool:
        before = await value(pool, "CONNECTION_ID()")
        with pytest.raises(ZeroDivisionError):
            await _write_and_fail(pool)
        with pytest.raises(DataRejected):
            await transact(pool, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)")
        assert await value(pool, "COUNT(*) FROM t") == 0
        assert await value(pool, "CONNECTION_ID()") == before


async def test_a_connection_left_in_a_transaction_is_not_used_again(database_server: Server) -> None:
    database = database_server.new_database()
    database_server.sql("CREATE TABLE t (a INT PRIMARY KEY)", database)
    async with opened(database_server.options(database, pool_size=1)) as pool:

        async def leave_it_open(connection: MysqlConnection) -> None:
            await connection.begin()
            await connection.run("INSERT INTO t VALUES (1)")

        await pool.read(leave_it_open)
        async with asyncio.timeout(120):
            assert await value(pool, "COUNT(*) FROM t") == 0
        await until(lambda: not _locks(database_server, database), "the server undoes it")


def _locks(server: Server, database: str) -> int:
    return len(
        server.sql(
            f"SELECT 1 FROM information_schema.innodb_trx JOIN {server.processes} "
            f"ON trx_mysql_thread_id = id WHERE db = '{database}'"
        )
    )


@pytest.mark.parametrize("number", sorted(READ_ONLY))
async def test_after_a_server_said_that_it_is_read_only_no_connection_to_it_is_used_again(
    database_server: Server, number: int
) -> None:
    """The address may lead to another server by now, if it is a name, a virtual address, or a proxy's."""
    options = database_server.options(database_server.new_database(), pool_size=_COUNT, pool_min=0)
    async with opened(options) as pool:
        former = set(await at_once(pool, _COUNT, _id))
        async with pool.transaction():  # its connection comes back later
            with pytest.raises(StorageUnavailable):
                await transact(pool, f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO={number}, MESSAGE_TEXT='read-only'")
        assert not former & set(await at_once(pool, _COUNT, _id))


async def _id(connection: MysqlConnection) -> object:
    return (await connection.run("SELECT CONNECTION_ID()")).rows[0][0]

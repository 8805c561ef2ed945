"""Errors that real servers give, each as the class that says what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    QueryTimeout,
    StorageSetupError,
    StorageUnavailable,
    TransactionConflict,
    UnclassifiedStorageError,
)
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.errors import column_in
from persistence_service.storage.mysql.options import MysqlOptions
from tests.servers.server import Server
from tests.unit.buffer.harness import until

BOTH = ("mysql", "mariadb")


@dataclass(frozen=True)
class Case:
    """The last of `statements` fails with the number that `numbers` has for the kind of server."""

    numbers: Mapping[str, int]
    statements: Sequence[str]
    column: str | None = None


def on_both(number: int, *statements: str, column: str | None = None) -> Case:
    return Case(dict.fromkeys(BOTH, number), statements, column)


def each(mysql: int, mariadb: int, *statements: str) -> Case:
    return Case({"mysql": mysql, "mariadb": mariadb}, statements)


NUMBERS = "CREATE TABLE t (id INT PRIMARY KEY, n TINYINT NOT NULL, s VARCHAR(3), d DATETIME, a VARCHAR(9) CHARACTER SET latin1)"
PARENTS = (
    "CREATE TABLE p (id INT PRIMARY KEY)",
    "CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id))",
)

REJECTED = {
    "too long": on_both(1406, NUMBERS, "INSERT INTO t (id, n, s) VALUES (1, 1, 'four')", column="s"),
    "out of range": on_both(1264, NUMBERS, "INSERT INTO t (id, n) VALUES (1, 1000)", column="n"),
    "an expression out of range": on_both(1690, "SELECT 18446744073709551615 + 1"),
    "no number": on_both(1366, NUMBERS, "INSERT INTO t (id, n) VALUES (1, 'id')", column="n"),
    "no time": on_both(1292, NUMBERS, "INSERT INTO t (id, n, d) VALUES (1, 1, 'yesterday')", column="d"),
    "cut off": on_both(1265, "CREATE TABLE t (e ENUM('a'))", "INSERT INTO t VALUES ('b')", column="e"),
    "not in the character set": on_both(1366, NUMBERS, "INSERT INTO t (id, n, a) VALUES (1, 1, '\u6f22')", column="a"),
    "bytes that are no text": on_both(1300, "SELECT CONVERT(0xFF USING utf8mb4) + 0, _utf8mb4 0xFF"),
    "no value": on_both(1048, NUMBERS, "INSERT INTO t (id, n) VALUES (1, NULL)", column="n"),
    "a key twice": on_both(1062, NUMBERS, "INSERT INTO t (id, n) VALUES (1, 1)", "INSERT INTO t (id, n) VALUES (1, 2)"),
    "no parent": on_both(1452, *PARENTS, "INSERT INTO c VALUES (1, 1)"),
    "a check": each(3819, 4025, "CREATE TABLE t (n INT, CHECK (n > 0))", "INSERT INTO t VALUES (0)"),
    "a trigger's signal": on_both(
        1644,
        "CREATE TABLE t (n INT)",
        "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'",
        "INSERT INTO t VALUES (0)",
    ),
    "no JSON": each(3140, 4025, "CREATE TABLE t (j JSON)", "INSERT INTO t VALUES ('{')"),
    "no partition": on_both(
        1526,
        "CREATE TABLE t (n INT) PARTITION BY RANGE (n) (PARTITION p VALUES LESS THAN (1))",
        "INSERT INTO t VALUES (1)",
    ),
    "a row too large": on_both(
        1118,
        "CREATE TABLE t ("
        + ", ".join(f"c{n} CHAR(255) CHARACTER SET latin1" for n in range(40))
        + ") ROW_FORMAT=COMPACT",
    ),
}
SET_UP = {
    "a parent with children": on_both(
        1451, *PARENTS, "INSERT INTO p VALUES (1)", "INSERT INTO c VALUES (1, 1)", "DELETE FROM p"
    ),
    "no table": on_both(1146, "SELECT 1 FROM nothing_here"),
    "no column": on_both(1054, NUMBERS, "SELECT nothing_here FROM t"),
    "no default": on_both(1364, NUMBERS, "INSERT INTO t (id) VALUES (1)"),
    "no variable": on_both(1193, "SET SESSION nothing_here = 1"),
    "no such value of a variable": on_both(1231, "SET SESSION sql_mode = 'NOTHING_HERE'"),
    "no character set": on_both(1115, "SET NAMES nothing_here"),
    "no collation": on_both(1273, "SELECT 'a' COLLATE nothing_here"),
    "no engine": on_both(1286, "CREATE TABLE t (n INT) ENGINE=nothing_here"),
    "mixed collations": on_both(
        1267,
        "CREATE TABLE t (a VARCHAR(9) COLLATE utf8mb4_unicode_ci, b VARCHAR(9) COLLATE utf8mb4_general_ci)",
        "SELECT 1 FROM t WHERE a = b",
    ),
    "too much to join": on_both(
        1104, NUMBERS, "INSERT INTO t (id, n) VALUES (1, 1), (2, 2)", "SET SESSION sql_big_selects = 0, max_join_size = 1",
        "SELECT 1 FROM t AS x, t AS y",
    ),
    "a trigger of nobody": on_both(
        1449,
        "CREATE TABLE t (n INT)",
        "CREATE DEFINER='nobody'@'nowhere' TRIGGER gone BEFORE INSERT ON t FOR EACH ROW SET NEW.n = 1",
        "INSERT INTO t VALUES (0)",
    ),
    "no primary key": Case({"mysql": 3750}, ("SET SESSION sql_require_primary_key = 1", "CREATE TABLE t (n INT)")),
}  # fmt: skip
AWAY = {
    "a table that is full": on_both(
        1114,
        "SET SESSION max_heap_table_size = 16384",
        "CREATE TABLE t (s CHAR(255)) ENGINE=MEMORY",
        "INSERT INTO t " + " UNION ALL ".join(["SELECT 'x'"] * 300),
    ),
    "a transaction that may only read": on_both(
        1792, NUMBERS, "START TRANSACTION READ ONLY", "INSERT INTO t (id, n) VALUES (1, 1)"
    ),
    "a table locked by oneself": on_both(
        1192, NUMBERS, "LOCK TABLES t READ", "SET autocommit = 0", "FLUSH TABLES WITH READ LOCK"
    ),
}


@pytest.fixture
def database(database_server: Server) -> Iterator[str]:
    name = database_server.new_database()
    yield name
    database_server.drop(name)


@pytest.fixture
async def connection(database_server: Server, database: str) -> AsyncIterator[MysqlConnection]:
    opened = await MysqlConnection.open(database_server.options(database), (database_server.host, database_server.port))
    yield opened
    await opened.close()


async def failure(connection: MysqlConnection, *statements: str) -> Any:  # noqa: ANN401  # with the attributes of its class
    """What the last of `statements` is answered with."""
    for statement in statements[:-1]:
        await connection.run(statement)
    with pytest.raises(PersistenceError) as caught:
        await connection.run(statements[-1])
    return caught.value


@pytest.mark.parametrize("case", REJECTED.values(), ids=REJECTED)
async def test_what_a_record_is_at_fault_for(connection: MysqlConnection, database_server: Server, case: Case) -> None:
    error = await failure(connection, *case.statements)

    assert (type(error), error.number) == (DataRejected, case.numbers[database_server.kind])
    assert column_in(error, ("id", "n", "s", "d", "a", "e")) == case.column


@pytest.mark.parametrize("case", SET_UP.values(), ids=SET_UP)
async def test_what_a_person_must_mend(connection: MysqlConnection, database_server: Server, case: Case) -> None:
    if database_server.kind not in case.numbers:
        pytest.skip("this server knows no such thing")
    error = await failure(connection, *case.statements)

    assert (type(error), error.number) == (StorageSetupError, case.numbers[database_server.kind])


@pytest.mark.parametrize("case", AWAY.values(), ids=AWAY)
async def test_what_passes(connection: MysqlConnection, database_server: Server, case: Case) -> None:
    error = await failure(connection, *case.statements)

    assert (type(error), error.number) == (StorageUnavailable, case.numbers[database_server.kind])


async def test_a_statement_that_is_not_understood_is_unclassified(connection: MysqlConnection) -> None:
    error = await failure(connection, "SELEKT 1")

    assert (type(error), error.number) == (UnclassifiedStorageError, 1064)


async def test_a_text_that_is_not_unicode_is_never_sent(connection: MysqlConnection) -> None:
    assert type(await failure(connection, "SELECT '\ud800'")) is DataRejected
    assert (await connection.run("SELECT 1")).rows


# ------------------------------------------------------------------------------------------------- time and killing


async def test_a_query_beyond_its_time_is_a_query_timeout(connection: MysqlConnection, database_server: Server) -> None:
    slow = (
        "SELECT /*+ MAX_EXECUTION_TIME(10) */ COUNT(*) FROM information_schema.columns a, information_schema.columns b, "
        "information_schema.columns c"
        if database_server.kind == "mysql"
        else "SET STATEMENT max_statement_time=0.01 FOR SELECT SLEEP(5)"
    )
    error = await failure(connection, slow)

    assert (type(error), error.number) == (QueryTimeout, {"mysql": 3024, "mariadb": 1969}[database_server.kind])


@pytest.mark.parametrize("what", ["QUERY", "CONNECTION"])
async def test_what_somebody_kills_may_be_tried_again(
    connection: MysqlConnection, database_server: Server, database: str, what: str
) -> None:
    ((identity,),) = (await connection.run("SELECT CONNECTION_ID()")).rows
    await connection.run("CREATE TABLE t (id INT PRIMARY KEY)")
    await connection.run("INSERT INTO t VALUES (1)")
    async with locked_row(database_server, database):
        waiting = asyncio.create_task(connection.run("UPDATE t SET id = 2"))
        await until(
            lambda: bool(
                database_server.sql(
                    f"SELECT 1 FROM {database_server.processes} WHERE id = {identity} AND info LIKE 'UPDATE%'"
                )
            )
        )
        database_server.sql(f"KILL {what} {identity}")
        with pytest.raises(StorageUnavailable) as caught:
            await waiting

    assert type(caught.value) is StorageUnavailable
    assert caught.value.number in (1317, 1927, 2013)


# -------------------------------------------------------------------------------------------------------- conflicts


@asynccontextmanager
async def locked_row(server: Server, database: str) -> AsyncIterator[MysqlConnection]:
    """Another connection, within a transaction that has locked the row 1 of `t`."""
    options = server.options(database)
    other = await MysqlConnection.open(options, options.addresses[0])
    await other.begin()
    await other.run("SELECT id FROM t WHERE id = 1 FOR UPDATE")
    yield other
    await other.close()


async def two_rows(connection: MysqlConnection) -> None:
    await connection.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    await connection.run("INSERT INTO t VALUES (1, 1), (2, 2)")


async def test_a_row_that_stays_locked_is_a_conflict(
    connection: MysqlConnection, database_server: Server, database: str
) -> None:
    await two_rows(connection)
    async with locked_row(database_server, database):
        waited = await failure(
            connection, "SET SESSION innodb_lock_wait_timeout = 1", "UPDATE t SET n = 9 WHERE id = 1"
        )
        at_once = await failure(connection, "SELECT n FROM t WHERE id = 1 FOR UPDATE NOWAIT")

    assert (type(waited), waited.number) == (TransactionConflict, 1205)
    assert (type(at_once), at_once.number) == (
        TransactionConflict,
        {"mysql": 3572, "mariadb": 1205}[database_server.kind],
    )


async def test_a_table_that_somebody_alters_is_a_conflict(
    connection: MysqlConnection, database_server: Server, database: str
) -> None:
    await two_rows(connection)
    other = await MysqlConnection.open(database_server.options(database), (database_server.host, database_server.port))
    try:
        await other.run("LOCK TABLES t WRITE")
        waited = await failure(connection, "SET SESSION lock_wait_timeout = 1", "SELECT n FROM t")
    finally:
        await other.close()

    assert (type(waited), waited.number) == (TransactionConflict, 1205)


async def test_the_victim_of_a_deadlock_has_a_conflict(
    connection: MysqlConnection, database_server: Server, database: str
) -> None:
    await two_rows(connection)
    async with locked_row(database_server, database) as other:
        await connection.begin()
        await connection.run("UPDATE t SET n = 9 WHERE id = 2")
        mine = asyncio.create_task(connection.run("UPDATE t SET n = 9 WHERE id = 1"))
        theirs = asyncio.create_task(other.run("UPDATE t SET n = 9 WHERE id = 2"))
        outcomes = await asyncio.gather(mine, theirs, return_exceptions=True)

    (conflict,) = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert isinstance(conflict, TransactionConflict)
    assert conflict.number == 1213


async def test_a_row_that_changed_since_the_snapshot_is_a_conflict(
    connection: MysqlConnection, database_server: Server, database: str
) -> None:
    if database_server.kind != "mariadb":
        pytest.skip("MariaDB alone can check that")
    await two_rows(connection)
    await connection.run("SET SESSION innodb_snapshot_isolation = ON")
    await connection.begin()
    await connection.run("SELECT n FROM t")
    database_server.sql("UPDATE t SET n = 9 WHERE id = 1", database)
    error = await failure(connection, "UPDATE t SET n = 8 WHERE id = 1")

    assert (type(error), error.number) == (TransactionConflict, 1020)


# ------------------------------------------------------------------------------------------------------------ login


@dataclass
class Account:
    """An account that may do nothing but log in."""

    server: Server
    name: str
    database: str

    async def refusal(self, *statements: str, **changes: Any) -> Any:  # noqa: ANN401  # fields of several types
        """What it is answered with, when it logs in or by the last of `statements`."""
        options = replace(self.server.options(self.database, user=self.name, password="right"), **changes)
        with pytest.raises(PersistenceError) as caught:
            await self._run(options, statements)
        return caught.value

    async def _run(self, options: MysqlOptions, statements: Sequence[str]) -> None:
        connection = await MysqlConnection.open(options, options.addresses[0])
        try:
            for statement in statements:
                await connection.run(statement)
        finally:
            await connection.close()

    def may(self, *statements: str) -> None:
        for statement in statements:
            self.server.sql(statement.format(account=f"'{self.name}'@'%'", database=self.database))


@pytest.fixture
def account(database_server: Server, database: str) -> Iterator[Account]:
    name = database.removeprefix("test_")
    account = Account(database_server, name, database)
    account.may("CREATE USER {account} IDENTIFIED BY 'right'")
    yield account
    with suppress(Exception):
        account.may("DROP USER {account}")


READ_ONE = ("CREATE TABLE {database}.t (id INT, n INT)", "GRANT SELECT (id) ON {database}.t TO {account}")
REFUSED: dict[str, tuple[int, Sequence[str], Sequence[str], Mapping[str, str]]] = {
    "a wrong password": (1045, (), (), {"password": "wrong"}),
    "an unknown account": (1045, (), (), {"user": "nobody_here"}),
    "no right to the database": (1044, (), (), {}),
    "no such database": (1049, ("GRANT ALL ON `no%`.* TO {account}",), (), {"database": "no_such_database"}),
    "no right to a table": (1142, READ_ONE, ("DELETE FROM t",), {}),
    "no right to a column": (1143, READ_ONE, ("SELECT n FROM t",), {}),
    "no right to set variables": (1227, READ_ONE, ("SET GLOBAL max_connections = 1",), {}),
    "no right to a routine": (
        1370,
        (*READ_ONE, "CREATE PROCEDURE {database}.p () SELECT 1"),
        ("CALL p()",),
        {},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_an_account_may_not_do_is_for_a_person_to_mend(account: Account, name: str) -> None:
    number, rights, statements, changes = REFUSED[name]
    account.may(*rights)
    error = await account.refusal(*statements, **changes)

    assert (type(error), error.number) == (StorageSetupError, number)


@pytest.mark.parametrize("how, numbers", [("LOCK", (3118, 4151)), ("EXPIRE", (1820, 1862))])
async def test_an_account_that_is_locked_or_expired_is_for_a_person_to_mend(
    account: Account, how: str, numbers: Sequence[int]
) -> None:
    account.may("GRANT ALL ON {database}.* TO {account}")
    account.may("ALTER USER {account} ACCOUNT LOCK" if how == "LOCK" else "ALTER USER {account} PASSWORD EXPIRE")
    error = await account.refusal("SELECT 1")

    assert type(error) is StorageSetupError
    assert error.number in numbers


async def test_an_account_with_too_many_connections_may_try_again(account: Account) -> None:
    account.may("GRANT ALL ON {database}.* TO {account}", "ALTER USER {account} WITH MAX_USER_CONNECTIONS 1")
    options = account.server.options(account.database, user=account.name, password="right")
    first = await MysqlConnection.open(options, options.addresses[0])
    error = await account.refusal()
    await first.close()

    assert (type(error), error.number) == (StorageUnavailable, 1226)


# ---------------------------------------------------------------------------------------------- the server as a whole


async def test_nobody_at_the_port_is_transient(database_server: Server) -> None:
    options = database_server.options("", addresses=((database_server.host, 1),))
    with pytest.raises(StorageUnavailable) as caught:
        await MysqlConnection.open(options, options.addresses[0])

    assert caught.value.number == 2003


@contextmanager
def globally(server: Server, name: str, value: str) -> Iterator[None]:
    """A variable of the server that is otherwise, and for connections of the block only."""
    with server.connected() as run:  # one connection, as some values keep all others out
        ((before,),) = run(f"SELECT @@global.{name}")
        run(f"SET GLOBAL {name} = {value}")
        try:
            yield
        finally:
            run(f"SET GLOBAL {name} = {before}")


@pytest.fixture
def own_account(own_server: Server) -> Iterator[Account]:
    """On a server that the test may spoil; it may do everything in a database of its own."""
    database = own_server.new_database()
    account = Account(own_server, database.removeprefix("test_"), database)
    account.may("CREATE USER {account} IDENTIFIED BY 'right'", "GRANT ALL ON {database}.* TO {account}")
    account.may("CREATE TABLE {database}.t (s LONGTEXT)")
    yield account
    own_server.drop(database)


async def test_a_statement_beyond_the_packet_limit_is_the_records_fault(own_account: Account) -> None:
    with globally(own_account.server, "max_allowed_packet", str(2**20)):
        error = await own_account.refusal(f"INSERT INTO t VALUES ('{'x' * 2**20}')")

    # A server that drops the connection before it has read all leaves its reason unread.
    assert (type(error), error.number) in [(DataRejected, 1153), (StorageUnavailable, None), (StorageUnavailable, 2013)]


@pytest.mark.parametrize("variable", ["read_only", "super_read_only"])
async def test_a_server_that_may_only_be_read_is_transient(own_account: Account, variable: str) -> None:
    if not own_account.server.sql(f"SHOW GLOBAL VARIABLES LIKE '{variable}'"):
        pytest.skip("this server knows no such thing")
    with globally(own_account.server, variable, "1"):
        error = await own_account.refusal("INSERT INTO t VALUES ('x')")

    assert (type(error), error.number) == (StorageUnavailable, 1290)


async def test_a_server_with_too_many_connections_is_transient(own_account: Account) -> None:
    server = own_account.server
    options = server.options(own_account.database, user=own_account.name, password="right")
    with globally(server, "max_connections", "10"):  # of which the test has one
        held = [await MysqlConnection.open(options, options.addresses[0]) for _ in range(9)]
        error = await own_account.refusal()
        for connection in held:
            await connection.close()

    assert (type(error), error.number) == (StorageUnavailable, 1040)


async def test_a_server_that_asks_for_tls_is_for_a_person_to_mend(own_account: Account) -> None:
    if own_account.server.kind != "mysql":
        pytest.skip("without a certificate, MariaDB does not let itself be set so")
    with globally(own_account.server, "require_secure_transport", "1"):
        error = await own_account.refusal()

    assert (type(error), error.number) == (StorageSetupError, 3159)


async def test_a_server_in_offline_mode_is_transient(own_account: Account) -> None:
    if own_account.server.kind != "mysql":
        pytest.skip("this server knows no such thing")
    with globally(own_account.server, "offline_mode", "1"):
        error = await own_account.refusal()

    assert (type(error), error.number) == (StorageUnavailable, 3032)


async def test_a_server_that_was_killed_is_transient(own_account: Account) -> None:
    own_account.server.kill()
    error = await own_account.refusal()
    own_account.server.start()

    assert (type(error), error.number) == (StorageUnavailable, 2003)

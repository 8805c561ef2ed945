"""One host: whether it can be reached and lets the account in, and what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pymysql.constants import ER

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable, UnclassifiedStorageError
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.grants import RUNNING, grant_statement
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.powers import Finding, Level

_TRIPS = 3
_SLOW_S = 0.02
_TOO_MANY = (ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED)


@dataclass(slots=True)
class Host:
    """What is known of a host; `connection` is None where the account did not get in.

    `is_denied` says that the account has no right on the database, be it there or not.

    `variables` are the server's, `session` those of our connection, `status` counters of our connection: texts by name, and
    without those that the server does not have.
    """

    options: MysqlOptions
    address: Address
    connection: MysqlConnection | None = None
    has_database: bool = True
    is_denied: bool = False
    findings: list[Finding] = field(default_factory=list)
    variables: Mapping[str, str] = field(default_factory=dict)
    session: Mapping[str, str] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def is_writable(self) -> bool:
        return not any(is_on(self.variables.get(name)) for name in ("read_only", "super_read_only", "innodb_read_only"))

    async def rows(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """What the host answers.

        Raises:
            PersistenceError: it does not.
        """
        assert self.connection is not None  # noqa: S101  # nothing is asked of hosts that were not reached
        return (await self.connection.run(statement, limit_s=self.options.query_timeout_s)).rows

    async def guarded(self, name: str, look: Callable[[Host], Awaitable[list[Finding]]]) -> list[Finding]:
        """What `look` finds; that it could not be looked at, if an error says so."""
        try:
            return await look(self)
        except PersistenceError as exc:
            return [Finding(name, Level.NOT_CHECKED, str(exc))]


def is_on(value: str | None) -> bool:
    """A switch among the variables, as either server writes it."""
    return value is not None and value.upper() in {"ON", "1", "YES"}


async def reach(options: MysqlOptions, address: Address) -> Host:
    """Connect as the service does, or without the database if that is what is missing."""
    host = Host(options, address)
    began = time.perf_counter()
    try:
        try:
            host.connection = await MysqlConnection.open(options, address)
        except StorageSetupError as exc:
            if exc.number not in (ER.BAD_DB_ERROR, ER.DBACCESS_DENIED_ERROR):
                raise
            host.has_database, host.is_denied = False, exc.number == ER.DBACCESS_DENIED_ERROR
            host.connection = await MysqlConnection.open(replace(options, database=""), address)
        host.findings.append(await _latency(host, time.perf_counter() - began))
        await _ask(host)
    except PersistenceError as exc:
        if host.connection is not None:
            host.connection.abandon()
            host.connection = None
        host.findings.append(_refusal(host, exc))
        return host
    host.findings.append(_login(host))
    return host


async def _latency(host: Host, connecting_s: float) -> Finding:
    trips = []
    for _ in range(_TRIPS):
        began = time.perf_counter()
        await host.rows("SELECT 1")
        trips.append(time.perf_counter() - began)
    detail = f"{host.name} let us in after {connecting_s * 1000:.0f} ms and answers in {min(trips) * 1000:.1f} ms"
    if min(trips) < _SLOW_S:
        return Finding("reachable", Level.OK, detail)
    return Finding(
        "reachable", Level.WARNING, detail, "Run the service nearer to the database: each write waits for it."
    )


async def _ask(host: Host) -> None:
    host.variables = await _pairs(host, "SHOW GLOBAL VARIABLES")
    host.session = await _pairs(host, "SHOW SESSION VARIABLES")
    host.status = await _pairs(host, "SHOW SESSION STATUS LIKE 'Ssl%'")


async def _pairs(host: Host, statement: str) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value, *_ in await host.rows(statement)}


def _login(host: Host) -> Finding:
    account = host.options.user
    if host.has_database:
        return Finding("login", Level.OK, f"the account {account} gets in")
    database = host.options.database
    if host.is_denied:
        return Finding(
            "login",
            Level.PROBLEM,
            f"the account {account} gets in, but has no right at all on a database {database}",
            f"Make the database if there is none, then: {grant_statement(host.options, RUNNING)}",
        )
    return Finding(
        "login",
        Level.PROBLEM,
        f"the account {account} gets in, but there is no database {database}, or the account may not know of it",
        f"Make it, and give the account its privileges: CREATE DATABASE `{database}`;",
    )


def _refusal(host: Host, error: PersistenceError) -> Finding:
    if isinstance(error, UnclassifiedStorageError):
        return Finding(
            "session",
            Level.PROBLEM,
            f"{host.name} does not understand how the service prepares its sessions: {error}",
            "Check that it is MySQL 8.0.17 or MariaDB 10.6, or a later one, and no proxy that passes on less.",
        )
    if isinstance(error, StorageSetupError):
        return Finding(
            "login",
            Level.PROBLEM,
            str(error),
            "Put right what it says, then run this again: database.user, password, tls.",
        )
    if isinstance(error, StorageUnavailable) and error.number in _TOO_MANY:
        return Finding(
            "connections",
            Level.PROBLEM,
            f"{host.name}: {error}",
            "Raise the server's or the account's limit on connections, or lower database.pool_size or service.workers of its services.",
        )
    return Finding(
        "reachable",
        Level.PROBLEM,
        f"{host.name}: {error}",
        "Check that the server runs and listens on that address, database.host and database.port, and firewalls between.",
    )

"""One connection to one server: statements with a time limit, and never a second use after a doubt."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from pymysql.constants import ER, SERVER_STATUS
from pymysql.err import MySQLError

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable
from persistence_service.storage.mysql import session
from persistence_service.storage.mysql.errors import READ_ONLY, translated
from persistence_service.storage.mysql.facts import ServerFacts, find_facts
from persistence_service.storage.mysql.grants import RUNNING, grant_statement
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.wire import Wire

# A client that vanished without a word (its machine lost power) holds its locks until the server ends the session. The pool
# pings what it keeps more often than this.
SESSION_IDLE_S = 60
_ROLLBACK_S = 5.0
_KILL_S = 2.0
_CLOSE_WAIT_S = 1.0

_ASSIGNMENTS = session.assignments(idle_s=SESSION_IDLE_S, table_wait_s=session.LOCK_WAIT_S)
_SESSION = (
    f"SET NAMES utf8mb4 COLLATE {session.COLLATION}, autocommit=1, unique_checks=1, {_ASSIGNMENTS}",
    f"SET SESSION TRANSACTION ISOLATION LEVEL {session.ISOLATION}",
)

# The driver's own numbers (a lost connection, a broken protocol) and those with which a server says farewell:
# MariaDB's ER_CONNECTION_KILLED, ER_SESSION_WAS_KILLED, ER_CLIENT_INTERACTION_TIMEOUT, of which the driver knows no names.
_CLIENT_NUMBERS = range(2000, 3000)
_FAREWELLS = {ER.SERVER_SHUTDOWN, 1927, 3169, 4031}


class Answer(NamedTuple):
    """What the server said to one statement; `affected` counts as MySQL does: an upsert's row is 0, 1 or 2."""

    rows: Sequence[tuple[Any, ...]]
    affected: int
    warnings: int


class MysqlConnection:
    """Used by one task at a time. Once `is_usable` is False it stays so."""

    def __init__(self, wire: Wire, address: Address, facts: ServerFacts, answer_timeout_s: float) -> None:
        self._wire = wire
        self._answer_timeout_s = answer_timeout_s
        self.address = address
        self.facts = facts
        self.was_lost = False  # closed by the other side, or by us on another's behalf
        self.left_running = False  # the server may still be at a statement that was given up
        self.opened_at = self._used_at = time.monotonic()

    @classmethod
    async def open(cls, options: MysqlOptions, address: Address, known: ServerFacts | None = None) -> Self:
        """Connect, log in and prepare the session, all within `connect_timeout_s`.

        `known` are the facts of a former connection there, which spare looking for them again.
        """
        wire = Wire(options, address)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await wire.connect()
                for statement in _SESSION:
                    await wire.query(statement)
                facts = await find_facts(wire, options.query_timeout_s, known)
        except TimeoutError as exc:
            wire.close()
            raise StorageUnavailable(
                f"{_name(address)} did not let us in within {options.connect_timeout_s:g} s (database.connect_timeout)"
            ) from exc
        except Exception as exc:
            wire.close()
            raise _connect_error(exc, address, options) from exc
        except BaseException:
            wire.close()
            raise
        return cls(wire, address, facts, options.answer_timeout_s)

    @property
    def is_usable(self) -> bool:
        """Whether nothing is known against the next statement; the server may still be gone."""
        return bool(self._wire.is_sound)

    @property
    def is_clean(self) -> bool:
        """Whether another caller may have it: usable, and in no transaction."""
        return self.is_usable and not self.in_transaction

    @property
    def in_transaction(self) -> bool:
        """As the server said last, which after an error may be more than is true."""
        return bool(self._wire.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.opened_at

    @property
    def idle_s(self) -> float:
        """How long ago the server last answered."""
        return time.monotonic() - self._used_at

    async def run(self, statement: str | bytes, *, limit_s: float | None = None) -> Answer:
        """Do one statement; `limit_s` is None for the usual limit.

        After a time-out, a cancellation or a loss the socket is closed: whether the statement was done is not known, and the
        server, which does not look at the socket meanwhile, may go on with it and hold its locks until it ends.

        Raises:
            PersistenceError: as `translated` says; StorageUnavailable for a time-out and a lost connection.
        """
        limit_s = self._answer_timeout_s if limit_s is None else limit_s
        limit = asyncio.timeout(limit_s)
        try:
            text = statement if isinstance(statement, bytes) else statement.encode()
            async with limit:
                await self._wire.query(text)
        except Exception as exc:
            if limit.expired():
                self.left_running = True
                self.abandon()
                raise StorageUnavailable(f"{_name(self.address)} gave no answer within {limit_s:g} s") from exc
            raise self._failure(exc) from exc
        except BaseException:
            self.left_running = True
            self.abandon()
            raise
        self._used_at = time.monotonic()
        result = self._wire._result  # noqa: SLF001  # the driver gives it to its cursors alone
        return Answer(result.rows or (), result.affected_rows, result.warning_count)

    def escape_text(self, text: str) -> str:
        """`text` as it stands between single quotes in a statement of this session."""
        return str(self._wire.escape_string(text))

    async def begin(self) -> None:
        await self.run("START TRANSACTION")

    async def commit(self) -> None:
        """After an error the outcome is unknown unless the server itself refused."""
        try:
            await self.run("COMMIT")
        finally:
            self.left_running = False  # better that it ends as it will

    async def roll_back(self) -> None:
        """Quickly or not at all: once the connection is closed, the server does it by itself."""
        await self.run("ROLLBACK", limit_s=min(_ROLLBACK_S, self._answer_timeout_s))

    async def kill_statement_of(self, other: MysqlConnection) -> None:
        """Have the server end what `other`, a connection to the same server that was given up, has left running."""
        try:
            await self.run(f"KILL QUERY {other._wire.thread_id()}", limit_s=min(_KILL_S, self._answer_timeout_s))
        finally:
            self.left_running = False  # which nobody has to end

    def abandon(self) -> None:
        """Close the socket now: the server rolls back what is open."""
        self._wire.close()

    async def close(self) -> None:
        """Take leave, so that the server counts no aborted client; within a second, and without an error."""
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_WAIT_S):
                await self._wire.quit()
        self.abandon()

    def _failure(self, error: Exception) -> PersistenceError:
        """Ours for `error`; what leaves a doubt about the connection ends it."""
        if isinstance(error, PersistenceError | UnicodeEncodeError):
            return translated(error) or StorageUnavailable(str(error))
        number = error.args[0] if isinstance(error, MySQLError) and error.args else None
        if self._wire.closed or not isinstance(number, int) or number in _CLIENT_NUMBERS or number in _FAREWELLS:
            self.was_lost = True
            self.abandon()
            return StorageUnavailable(
                f"the connection to {_name(self.address)} was lost", number=number if isinstance(number, int) else None
            )
        if number in READ_ONLY:  # a new connection to the same address may lead to the primary
            self.abandon()
        return translated(error) or StorageUnavailable(f"{_name(self.address)}: {error}", number=number)


def _connect_error(error: Exception, address: Address, options: MysqlOptions) -> PersistenceError:
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return StorageSetupError(
            f"the certificate of {_name(address)} is not accepted: {cause.verify_message}; check database.tls_ca and "
            "database.host, and whether this is the right server"
        )
    known = translated(error)
    if isinstance(known, StorageSetupError) and known.number == ER.DBACCESS_DENIED_ERROR:
        grant = grant_statement(options, RUNNING)
        return StorageSetupError(
            f"the account {options.user} has no right at all on a database {options.database}; {grant}",
            number=known.number,
        )
    if known is not None:
        return known
    return StorageUnavailable(f"can't connect to {_name(address)}: {cause}")


def _name(address: Address) -> str:
    return f"the database server {address[0]}:{address[1]}"

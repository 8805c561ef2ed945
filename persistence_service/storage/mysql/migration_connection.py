"""A connection for work on the schema: synchronous, since Alembic is, and used in a thread of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pymysql
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable
from persistence_service.storage.mysql import session
from persistence_service.storage.mysql.errors import translated
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.wire import TEXT_IN_CLEAR

# For as long the lock on migrations outlives a machine that lost power; and as long a single statement may take.
_IDLE_S = 900
# A change of a table that waits for a long transaction makes everybody behind it wait.
_TABLE_WAIT_S = 30
_SESSION = f"SET {session.assignments(idle_s=_IDLE_S, table_wait_s=_TABLE_WAIT_S)}"
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class _Driver(pymysql.connections.Connection):  # type: ignore[misc]  # the driver ships no types
    """Gives the password in clear text over TLS alone."""

    def _process_auth(self, plugin_name: bytes, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # the signature is PyMySQL's
        if plugin_name.decode("ascii", "replace") in TEXT_IN_CLEAR and not self.ssl:
            raise StorageSetupError("the database server asks for the password in clear text: set database.tls")
        return super()._process_auth(plugin_name, *args, **kwargs)


class MigrationConnection:
    """In autocommit mode, in UTC and strict. `sql` is the same connection for Alembic.

    Connecting and waiting for locks have limits. What a statement then takes has none, as nobody knows how large a table is;
    but a host that is gone is noticed, and `abandon`, from any thread, ends it all at once.
    """

    def __init__(self, options: MysqlOptions, address: Address) -> None:
        context = options.tls.context()
        with ExitStack() as undo:
            channel = _connected(address, options.connect_timeout_s)
            undo.callback(channel.close)
            _keep_alive(channel)
            self._handle = channel.dup()  # TLS takes the socket away from us
            undo.callback(self._handle.close)
            self._driver = _Driver(
                host=address[0],
                port=address[1],
                user=options.user,
                password=options.password.encode(),
                database=options.database,
                charset="utf8mb4",
                autocommit=True,
                local_infile=False,
                ssl=context,
                ssl_disabled=context is None,
                read_timeout=options.connect_timeout_s,
                init_command=_SESSION,
                program_name="persistence-service migrate",
                defer_connect=True,
            )
            self._driver.connect(channel)
            self._driver._read_timeout = None  # noqa: SLF001  # PyMySQL has one for the connection's whole life
            engine = create_engine(
                "mysql+pymysql://",
                creator=lambda: self._driver,
                poolclass=NullPool,
                pool_reset_on_return=None,
                isolation_level="AUTOCOMMIT",
            )
            self.sql: Connection = engine.connect()
            undo.pop_all()

    def run(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement, none if it gives none.

        Raises:
            PersistenceError: as `translated` says.
        """
        if self.sql.invalidated:
            raise StorageUnavailable("the connection to the database was lost")
        with errors_translated():
            if parameters:
                result = self.sql.execute(text(statement), dict(parameters))
            else:  # as it is: a name in it may have a colon or a percent sign
                result = self.sql.exec_driver_sql(statement, execution_options={"no_parameters": True})
            return [tuple(row) for row in result] if result.returns_rows else []

    def abandon(self) -> None:
        """End what is running, and everything after it, with an error."""
        with suppress(OSError):
            self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The server rolls back what is open."""
        with suppress(pymysql.err.Error, SQLAlchemyError, OSError):
            self.sql.close()
        with suppress(pymysql.err.Error, OSError):
            self._driver.close()
        self._handle.close()


@contextmanager
def errors_translated() -> Iterator[None]:
    """Raises ours in place of the driver's."""
    try:
        yield
    except PersistenceError:
        raise
    except Exception as exc:
        # SQLAlchemy's name for what it wraps, and PyMySQL's.
        cause = getattr(exc, "orig", None) or getattr(exc, "original_exception", None) or exc
        ours = translated(cause) if isinstance(cause, Exception) else None
        if ours is None:
            raise
        raise ours from exc


def _connected(address: Address, timeout_s: float) -> socket.socket:
    try:
        return socket.create_connection(address, timeout=timeout_s)
    except OSError as exc:
        raise StorageUnavailable(f"can't connect to the database server {address[0]}:{address[1]}: {exc}") from exc


def _keep_alive(channel: socket.socket) -> None:
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # not everywhere
            channel.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

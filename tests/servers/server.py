"""`Server`: a real MySQL or MariaDB, as tests use it."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from persistence_service.storage.mysql.options import MysqlOptions
from tests.servers.process import ServerProcess, running_pid

_CONNECT_S = 30
_ANSWER_S = 60


@dataclass(eq=False)
class Server:
    """One server. `process` is there where the test owns it, and may stop and start it at will."""

    kind: str
    host: str
    port: int
    client_command: Sequence[str]
    user: str = "root"
    password: str = ""
    process: ServerProcess | None = None
    _databases: list[str] = field(default_factory=list)

    def sql(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement, run on a connection of its own, in autocommit."""
        with self.connected(database) as run:
            return run(statement)

    @contextmanager
    def connected(self, database: str | None = None) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        """A connection that stays open for the block: what runs a statement on it, in autocommit, and returns its rows."""
        connection = pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=_CONNECT_S,
            read_timeout=_ANSWER_S,
            # The servers of a run have no password; with one, the connection is encrypted where the server can.
            ssl_disabled=not self.password,
        )

        def run(statement: str) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())

        with connection:
            yield run

    def new_database(self) -> str:
        """The name of a new, empty database; it is dropped at the latest with the server's fixture."""
        name = f"test_{secrets.token_hex(8)}"
        self.sql(f"CREATE DATABASE {name}")
        self._databases.append(name)
        return name

    def drop(self, database: str) -> None:
        """Remove a database of `new_database`."""
        self.sql(f"DROP DATABASE IF EXISTS {database}")
        self._databases.remove(database)

    def drop_all(self) -> None:
        """Remove the databases of `new_database`."""
        for name in list(self._databases):
            self.drop(name)

    @contextmanager
    def ordinary_account(self, name: str) -> Iterator[MysqlOptions]:
        """The options of an account that has rights on a new database alone; both are gone at the end."""
        database = self.new_database()
        self.sql(f"CREATE USER {name} IDENTIFIED BY ''")
        self.sql(f"GRANT ALL ON {database}.* TO {name}")
        yield self.options(database, user=name)
        self.sql(f"DROP USER {name}")
        self.drop(database)

    def start(self) -> None:
        """Start it again on the same data and port; returns when it answers."""
        self._owned().start()

    def stop(self) -> None:
        """Shut it down in an orderly way."""
        self._owned().stop()

    def kill(self) -> None:
        """SIGKILL: it gets no chance to write anything."""
        self._owned().kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def processes(self) -> str:
        """The table of all connections and what they run.

        MySQL refuses the one in information_schema while anybody's statement has a character beyond utf8mb3 (3854); MariaDB's
        performance schema is off by default.
        """
        schema = "performance_schema" if self.kind == "mysql" else "information_schema"
        return f"{schema}.processlist"

    @property
    def pid(self) -> int:
        """The process that runs."""
        pid = running_pid(self.folder)
        assert pid is not None, "it is not running"
        return pid

    @property
    def folder(self) -> Path:
        """Where its data and its log are."""
        return self._owned().folder

    def client(self) -> list[str]:
        """The database's own command-line client, connected as root; it runs what it reads from standard input."""
        return list(self.client_command)

    def options(self, database: str, **changes: Any) -> MysqlOptions:  # noqa: ANN401  # fields of several types
        """What the backend takes; `changes` are fields of it."""
        given: dict[str, Any] = {
            "addresses": ((self.host, self.port),),
            "user": self.user,
            "password": self.password,
            "database": database,
            "connect_timeout_s": _CONNECT_S,
        }
        return MysqlOptions(**(given | changes))

    def settings(self, database: str) -> dict[str, object]:
        """Settings of a service on this database, by their dotted keys."""
        return {
            "storage.backend": "mysql",
            "database.host": self.host,
            "database.port": self.port,
            "database.user": self.user,
            "database.password": self.password,
            "database.database": database,
        }

    def _owned(self) -> ServerProcess:
        assert self.process is not None, "other tests use this server: take own_server"
        return self.process

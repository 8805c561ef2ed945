"""The database of a service as another program sees it, which asks, hinders, and looks at what is stored."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic

from tests.servers.group import Group
from tests.servers.server import Server

POISON = "☠"
"""A text that begins so is what the database refuses while it is poisoned."""
_WAIT_S = 120.0

Row = tuple[object, ...]
Run = Callable[[str], list[Row]]
"""Runs one statement, which is a transaction of its own, and returns its rows; times are texts as SQLite has them."""


class Database(ABC):
    """One kind of database is as good as another: what a test asks has the same answer on each."""

    kind: str

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What makes a service use it, by dotted keys."""

    @abstractmethod
    def connected(self) -> AbstractContextManager[Run]:
        """A connection of its own."""

    @abstractmethod
    def poison(self) -> None:
        """From now on it refuses tasks whose source text begins with `POISON`."""

    def cure(self) -> None:
        """It refuses them no more."""
        self.look("DROP TRIGGER poison")

    def look(self, question: str) -> list[Row]:
        """Ask the database itself."""
        with self.connected() as run:
            return run(question)

    def wait_until_true(self, condition: str) -> None:
        """Look until this SQL expression is true; looking takes no lock, and so hinders nobody."""
        ends_at = monotonic() + _WAIT_S
        with self.connected() as run:
            while not run(f"SELECT {condition}")[0][0]:
                assert monotonic() < ends_at, f"never true: {condition}"

    def stored_rows(self) -> dict[str, Row]:
        """Rows and different keys of each table."""
        return {
            table: self.look(f"SELECT COUNT(*), COUNT(DISTINCT {key}) FROM {table}")[0]
            for table, key in (("translation_sessions", "session_id"), ("translation_tasks", "task_id"))
        }

    def contents(self, table: str, columns: Sequence[str]) -> set[Row]:
        """What is stored in these columns."""
        return set(self.look(f"SELECT {', '.join(columns)} FROM {table}"))


class SqliteFile(Database):
    """An embedded database."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    def settings(self) -> dict[str, object]:
        return {"sqlite.path": self._path}

    @contextmanager
    def connected(self) -> Iterator[Run]:
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=_WAIT_S)) as connection:
            yield lambda statement: connection.execute(statement).fetchall()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else can write to it."""
        with self.connected() as run:
            run("BEGIN IMMEDIATE")
            yield

    def poison(self) -> None:
        self.look(
            "CREATE TRIGGER poison BEFORE INSERT ON translation_tasks "
            f"WHEN NEW.source_text LIKE '{POISON}%' BEGIN SELECT RAISE(ABORT, 'poison'); END"
        )

    def columns(self, table: str) -> list[str]:
        """Those of the records, without the service's own times, which differ from run to run."""
        names = self.look(f"SELECT name FROM pragma_table_info('{table}')")
        return [str(name) for (name,) in names if name not in {"created_at", "updated_at"}]


class OnServer(Database):
    """A new database on a MySQL or MariaDB server, or on a group, where its primary is looked at."""

    def __init__(self, server: Server | Group) -> None:
        self.kind = server.kind
        self.name = server.new_database()
        self._server = server

    def settings(self) -> dict[str, object]:
        return self._server.settings(self.name)

    @contextmanager
    def connected(self) -> Iterator[Run]:
        with self._server.connected(self.name) as run:
            yield lambda statement: [tuple(map(_as_in_sqlite, row)) for row in run(statement)]

    def poison(self) -> None:
        self.look(
            f"CREATE TRIGGER poison BEFORE INSERT ON translation_tasks FOR EACH ROW "
            f"IF NEW.source_text LIKE '{POISON}%' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poison'; END IF"
        )


def _as_in_sqlite(value: object) -> object:
    return value.isoformat(" ", "microseconds") if isinstance(value, datetime) else value

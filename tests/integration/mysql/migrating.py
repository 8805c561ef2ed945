"""What the tests of the schema share: looking at tables, and interrupting whoever changes them."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from persistence_service.errors import StorageUnavailable
from persistence_service.storage.mysql.migration import migrate
from persistence_service.storage.mysql.options import MysqlOptions
from tests.servers.server import Server

_CHANGES = re.compile(r"\s*(CREATE|ALTER|RENAME|INSERT|UPDATE)\b")


def tables(server: Server, database: str) -> dict[str, str]:
    """Table → the statement that makes it, as the server says, but for the order of its indexes: what is replaced comes last."""
    names = [row[0] for row in server.sql("SHOW TABLES", database)]
    return {name: _ordered(server.sql(f"SHOW CREATE TABLE {name}", database)[0][1]) for name in names}


def load(server: Server, text: str) -> None:
    """Have the server's own client run the statements."""
    subprocess.run(server.client(), input=text, text=True, check=True)


def rows(server: Server, database: str, table: str) -> list[tuple[Any, ...]]:
    return server.sql(f"SELECT * FROM {table} ORDER BY 1", database)


async def migrated(options: MysqlOptions) -> None:
    await migrate(options, options.addresses[0])


class Interrupted(StorageUnavailable):
    """A test's own."""


@contextmanager
def interrupted_after(changes: int) -> Iterator[None]:
    """Whoever changes something for the `changes`th time in the block gets an error behind it, and its connections end."""
    left = changes

    def count(connection: Any, cursor: Any, statement: str, *others: Any) -> None:  # noqa: ANN401  # SQLAlchemy's signature
        nonlocal left
        if _CHANGES.match(statement):
            left -= 1
            if left == 0:
                raise Interrupted(f"interrupted by the test behind {statement[:80]}")

    event.listen(Engine, "after_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", count)


@pytest.fixture
def options(database_server: Server) -> Iterator[MysqlOptions]:
    """A new, empty database."""
    name = database_server.new_database()
    yield database_server.options(name)
    database_server.drop(name)


def _ordered(statement: str) -> str:
    lines = [line.rstrip(",") for line in statement.splitlines()]
    return "\n".join(sorted(lines, key=lambda line: line if line.startswith("  KEY") else ""))

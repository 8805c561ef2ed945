"""Looks at the database's file from outside, open or not: changes nothing, and makes no file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from persistence_service.storage.sql import migrate
from persistence_service.storage.sqlite.errors import translated
from persistence_service.storage.sqlite.file import DatabaseFile

T = TypeVar("T")


def is_missing(path: Path) -> bool:
    """Whether there is no file; what can't be looked at is not missing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


@contextmanager
def looking(path: Path, busy_timeout_s: float) -> Iterator[sqlite3.Connection]:
    """A connection that only reads the file at `path`, or an empty database in memory if there is none. Blocks.

    Raises:
        StorageSetupError: opening the file, or making it, could lose what was stored; a person must look.
        sqlite3.Error: it can't be read.
    """
    file = DatabaseFile(path)
    file.check_start()
    uri = "file::memory:" if is_missing(path) else file.uri_to_look()
    with closing(sqlite3.connect(uri, uri=True, timeout=busy_timeout_s)) as connection:
        connection.execute("PRAGMA schema_version")  # reads it
        yield connection


def schema_version(path: Path, busy_timeout_s: float) -> str:
    """The version of the schema, empty if it has none. Blocks."""
    return _looked(path, busy_timeout_s, migrate.current_version)


def pending_sql(path: Path, busy_timeout_s: float) -> str:
    """What `migrate` would run now; empty if nothing. Blocks.

    Raises:
        SchemaTooNew: its version is not among those of this package.
    """
    statements = _looked(path, busy_timeout_s, migrate.pending_sql)
    return f"BEGIN IMMEDIATE;\n\n{statements}COMMIT;\n" if statements else ""


def _looked(path: Path, busy_timeout_s: float, look: Callable[[Connection], T]) -> T:
    try:
        with looking(path, busy_timeout_s) as driver:
            engine = create_engine("sqlite+pysqlite://", creator=lambda: driver, poolclass=StaticPool)
            with engine.connect() as connection:
                return look(connection)
    except (sqlite3.Error, DBAPIError) as exc:
        raise translated(exc) or exc from exc

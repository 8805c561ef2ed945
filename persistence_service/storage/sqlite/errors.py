"""SQLite's errors as ours: by number, in this one place. See https://www.sqlite.org/rescode.html."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    QueryTimeout,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_IOERR: "reading or writing the database's file failed",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "the database's file can't be opened",
    sqlite3.SQLITE_READONLY: "the database's file can't be written",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "the database's file can't be locked",
    sqlite3.SQLITE_SCHEMA: "the schema is being changed",
}
_DATA = {
    sqlite3.SQLITE_CONSTRAINT: "a constraint forbids the value",
    sqlite3.SQLITE_TOOBIG: "the value is too long",
    sqlite3.SQLITE_MISMATCH: "the value is of the wrong type",
}
_SET_UP = {
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
    sqlite3.SQLITE_CORRUPT: "the database's file is damaged; restore it from a backup",
    sqlite3.SQLITE_AUTH: "not authorised",
    sqlite3.SQLITE_PERM: "the database's file can't be accessed",
    sqlite3.SQLITE_NOLFS: "this system can't hold such a large file",
}
_PRIMARY = 0xFF  # the low byte of an extended number is the primary one


def translated(error: Exception) -> PersistenceError | None:
    """Our error for one that sqlite3, or SQLAlchemy around it, raised; None if it is not a database's error."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    match cause:
        case PersistenceError():
            return cause
        case OverflowError():
            return DataRejected("a number or text is too large for SQLite")
        case UnicodeEncodeError():
            return DataRejected("a text that is not Unicode: it has half of a surrogate pair")
        case sqlite3.Error():
            return _by_number(cause, getattr(cause, "sqlite_errorcode", None))
        case _:
            return None


def concerns_all(error: PersistenceError, *, connected: bool) -> bool:
    """Whether every connection of the process has to be closed before one can work again.

    They share the index of the log: opened on a file system that was read-only, it stays read-only while any of them is open.
    An open that fails for want of a file descriptor says nothing about those that are open.
    """
    if not isinstance(error, StorageUnavailable) or error.number is None:
        return False
    primary = error.number & _PRIMARY
    return primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR} or (
        primary == sqlite3.SQLITE_CANTOPEN and connected
    )


def is_generic(error: PersistenceError) -> bool:
    """Whether SQLite gave only its generic number, which it does for a missing table too."""
    return isinstance(error, UnclassifiedStorageError) and error.number == sqlite3.SQLITE_ERROR


def _by_number(error: sqlite3.Error, number: int | None) -> PersistenceError:
    primary = None if number is None else number & _PRIMARY
    if primary == sqlite3.SQLITE_INTERRUPT:
        return QueryTimeout("the statement was ended", number=number)
    if primary in _UNAVAILABLE:
        return StorageUnavailable(_UNAVAILABLE[primary], number=number)
    if primary in _DATA:
        return DataRejected(_DATA[primary], number=number)
    if primary in _SET_UP:
        return StorageSetupError(_SET_UP[primary], number=number)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return UnclassifiedStorageError(f"SQLite answered {name}", number=number)

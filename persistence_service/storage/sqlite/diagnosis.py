"""What is right and wrong with the database's file and where it lies. Changes nothing, and makes no file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from persistence_service.errors import StorageSetupError
from persistence_service.storage.powers import Finding, Level
from persistence_service.storage.sql.schema_finding import schema_finding
from persistence_service.storage.sqlite.errors import translated
from persistence_service.storage.sqlite.looking import is_missing, looking

_LITTLE_ROOM = 256 * 1024 * 1024
# Of the file's header, see https://www.sqlite.org/fileformat.html: SQLite does not tell where it takes the file for unchangeable.
_FORMAT_VERSIONS = slice(18, 20)
_WITH_LOG = b"\x02\x02"


def diagnose(path: Path, busy_timeout_s: float) -> list[Finding]:
    """The findings on the file at `path`. Blocks."""
    directory = path.parent
    found = [_directory(directory)]
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.is_dir())
    found.append(_room(existing))
    found.append(Finding("sqlite", Level.OK, f"version {sqlite3.sqlite_version}"))
    if is_missing(path):
        return [*found, _missing(path, has_log=Path(f"{path}-wal").exists())]
    try:
        with looking(path, busy_timeout_s) as connection:
            return [*found, _file(path), _schema(connection)]
    except (sqlite3.Error, StorageSetupError) as exc:
        detail = str(translated(exc) or exc)
        return [
            *found,
            Finding("file", Level.PROBLEM, f"{path}: {detail}", "Restore the file, or the right to read it."),
        ]


def _missing(path: Path, *, has_log: bool) -> Finding:
    if has_log:
        return Finding(
            "file",
            Level.PROBLEM,
            f"{path} is missing, but its log beside it is there",
            "Put the database's file back, or remove the log to begin an empty database.",
        )
    return Finding("file", Level.OK, f"{path} is made at the first start")


def _directory(directory: Path) -> Finding:
    existing = next((parent for parent in (directory, *directory.absolute().parents) if parent.exists()), directory)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        will = "" if existing == directory else ", to be made at the first start"
        return Finding("directory", Level.OK, f"{directory} can be written{will}")
    return Finding(
        "directory",
        Level.PROBLEM,
        f"{directory} can't be written",
        "Give the service's user the right to it, or choose another with sqlite.path.",
    )


def _room(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    detail = f"{free / 2**30:.1f} GiB free on the volume of the database"
    if free < _LITTLE_ROOM:
        return Finding("free space", Level.WARNING, detail, "Make room, or move the database with sqlite.path.")
    return Finding("free space", Level.OK, detail)


def _file(path: Path) -> Finding:
    if not os.access(path, os.W_OK):
        return Finding(
            "file", Level.PROBLEM, f"{path} can't be written", "Give the service's user the right to write it."
        )
    with path.open("rb") as file:
        format_versions = file.read(_FORMAT_VERSIONS.stop)[_FORMAT_VERSIONS]
    if format_versions != _WITH_LOG:
        return Finding(
            "file", Level.WARNING, f"{path} has no write-ahead log", "The next start of the service makes it have one."
        )
    return Finding("file", Level.OK, f"{path}, with a write-ahead log")


def _schema(connection: sqlite3.Connection) -> Finding:
    try:
        versions = [str(version) for (version,) in connection.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        versions = []  # there is no such table
    return schema_finding(versions)

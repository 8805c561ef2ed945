"""Applies the migrations of this package to a database, through Alembic and without any file of settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, Table

from persistence_service.errors import SchemaTooNew, StorageSetupError, StorageUnavailable
from persistence_service.storage.sql import migrations
from persistence_service.storage.sql.creation import creation
from persistence_service.storage.sql.migrations.steps import LOOKING, TABLES, version_table

MoreWork = Callable[[str, Operations], None]
"""What else a version needs on some database, given its number: done behind its migration, and before it is stamped."""

# What `alembic.op` works on, in the scripts, is one for all threads.
_SCRIPT_AT_WORK = Lock()
_OUR_VERSION = re.compile(r"\d{4}")


def upgrade(connection: Connection, more: MoreWork | None = None) -> None:
    """Bring the database to the newest version, step by step, each version stamped at its end.

    Within the transaction that `connection` is in, where the database's schema has any.

    Raises:
        SchemaTooNew: its version is not among those of this package.
        StorageSetupError: it has several versions, or another program's.
        StorageUnavailable: the migrations of this package can't be read.
    """
    _run(MigrationContext.configure(connection, opts={LOOKING: connection}), connection, more)


def pending_sql(connection: Connection, more: MoreWork | None = None, first: Sequence[str] = ()) -> str:
    """What `upgrade` would run now, behind the statements `first`, as text; empty if it would do nothing. Changes nothing.

    Raises:
        SchemaTooNew, StorageSetupError, StorageUnavailable: as `upgrade`.
    """
    text = StringIO()
    options = {"as_sql": True, "output_buffer": text, LOOKING: connection}
    _run(MigrationContext.configure(connection, opts=options), connection, more, first)
    return "\n".join(line.rstrip() for line in text.getvalue().split("\n"))


def tables_to_come(connection: Connection) -> list[Table]:
    """The tables that `upgrade` would create now, each as it creates it. Changes nothing.

    Raises:
        SchemaTooNew, StorageSetupError, StorageUnavailable: as `upgrade`.
    """
    tables: list[Table] = []
    options = {"as_sql": True, "output_buffer": StringIO(), LOOKING: connection, TABLES: tables}
    _run(MigrationContext.configure(connection, opts=options), connection, None)
    return tables


def schema_problem(connection: Connection) -> str:
    """Why the database's schema is not the one that this package uses, and what to do; empty if it is.

    Raises:
        SchemaTooNew, StorageSetupError, StorageUnavailable: as `upgrade`.
    """
    return version_problem(_current(connection))


def version_problem(current: Sequence[str]) -> str:
    """`schema_problem` of a database whose table `alembic_version` names these versions; none if it has no such table.

    Raises:
        SchemaTooNew: one is not among those of this package.
        StorageSetupError: there are several, or one is another program's.
        StorageUnavailable: the migrations of this package can't be read.
    """
    _check(current)
    if set(current) == set(_scripts().get_heads()):
        return ""
    return (
        f"the schema is of version {_names(current)}, {newest_version()} is needed; "
        "run `persistence-service migrate`, or start with storage.migrate_on_start"
    )


def current_version(connection: Connection) -> str:
    """The version of the database's schema, empty if it has none."""
    return ", ".join(_current(connection))


def newest_version() -> str:
    """The version of the schema that this package uses."""
    return _names(_scripts().get_heads())


def first_stamp(version: str) -> str:
    """The statement that notes the version in a database that had none."""
    return f"INSERT INTO alembic_version (version_num) VALUES ('{version}')"


def _run(context: MigrationContext, connection: Connection, more: MoreWork | None, first: Sequence[str] = ()) -> None:
    current = _current(connection)
    pending = _pending(current)
    if not pending:
        return
    operations = Operations(context)
    versions = [] if current else creation(version_table(context.dialect), context.dialect, if_missing=True)
    for statement in [*first, *versions]:
        operations.execute(statement)
    for script in pending:
        with _SCRIPT_AT_WORK, Operations.context(context):
            script.module.upgrade()
        if more is not None:
            more(script.revision, operations)
        operations.execute(_stamp(script))


def _pending(current: Sequence[str]) -> list[Script]:
    """The migrations that a database of these versions lacks, in the order in which they are applied."""
    _check(current)
    scripts = _scripts().iterate_revisions("head", tuple(current) or "base")
    return list(reversed(list(scripts)))


def _stamp(script: Script) -> str:
    """A statement that changes nothing when it is run again, as it may be where somebody runs what was printed."""
    if script.down_revision is None:
        unstamped = "(SELECT COUNT(*) AS stamps FROM alembic_version) AS found WHERE stamps = 0"
        return f"INSERT INTO alembic_version (version_num) SELECT '{script.revision}' FROM {unstamped}"
    return f"UPDATE alembic_version SET version_num = '{script.revision}' WHERE version_num = '{script.down_revision}'"


def _current(connection: Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


@cache
def _scripts() -> ScriptDirectory:
    """The migrations, read from disk once and completely: later there may be no file descriptor to read them with.

    Raises:
        StorageUnavailable: they can't be read now.
    """
    try:
        scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
        found = scripts.get_heads()
    except OSError as exc:
        raise StorageUnavailable(f"the migrations can't be read: {exc.strerror}", number=exc.errno) from exc
    if not found:  # Alembic takes a directory that it can't list for an empty one
        raise StorageUnavailable("the migrations can't be read")
    return scripts


def _check(current: Sequence[str]) -> None:
    unknown = sorted(set(current) - {script.revision for script in _scripts().walk_revisions()})
    if not all(map(_OUR_VERSION.fullmatch, unknown)):
        raise StorageSetupError(
            f"another program uses Alembic in this database, as its table alembic_version says ({_names(unknown)}): "
            "give the service a database of its own"
        )
    if unknown:
        raise SchemaTooNew(
            f"the database's schema is of version {_names(unknown)}, this version of the service knows "
            f"{newest_version()}; start the later version that migrated it"
        )
    if len(current) > 1:  # each was noted when its work was done, so the last is what the schema is
        raise StorageSetupError(
            f"the table alembic_version has several rows ({_names(sorted(current))}), and may have one: keep the last, "
            f"with DELETE FROM alembic_version WHERE version_num <> '{max(current)}'"
        )


def _names(versions: Sequence[str]) -> str:
    return ", ".join(versions) or "none"

"""Applies the migrations of this package to a database, through Alembic and without any file of settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from persistence_service.errors import SchemaTooNew, StorageUnavailable
from persistence_service.storage.sql import migrations


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest version, within the transaction that `connection` is in.

    Raises:
        SchemaTooNew: its version is not among those of this package.
        StorageUnavailable: the migrations of this package can't be read.
    """
    scripts = _scripts()
    context = MigrationContext.configure(connection, opts={"fn": _upgrades(scripts), "transactional_ddl": True})
    _check_known(context.get_current_heads(), scripts)
    with Operations.context(context):
        context.run_migrations()


def schema_problem(connection: Connection) -> str:
    """Why the database's schema is not the one that this package uses, and what to do; empty if it is.

    Raises:
        SchemaTooNew: its version is not among those of this package.
        StorageUnavailable: the migrations of this package can't be read.
    """
    scripts = _scripts()
    current = MigrationContext.configure(connection).get_current_heads()
    _check_known(current, scripts)
    if set(current) == set(scripts.get_heads()):
        return ""
    return f"the schema is of version {_names(current)}, {_names(scripts.get_heads())} is needed; start with storage.migrate_on_start"


def newest_version() -> str:
    """The version of the schema that this package uses."""
    return _names(_scripts().get_heads())


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


def _upgrades(scripts: ScriptDirectory) -> Any:  # noqa: ANN401  # a function whose type Alembic keeps to itself
    def steps(current: Any, _: MigrationContext) -> Any:  # noqa: ANN401  # the signature is Alembic's
        return scripts._upgrade_revs("head", current)  # noqa: SLF001  # what Alembic's own `upgrade` command calls

    return steps


def _check_known(current: Sequence[str], scripts: ScriptDirectory) -> None:
    unknown = set(current) - {script.revision for script in scripts.walk_revisions()}
    if unknown:
        raise SchemaTooNew(
            f"the database's schema is of version {_names(sorted(unknown))}, this version of the service knows "
            f"{newest_version()}; start the later version that migrated it"
        )


def _names(versions: Sequence[str]) -> str:
    return ", ".join(versions) or "none"

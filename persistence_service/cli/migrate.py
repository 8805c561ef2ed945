"""`persistence-service migrate`: bring the schema of every backend up to date, or print the SQL that would."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from persistence_service.cli.one_shot import Config, Options, backends_of, configured
from persistence_service.settings import Settings
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.powers import MigrationPlanner

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL, and change nothing.")]


def migrate(config: Config = None, option: Options = None, dry_run: DryRun = False) -> None:
    """Bring the schema up to date; nothing happens where it is. Services may be running meanwhile.

    The printed SQL of --dry-run can be given to the database's own client. Exit codes: 0 done, 2 the configuration can't be
    used, 3 the database can't be used, or was migrated by a later version.
    """
    with configured(config, option) as loaded:
        asyncio.run(_migrate(loaded.settings, dry_run=dry_run))


async def _migrate(settings: Settings, *, dry_run: bool) -> None:
    for backend in backends_of(settings):
        try:
            await (_print_plan(backend) if dry_run else _migrate_one(backend))
        finally:
            await backend.close()


async def _migrate_one(backend: StorageBackend) -> None:
    await backend.open()
    before = await _version(backend)
    await backend.migrate()
    after = await _version(backend)
    if before == after:
        typer.echo(f"{backend.name}: the schema is up to date ({after or 'no versions'})")
    else:
        typer.echo(f"{backend.name}: the schema was migrated from {before or 'nothing'} to {after}")


async def _version(backend: StorageBackend) -> str:
    return await backend.schema_version() if isinstance(backend, MigrationPlanner) else ""


async def _print_plan(backend: StorageBackend) -> None:
    """The SQL to stdout, for the client; what is said about it to stderr.

    A backend is opened only if it can't do without, since that may make what is not there: with another owner than the service.
    """
    if not isinstance(backend, MigrationPlanner):
        typer.echo(f"{backend.name}: it can't say what it would do", err=True)
        return
    if not backend.plans_before_open:
        await backend.open()
    statements = await backend.pending_sql()
    if statements:
        typer.echo(statements, nl=False)
    else:
        typer.echo(f"{backend.name}: the schema is up to date ({await backend.schema_version()})", err=True)

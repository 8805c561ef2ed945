"""`persistence-service`: every command, and how errors leave the process.

Exit codes: 0 done · 1 found something wrong · 2 wrong usage or configuration · 3 the journal or the database can't be used ·
70 a mistake of ours, with a traceback.
"""

from __future__ import annotations

import sys
import traceback

import typer

from persistence_service import __version__
from persistence_service.cli import check, journal, migrate, serve, torture
from persistence_service.errors import ConfigurationError, PersistenceError

EXIT_CONFIGURATION = 2
EXIT_UNUSABLE = 3
EXIT_MISTAKE = 70  # as in sysexits.h: Python's own 1 would say that a command has found something

app = typer.Typer(
    name="persistence-service",
    help="Keeps the results of translation workers safe until they are in the database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(check.check)
app.command()(migrate.migrate)
app.command()(torture.torture)
app.add_typer(journal.app, name="journal")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *, version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version.")
) -> None:
    """Options before a command."""


def main() -> None:
    """Run the command line; the errors we raise on purpose end it with a message, and all errors with a documented exit code."""
    try:
        app()
    except ConfigurationError as exc:
        _end(exc, EXIT_CONFIGURATION)
    except PersistenceError as exc:
        _end(exc, EXIT_UNUSABLE)
    except Exception:  # noqa: BLE001  # whatever it is, its exit code must not be that of a finding
        traceback.print_exc()
        sys.exit(EXIT_MISTAKE)


def _end(error: PersistenceError, code: int) -> None:
    typer.echo(f"persistence-service: {error}", err=True)
    sys.exit(code)

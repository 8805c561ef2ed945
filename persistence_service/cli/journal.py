"""`persistence-service journal`: look at a journal without changing it."""

from __future__ import annotations

import typer

app = typer.Typer(help="Look at a journal without changing it.", no_args_is_help=True)

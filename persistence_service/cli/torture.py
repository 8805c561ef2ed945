"""`persistence-service torture`: does the service keep its promise here, on this disk and this database?"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from persistence_service.cli.one_shot import Options

EXIT_FOUND = 1

Seconds = Annotated[float, typer.Option(min=1, max=86_400, help="How long faults strike; comparing comes after it.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same histories and the same faults.")]
Backend = Annotated[str, typer.Option(help="Where the service under torture stores: sqlite, or mysql as configured.")]
Config = Annotated[Path | None, typer.Option(help="Configuration file (YAML) of the service under torture.")]
Url = Annotated[str | None, typer.Option(help="Torture this running service from outside, instead of one of its own.")]
Faults = Annotated[str | None, typer.Option(help="Only faults in whose names one of these texts occurs, with commas.")]
Clients = Annotated[int, typer.Option(min=1, max=100, help="Clients that send at once.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave what was stored where it is.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def torture(  # noqa: PLR0917  # each is an option of the command
    seconds: Seconds = 60,
    seed: Seed = 1,
    backend: Backend = "sqlite",
    url: Url = None,
    faults: Faults = None,
    clients: Clients = 6,
    config: Config = None,
    option: Options = None,
    keep: Keep = False,
    as_json: AsJson = False,
) -> None:
    """Send histories of updates while faults strike, then compare what was acknowledged with what is kept.

    Starts a service of its own, with a journal of its own, and kills it again and again. With --backend mysql it stores in
    the database of the configuration, under ids of its own, and removes them afterwards. Never torture a database that
    anybody needs at this moment.

    Exit codes: 0 nothing lost, regressed, duplicated or invented; 1 something was, or the service ended by itself or answered
    what it should not; 2 wrong usage or configuration; 3 it could not be done.
    """
    from rich.console import Console
    from rich.status import Status

    from persistence_service.torture.conductor import Plan
    from persistence_service.torture.engine import Order
    from persistence_service.torture.engine import torture as run

    wanted = [text for text in (faults or "").split(",") if text.strip()]
    settings: dict[str, object] = {key: value for key, _, value in (text.partition("=") for text in option or [])}
    is_shared = url is not None or backend != "sqlite"
    plan = Plan(seconds, seed, clients=clients, removes=is_shared and not keep)
    order = Order(plan, backend, url, settings, config and config.resolve(), wanted, keep)
    # That the service is away, again and again, is what this is about.
    logging.getLogger("persistence_service.client").setLevel(logging.ERROR)
    with Status("", console=Console(stderr=True)) as status:
        report = asyncio.run(run(order, status.update))
    if as_json:
        typer.echo(msgspec.json.encode(report.document()))
    else:
        Console().print(report.table())
        for finding in report.findings():
            typer.echo(finding)
    if not report.is_well:
        typer.echo(f"run it again with --seed {seed}", err=True)
        raise typer.Exit(EXIT_FOUND)

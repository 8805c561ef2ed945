"""`persistence-service torture`: does the service keep its promise here, on this disk and this database?"""

from __future__ import annotations

import asyncio
import logging
import signal
import traceback
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer

from persistence_service.bootstrap import storage_names
from persistence_service.cli.one_shot import Options, check_keeps, options_by_key
from persistence_service.errors import PersistenceError, UnknownBackend

if TYPE_CHECKING:
    from persistence_service.torture.report import Report

EXIT_FOUND = 1
_EXIT_NOT_DONE = 3
_EXIT_SIGNAL = 128
_DEFAULT_BACKEND = "sqlite"
_OURS = {
    "service.host": "it finds a port that is free",
    "service.port": "it finds a port that is free",
    "storage.routes": "everything is stored where --backend says",
}

Seconds = Annotated[float, typer.Option(min=1, max=86_400, help="How long faults strike; comparing comes after it.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same histories and the same faults.")]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Where the service under torture stores: sqlite; mysql or a plugin's name, as configured.",
        show_default=_DEFAULT_BACKEND,
    ),
]
Config = Annotated[Path | None, typer.Option(help="Configuration file (YAML) of the service under torture.")]
Url = Annotated[str | None, typer.Option(help="Torture this running service from outside, instead of one of its own.")]
Faults = Annotated[str | None, typer.Option(help="Only faults in whose names one of these texts occurs, with commas.")]
Clients = Annotated[int, typer.Option(min=1, max=100, help="Clients that send at once.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave what was stored where it is.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def torture(  # noqa: PLR0917  # each is an option of the command
    seconds: Seconds = 60,
    seed: Seed = 1,
    backend: Backend = None,
    url: Url = None,
    faults: Faults = None,
    clients: Clients = 12,
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
    what it should not; 2 wrong usage or configuration; 3 it could not be done. What a signal ends has removed what it stored.
    """
    from rich.console import Console
    from rich.status import Status

    from persistence_service.torture.conductor import Plan
    from persistence_service.torture.engine import Order
    from persistence_service.torture.engine import torture as run

    _check_url(url)
    if url is not None:
        _check_alone({"--backend": backend, "--config": config, "--set": option})
    backend = backend or _DEFAULT_BACKEND
    _check_backend(backend)
    wanted = [text for text in (faults or "").split(",") if text.strip()]
    settings = options_by_key(option)
    _check_settings(settings, backend)
    is_shared = url is not None or backend != _DEFAULT_BACKEND
    plan = Plan(seconds, seed, clients=clients, removes=is_shared and not keep)
    order = Order(plan, backend, url, settings, config and config.resolve(), wanted, keep)
    # That the service is away, again and again, is what this is about.
    logging.getLogger("persistence_service.client").setLevel(logging.ERROR)
    with Status("", console=Console(stderr=True)) as status:
        report = _until_told(run(order, status.update))
    if as_json:
        typer.echo(msgspec.json.encode(report.document()))
    else:
        Console().print(report.table())
        for finding in report.findings():
            typer.echo(finding)
    if not report.is_well:
        typer.echo(f"run it again with --seed {seed}", err=True)
        raise typer.Exit(EXIT_FOUND)


def _check_url(url: str | None) -> None:
    parts = urlsplit(url or "http://none")
    try:
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is none
        is_right = False
    if not is_right:
        raise typer.BadParameter(f"{url} is no address like http://127.0.0.1:8001", param_hint="--url")


def _check_backend(backend: str) -> None:
    names = storage_names().backends
    if backend not in names:
        raise typer.BadParameter(str(UnknownBackend(backend, names)), param_hint="--backend")
    check_keeps(backend, "--backend")


def _check_alone(ours: Mapping[str, object]) -> None:
    """A service that runs already is what it is: nothing can be chosen for it."""
    for flag, given in ours.items():
        if given:
            raise typer.BadParameter("the service at --url has its own: leave one of both off", param_hint=flag)


def _check_settings(settings: Mapping[str, object], backend: str) -> None:
    if settings.get("storage.backend", backend) != backend:
        raise typer.BadParameter(f"storage.backend is {backend}, as --backend says", param_hint="--set")
    for key, instead in _OURS.items():
        if key in settings:
            raise typer.BadParameter(f"{key} is the torture's own: {instead}", param_hint="--set")


def _until_told(work: Coroutine[Any, Any, Report]) -> Report:
    """Its report; SIGTERM and SIGHUP end it as Ctrl-C does, in good order.

    Raises:
        typer.Exit: it was told to end, or broke, which is no finding.
    """
    told: list[int] = []

    async def run() -> Report:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def end(number: int) -> None:
            if task is not None and not told:  # once: what has to be healed and removed takes its time
                task.cancel()
            told.append(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        return await work

    try:
        return asyncio.run(run())
    except PersistenceError as exc:
        _tell_notes(exc)
        raise
    except asyncio.CancelledError as exc:
        _tell_notes(exc)
        raise typer.Exit(_EXIT_SIGNAL + (told or [signal.SIGINT])[0]) from exc
    except Exception as exc:
        traceback.print_exception(exc)
        raise typer.Exit(_EXIT_NOT_DONE) from exc


def _tell_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        typer.echo(note, err=True)

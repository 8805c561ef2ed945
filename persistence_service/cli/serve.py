"""`persistence-service serve`: run the service until a signal ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer

from persistence_service.bootstrap import Services, open_services, storage_names
from persistence_service.cli.one_shot import options_by_key
from persistence_service.cli.server import Server, http_config, process_set_up, serve_until_told
from persistence_service.cli.supervisor import supervise
from persistence_service.settings import LoadedSettings, Settings, load_settings

_log = structlog.get_logger(__name__)
_EXIT_UNUSABLE = 3


def serve(
    config: Annotated[Path | None, typer.Option(help="Configuration file (YAML).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on: service.host.")] = None,
    port: Annotated[str | None, typer.Option(help="Port to listen on: service.port.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, as often as needed.")
    ] = None,
) -> None:
    """Run the service until SIGTERM or SIGINT; then flush for at most service.shutdown_timeout, and stop.

    With service.workers over 1, SIGHUP restarts its workers one after the other.
    """
    named = {"--host": host, "--port": port}
    loaded = load_settings(flags=options_by_key(option), named_flags=named, config_path=config, known=storage_names())
    settings = loaded.settings
    with process_set_up(settings.logging):
        announce(loaded)
        if not (_serve_alone(settings) if settings.service.workers == 1 else supervise(settings)):
            raise typer.Exit(_EXIT_UNUSABLE)


def _serve_alone(settings: Settings) -> bool:
    """Serve in this process; whether serving began at all."""
    http = http_config(settings)
    with asyncio.Runner(loop_factory=http.get_loop_factory()) as runner:
        server = Server(http, stop_within_s=settings.service.shutdown_timeout)
        return runner.run(serve_until_told(server, open_services(settings, drain_s=server.seconds_left)))


@asynccontextmanager
async def open_configured_services() -> AsyncIterator[Services]:
    """The services as the environment and the configuration file say, for a server that is not ours (`uvicorn main:app`).

    They are one process's, whatever service.workers says; that it is ignored is logged.
    """
    loaded = load_settings(known=storage_names())
    workers = loaded.settings.service.workers
    with process_set_up(loaded.settings.logging):
        announce(loaded)
        if workers > 1:
            because = "another server than `persistence-service serve` runs this process, which serves alone"
            instead = "start `persistence-service serve`, or set service.workers to 1"
            _log.warning("service.workers_ignored", workers=workers, because=because, instead=instead)
        async with open_services(loaded.settings) as services:
            yield services


def announce(loaded: LoadedSettings) -> None:
    """The first line of the log, and a warning for settings that nothing uses."""
    settings = loaded.settings
    _log.info(
        "service.starting",
        backend=settings.storage.backend,
        journal=str(settings.journal.directory),
        address=f"http://{settings.service.host}:{settings.service.port}",
    )
    if loaded.unused:
        _log.warning("configuration.unused", keys=list(loaded.unused), because="no collection is kept in mysql")

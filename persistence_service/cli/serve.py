"""`persistence-service serve`: run the service until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated

import structlog
import typer
import uvicorn

from persistence_service.api.app import create_app
from persistence_service.api.protocol import bounded_http
from persistence_service.bootstrap import Services, open_services, storage_names
from persistence_service.observability.logging import configure_logging
from persistence_service.settings import LoadedSettings, Settings, load_settings

_log = structlog.get_logger(__name__)
_KEEP_ALIVE_S = 75
_BACKLOG = 2048
_EXIT_UNUSABLE = 3
_SWITCH_INTERVAL_S = 0.0005


def serve(
    config: Annotated[Path | None, typer.Option(help="Configuration file (YAML).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on: service.host.")] = None,
    port: Annotated[str | None, typer.Option(help="Port to listen on: service.port.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, as often as needed.")
    ] = None,
) -> None:
    """Run the service until SIGTERM or SIGINT; then flush for at most service.shutdown_timeout, and stop."""
    flags: dict[str, object] = {"service.host": host, "service.port": port}
    flags |= {key: value for key, _, value in (text.partition("=") for text in option or [])}
    loaded = load_settings(flags=flags, config_path=config, known=storage_names())
    with _process_set_up(loaded):
        http = _http_server(loaded.settings)
        with asyncio.Runner(loop_factory=http.get_loop_factory()) as runner:
            if not runner.run(_serve(loaded.settings, http)):
                raise typer.Exit(_EXIT_UNUSABLE)


@asynccontextmanager
async def open_configured_services() -> AsyncIterator[Services]:
    """The services as the environment and the configuration file say, for a server that is not ours (`uvicorn main:app`)."""
    loaded = load_settings(known=storage_names())
    with _process_set_up(loaded):
        async with open_services(loaded.settings) as services:
            yield services


@contextmanager
def _process_set_up(loaded: LoadedSettings) -> Iterator[None]:
    """Logging, its first line, and an interpreter whose lock changes hands quickly.

    The threads of the journal and of SQLite need the lock for moments only, but would wait for it a whole switch interval
    each time while the event loop is busy.
    """
    before = sys.getswitchinterval()
    with configure_logging(loaded.settings.logging):
        announce(loaded)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            yield
        finally:
            sys.setswitchinterval(before)


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


async def _serve(settings: Settings, http: uvicorn.Config) -> bool:
    """Open the services, serve until a signal, close them; whether serving began at all."""
    server = _Server(http, stop_within_s=settings.service.shutdown_timeout)
    async with open_services(settings, drain_s=server.seconds_left) as services:
        http.app = create_app(lambda: nullcontext(services))
        gc.collect()
        gc.freeze()  # what lives until the end anyway: walking through it took 0.1 s of the event loop's time
        with _second_signal_kills():
            await server.serve()
        return server.started


class _Server(uvicorn.Server):
    """Ends within `stop_within_s` of the first signal, requests and the last flush together; at once with the second."""

    def __init__(self, config: uvicorn.Config, *, stop_within_s: float) -> None:
        super().__init__(config)
        self._stop_within_s = stop_within_s
        self._stop_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal."""
        if self.should_exit:
            self.force_exit = True
        else:
            self._stop_at = time.monotonic() + self._stop_within_s
        super().handle_exit(sig, frame)

    def seconds_left(self) -> float:
        """How long the last flush may take."""
        return max(0.0, min(self._stop_within_s, self._stop_at - time.monotonic()))


def _http_server(settings: Settings) -> uvicorn.Config:
    """The HTTP server: bounded heads and waits, our own logging, no word of what runs it. `app` is set when the services are open."""
    return uvicorn.Config(
        "",
        host=settings.service.host,
        port=settings.service.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.service.shutdown_timeout / 2),
        lifespan="on",
        http=bounded_http(settings.limits),
        ws="none",
    )


@contextmanager
def _second_signal_kills() -> Iterator[None]:
    """The server raises the signals that ended it once more when it is done: the first must not cut the last flush short.

    A second one ends the process at once, which loses nothing: what is not stored is in the journal.
    """

    def survive_once(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, survive_once)
    yield

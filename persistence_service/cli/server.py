"""The HTTP server of a process: its bounds, its signals, and the set-up of the process around it."""

from __future__ import annotations

import gc
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from socket import socket
from types import FrameType

import uvicorn

from persistence_service.api.app import create_app
from persistence_service.api.protocol import bounded_http
from persistence_service.bootstrap import Services
from persistence_service.observability.logging import configure_logging
from persistence_service.settings import LoggingSettings, Settings

BACKLOG = 2048
_KEEP_ALIVE_S = 75
_SWITCH_INTERVAL_S = 0.0005


@contextmanager
def process_set_up(logging: LoggingSettings, *, worker: int | None = None) -> Iterator[None]:
    """Logging, and an interpreter whose lock changes hands quickly.

    The threads of the journal and of SQLite need the lock for moments only, but would wait for it a whole switch interval
    each time while the event loop is busy.
    """
    before = sys.getswitchinterval()
    with configure_logging(logging, worker=worker):
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            yield
        finally:
            sys.setswitchinterval(before)


class Server(uvicorn.Server):
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

    def request_stop(self) -> None:
        """As the first signal; may be asked for more than once, and by any thread."""
        if not self.should_exit:
            self._stop_at = time.monotonic() + self._stop_within_s
            self.should_exit = True

    def seconds_left(self) -> float:
        """How long the last flush may take."""
        return max(0.0, min(self._stop_within_s, self._stop_at - time.monotonic()))


def http_config(settings: Settings) -> uvicorn.Config:
    """The HTTP server: bounded heads and waits, our own logging, no word of what runs it. `app` is set when the services are open."""
    return uvicorn.Config(
        "",
        host=settings.service.host,
        port=settings.service.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.service.shutdown_timeout / 2),
        lifespan="on",
        http=bounded_http(settings.limits),
        ws="none",
    )


async def serve_until_told(
    server: Server,
    opening: AbstractAsyncContextManager[Services],
    *,
    sockets: Sequence[socket] | None = None,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> bool:
    """Open the services, serve until a signal, close them; whether serving began at all."""
    async with opening as services:
        server.config.app = create_app(lambda: nullcontext(services))
        gc.collect()
        gc.freeze()  # what lives until the end anyway: walking through it took 0.1 s of the event loop's time
        with _second_signal_kills(signals):
            await server.serve(list(sockets) if sockets is not None else None)
        return server.started


@contextmanager
def _second_signal_kills(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """The server raises the signals that ended it once more when it is done: the first must not cut the last flush short.

    A second one ends the process at once, which loses nothing: what is not stored is in the journal.
    """

    def survive_once(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in signals:
        signal.signal(number, survive_once)
    yield

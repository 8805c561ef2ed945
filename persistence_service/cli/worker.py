"""One of several worker processes: serves on the sockets it is given until it is told to stop, or its supervisor is gone."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from socket import socket
from types import FrameType

import structlog
import uvicorn

from persistence_service.bootstrap import open_services
from persistence_service.cli.server import Server, http_config, process_set_up, serve_until_told
from persistence_service.errors import PersistenceError
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.settings import Settings

_log = structlog.get_logger(__name__)
LOADED, READY = "loaded", "ready"
"""What a worker says when it could begin, and when it serves; anything else is why it can't."""
GO, STOP = "go", "stop"
"""What it is told."""
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""A terminal sends them to all processes."""
_EXIT_UNUSABLE = 3
_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a worker is given. Over `supervisor` it says how far it is, and is told when to begin and when to stop.

    That nobody is at the other end any more means stop, too.
    """

    settings: Settings
    identity: WorkerIdentity
    sockets: tuple[socket, ...]
    supervisor: Connection


def run_worker(start: WorkerStart) -> None:
    """What the worker process runs; its exit code is 0 after an orderly stop.

    SIGTERM stops it, a second one at once. TERMINAL_SIGNALS, which were held back while it loaded, are its supervisor's to hear.
    """
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    _tell(start.supervisor, LOADED)  # which took most of the time: until now its predecessor may have served
    if _told(start.supervisor) != GO:
        return
    settings = start.settings
    with process_set_up(settings.logging, worker=start.identity.number):
        http = http_config(settings)
        server = _WorkerServer(http, settings.service.shutdown_timeout, lambda: _tell(start.supervisor, READY))
        threading.Thread(target=_obey, args=(start.supervisor, server), name="supervisor", daemon=True).start()
        opening = open_services(settings, worker=start.identity, drain_s=server.seconds_left)
        try:
            with asyncio.Runner(loop_factory=http.get_loop_factory()) as runner:
                runner.run(serve_until_told(server, opening, sockets=start.sockets, signals=(signal.SIGTERM,)))
        except PersistenceError as exc:
            _tell(start.supervisor, str(exc))
            sys.exit(_EXIT_UNUSABLE)
        except Exception as exc:  # noqa: BLE001  # the supervision point of the process: its supervisor is told
            _log.exception("worker.crashed")
            _tell(start.supervisor, f"{type(exc).__name__}: {exc}")
            sys.exit(1)


def _tell(supervisor: Connection, what: str) -> None:
    with suppress(OSError):  # it is gone, which is noticed elsewhere
        supervisor.send(what)


def _told(supervisor: Connection) -> str:
    try:
        return str(supervisor.recv())
    except (EOFError, OSError):
        return STOP


def _obey(supervisor: Connection, server: Server) -> None:
    _told(supervisor)
    server.request_stop()


class _WorkerServer(Server):
    """Says when it serves; and at its end lets nobody begin anew, since others serve."""

    def __init__(self, config: uvicorn.Config, stop_within_s: float, on_started: Callable[[], None]) -> None:
        super().__init__(config, stop_within_s=stop_within_s)
        self._on_started = on_started

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal."""
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """As uvicorn's; connections that were accepted just before are closed after their answer as well."""
        closing = asyncio.create_task(self._close_latecomers())
        try:
            await super().shutdown(sockets)
        finally:
            closing.cancel()

    async def _close_latecomers(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            for connection in list(self.server_state.connections):
                connection.shutdown()

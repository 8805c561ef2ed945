"""The service as a process of its own, that is killed and started again on the same data and at the same address."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

import persistence_service
from persistence_service.torture.faults import CouldNotRun, ServiceEnded

_PACKAGES = Path(persistence_service.__file__).parents[1]
SERVE = ("-c", "from persistence_service.cli.app import main; main()", "serve")
_HOST = "127.0.0.1"
# Below those that systems give to connections that go out, so that none takes it while the service is down.
_PORTS = range(20_000, 30_000)
_LOOK_AGAIN_S = 0.02
_READY_WITHIN_S = 240.0
_TAIL = 40


class ServiceProcess:
    """As `faults.Subject` says. The process and all that it starts are a group, which is killed whole."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object],
        *,
        program: Sequence[str] = SERVE,
        arguments: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.program = program
        self._reservation = _reserved_port()
        port = self._reservation.getsockname()[1]
        self.url = f"http://{_HOST}:{port}"
        options = [f"--set={key}={value}" for key, value in settings.items()]
        self._command = [sys.executable, *program, f"--host={_HOST}", f"--port={port}", *options, *arguments]
        self._process: asyncio.subprocess.Process | None = None
        self.is_ready = False
        # Found where this one was found, installed or not, and wherever it is started.
        found = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH", ""))))
        self._environment = os.environ | {"PYTHONPATH": found}

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self, *, ready: bool = True) -> None:
        with (self.folder / "service.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        if ready:
            await self.until_ready()

    async def kill(self) -> None:
        process = self._running()
        self.is_ready = False
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        self._process = None

    async def terminate(self) -> int:
        process = self._running()
        self.is_ready = False
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
        self._process = None
        return code

    def signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.is_ready = False
        self._running().send_signal(number)

    async def until_ready(self) -> None:
        self.is_ready = False
        try:
            async with asyncio.timeout(_READY_WITHIN_S), httpx.AsyncClient(verify=False, trust_env=False) as http:  # noqa: S501  # plain HTTP
                is_ready = await self._is_ready(http)
                while not is_ready:
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    is_ready = await self._is_ready(http)
        except TimeoutError:
            raise ServiceEnded(f"it was not ready within {_READY_WITHIN_S:.0f} s:\n{self.log_tail()}") from None
        self.is_ready = True

    async def close(self) -> None:
        """End it, however it is."""
        if self.is_running:
            await self.kill()
        self._reservation.close()

    def log_tail(self) -> str:
        """The last lines that it logged."""
        with suppress(OSError):
            return "\n".join((self.folder / "service.log").read_text(errors="replace").splitlines()[-_TAIL:])
        return ""

    async def _is_ready(self, http: httpx.AsyncClient) -> bool:
        self._running()
        try:
            return (await http.get(f"{self.url}/health/ready", timeout=5)).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _running(self) -> asyncio.subprocess.Process:
        """The process.

        Raises:
            ServiceEnded: it ended by itself.
        """
        if self._process is None:
            raise ServiceEnded("it was not started")
        if self._process.returncode is not None:
            raise ServiceEnded(f"it ended by itself with code {self._process.returncode}:\n{self.log_tail()}")
        return self._process


def _reserved_port() -> socket.socket:
    """Bound to a port that is free, so that nobody else takes it while the service is down; the service still can."""
    for port in _PORTS:
        holder = socket.socket()
        try:
            holder.bind((_HOST, port))
        except OSError:
            holder.close()
        else:
            # Only now: it must not share the port with one who has reserved it before.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return holder
    raise CouldNotRun(f"no port of {_PORTS.start} to {_PORTS.stop - 1} is free")

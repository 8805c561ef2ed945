"""The service as a process of its own, which a test may kill at any moment and start again on the same data."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 150
_STOP_TIMEOUT_S = 150
_LOOK_S = 0.02
_LISTENING = re.compile(rb"Uvicorn running on (http://[\d.]+:\d+)")
_KEPT_LINES = 2000


def command(folder: Path, settings: Mapping[str, object]) -> list[str]:
    """The command that serves from `folder`, on any free port; `settings` are dotted keys."""
    defaults = {
        "journal.directory": folder / "journal",
        "sqlite.path": folder / "persistence.db",
        "logging.file": "",
    }
    options = [f"--set={key}={value}" for key, value in (defaults | dict(settings)).items()]
    return [sys.executable, str(ROOT / "main.py"), "serve", "--port=0", *options]


class ServiceProcess:
    """One process at a time, on the data in `folder`; each start takes another port, so `url` changes.

    A process that is killed writes no coverage; where all are, `measured=False` spares the time of measuring.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None, *, measured: bool = True) -> None:
        self.folder = folder
        self.log: list[str] = []
        self._command = command(folder, settings or {})
        self._environment = {
            name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE_")
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._url: asyncio.Future[str] | None = None
        self._reachable = asyncio.Event()
        self._news = asyncio.Condition()

    @property
    def pid(self) -> int | None:
        """The process that runs."""
        return self._process.pid if self._process else None

    @property
    def url(self) -> str:
        """Where the running process listens."""
        assert self._url is not None, "the service was never started"
        if not self._url.done():
            raise httpx.ConnectError("it is starting and does not listen yet")
        return self._url.result()

    async def start(self, *, ready: bool = True) -> None:
        """Start it; returns when it is ready for batches, or without `ready` as soon as it answers."""
        assert self._process is None, "it is running already"
        self._url = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self.folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read_log(self._process, self._url))
        async with asyncio.timeout(_START_TIMEOUT_S):
            await self._url
            await self._until_ok("/health/ready" if ready else "/health/live")
        self._reachable.set()
        async with self._news:
            self._news.notify_all()

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to write anything."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM, and the exit code of an orderly stop."""
        return await self._end(signal.SIGTERM)

    async def end_by_itself(self) -> int:
        """Wait until it has ended, which nobody asks for; its exit code."""
        return await self._end(None)

    async def restart_after_kill(self) -> None:
        """`kill -9`, and start again on what is on disk."""
        await self.kill()
        await self.start()

    def check_running(self) -> None:
        """Raises if the service ended by itself; between a kill and the start that follows all is well."""
        if self._process is not None and self._process.returncode is not None and self._reachable.is_set():
            raise AssertionError("the service ended by itself:\n" + self.log_tail())

    async def wait_reachable(self) -> None:
        """Wait while the service is down between a kill and the start that follows."""
        self.check_running()
        await self._reachable.wait()

    async def wait_restarted(self, timeout_s: float) -> None:
        """Wait until the service is started anew, at most `timeout_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._started_anew()

    async def _started_anew(self) -> None:
        async with self._news:
            await self._news.wait()

    def log_tail(self) -> str:
        """The last lines that it logged."""
        return "\n".join(self.log[-40:])

    async def _end(self, number: signal.Signals | None) -> int:
        process, self._process = self._process, None
        assert process is not None, "it is not running"
        assert self._reader is not None
        self._reachable.clear()
        # To one that has just ended a signal is not sent, but the exit code is taken from asyncio, which says 255 then.
        if number is not None and process.returncode is None:
            process.send_signal(number)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._reader
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"it did not end in {_STOP_TIMEOUT_S} s:\n{self.log_tail()}") from None

    async def close(self) -> None:
        """End it, in an orderly way if it still runs."""
        if self._process is not None:
            await self.terminate()

    async def _read_log(self, process: asyncio.subprocess.Process, url: asyncio.Future[str]) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.log.append(line.decode(errors="replace").rstrip())
            del self.log[:-_KEPT_LINES]
            if not url.done() and (found := _LISTENING.search(line)):
                url.set_result(found[1].decode())
        if not url.done():
            url.set_exception(AssertionError("the service did not start:\n" + self.log_tail()))

    async def _until_ok(self, path: str) -> None:
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as client:  # noqa: S501  # plain HTTP
            while (await client.get(self.url + path)).status_code != httpx.codes.OK:  # noqa: ASYNC110  # there is no event
                await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def running_service(
    folder: Path, settings: Mapping[str, object] | None = None, *, measured: bool = True
) -> AsyncIterator[ServiceProcess]:
    """A started service, ended at the end of the block."""
    service = ServiceProcess(folder, settings, measured=measured)
    try:
        await service.start()
        yield service
    finally:
        await service.close()

"""What is done to the service process itself."""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random

import httpx

from persistence_service.client.paths import BASE_PATH
from persistence_service.torture.faults import CouldNotRun, Fault, ServiceEnded, Subject

_LONGEST_STOPPED_S = 1.5
_LONGEST_START_S = 2.0
_SLOW_REQUESTS = 5
_EXIT_OK = 0


def service_faults(subject: Subject) -> Sequence[Fault]:
    """All of them; those of single workers where there are several."""
    kinds: list[type[_ServiceFault]] = [Killed, KilledAtStart, Stopped, Terminated, TerminatedTwice]
    if int(str(subject.settings.get("service.workers", 1))) > 1:
        kinds += [WorkerKilled, WorkerStopped, WorkersRestarted]
    return [kind(subject) for kind in kinds]


class _ServiceFault(ABC):
    name: str

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.hits = 0
        """How many signals it got."""

    async def _kill(self) -> None:
        self.hits += 1
        await self._subject.kill()

    @abstractmethod
    async def strike(self, random: Random) -> None:
        """As `Fault` says."""


class Killed(_ServiceFault):
    """No chance to write anything; sometimes it is away for a while."""

    name = "service: SIGKILL"

    async def strike(self, random: Random) -> None:
        await self._kill()
        if random.random() < 0.3:
            await asyncio.sleep(random.uniform(0, _LONGEST_STOPPED_S))
        await self._subject.start()


class KilledAtStart(_ServiceFault):
    """Killed, and killed again while it starts, replays, and writes what it replayed."""

    name = "service: SIGKILL during replay"

    async def strike(self, random: Random) -> None:
        await self._kill()
        for _ in range(random.randrange(1, 4)):
            await self._subject.start(ready=random.random() < 0.5)
            await asyncio.sleep(random.uniform(0, _LONGEST_START_S))
            await self._kill()
        await self._subject.start()


class Stopped(_ServiceFault):
    """As a machine that is out of breath does it."""

    name = "service: SIGSTOP, SIGCONT"

    async def strike(self, random: Random) -> None:
        self.hits += 1
        self._subject.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(random.uniform(0, _LONGEST_STOPPED_S))
        finally:
            self._subject.signal(signal.SIGCONT)


class Terminated(_ServiceFault):
    """An orderly stop while requests are open that come slowly."""

    name = "service: SIGTERM with slow requests open"

    async def strike(self, random: Random) -> None:
        async with AsyncExitStack() as open_requests:
            for _ in range(_SLOW_REQUESTS):
                request = await _slow_request(self._subject.url, random)
                if request is not None:
                    open_requests.callback(request.close)
            self.hits += 1
            code = await self._subject.terminate()
        if code != _EXIT_OK:
            raise ServiceEnded(f"it ended with code {code} after SIGTERM")
        await self._subject.start()


class TerminatedTwice(_ServiceFault):
    """An orderly stop, cut short at any moment by SIGKILL."""

    name = "service: SIGTERM, then SIGKILL"

    async def strike(self, random: Random) -> None:
        self._subject.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, 0.5)):
                await self._subject.terminate()
        if self._subject.is_running:
            await self._kill()
        self.hits += 1
        await self._subject.start()


class WorkerKilled(_ServiceFault):
    """One of several workers is killed, sometimes the one that follows it too."""

    name = "service: SIGKILL of a worker"

    async def strike(self, random: Random) -> None:
        for _ in range(random.randrange(1, 4)):
            self.hits += _signal_worker(self._subject.pid, signal.SIGKILL, random) is not None
            await asyncio.sleep(random.uniform(0, _LONGEST_START_S))
        await self._subject.until_ready()


class WorkerStopped(_ServiceFault):
    """One of several workers is out of breath, and the others ask it in vain."""

    name = "service: SIGSTOP, SIGCONT of a worker"

    async def strike(self, random: Random) -> None:
        worker = _signal_worker(self._subject.pid, signal.SIGSTOP, random)
        if worker is None:
            return
        self.hits += 1
        try:
            await asyncio.sleep(random.uniform(0, _LONGEST_STOPPED_S))
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)


class WorkersRestarted(_ServiceFault):
    """All workers are restarted, one after the other."""

    name = "service: SIGHUP"

    async def strike(self, random: Random) -> None:
        self.hits += 1
        self._subject.signal(signal.SIGHUP)
        await asyncio.sleep(random.uniform(0, _LONGEST_START_S))
        await self._subject.until_ready()


def _signal_worker(parent: int, number: int, random: Random) -> int | None:
    """Send a signal to one of the workers; None if there is none at the moment."""
    workers = [child for child in _children(parent) if b"spawn_main" in _command_line(child)]
    if not workers:
        return None
    worker = random.choice(sorted(workers))
    try:
        os.kill(worker, number)
    except ProcessLookupError:
        return None
    return worker


def _children(parent: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
        ]
    except OSError as exc:
        raise CouldNotRun(f"the workers can't be found on this system: {exc}") from exc


def _command_line(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


async def _slow_request(url: str, random: Random) -> asyncio.StreamWriter | None:
    """A batch of which only a part has come."""
    address = httpx.URL(url)
    head = (
        f"POST {BASE_PATH}/tasks/batch HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )
    try:
        _, writer = await asyncio.open_connection(address.host, address.port or 80)
    except OSError:
        return None
    writer.write(head.encode()[: random.randrange(10, 400)] + b'{"tasks":[')
    return writer

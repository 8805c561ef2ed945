"""Several workers: one process that listens, starts them, restarts those that end, and stops them; it serves nothing itself."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import structlog
import typer

from persistence_service.buffer.timing import SystemTiming
from persistence_service.cli.server import BACKLOG
from persistence_service.cli.worker import GO, LOADED, READY, STOP, TERMINAL_SIGNALS, WorkerStart, run_worker
from persistence_service.errors import JournalUnavailable
from persistence_service.fleet.control_directory import control_directory
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.journals import prepare_journals
from persistence_service.fleet.siblings import together
from persistence_service.observability.logging import OncePer
from persistence_service.settings import Settings

_log = structlog.get_logger(__name__)
_SPAWN: Final = multiprocessing.get_context("spawn")
_STABLE_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_DOUBLINGS: Final = 16  # are more than it takes to get there, and no number that is too large
_OVERTIME_S: Final = 10.0  # what a stop may take beyond service.shutdown_timeout
_TOLD_EVERY_S: Final = 60.0
_NO_PROCESS = (OSError, RuntimeError)
"""What starting a process raises where there are no descriptors, processes, threads or memory left."""


def supervise(settings: Settings) -> bool:
    """Run `service.workers` workers until a signal; False if none of them could start, which is said on stderr then.

    SIGTERM and SIGINT stop all at once, a second one kills them; SIGHUP restarts them one after the other.

    Raises:
        JournalLocked: another service has the journals.
        JournalUnavailable: their directory can't be used.
    """
    try:
        prepare_journals(settings.journal, wall_us=SystemTiming().wall_us())
    except OSError as exc:
        raise JournalUnavailable(f"the journal's directory cannot be used: {exc}") from exc
    with ExitStack() as stack:
        try:
            sockets = _listen(settings.service.host, settings.service.port)
        except OSError as exc:
            typer.echo(
                f"persistence-service: can't listen on {settings.service.host}:{settings.service.port}: {exc}", err=True
            )
            return False
        for each in sockets:
            stack.callback(each.close)
        try:
            directory = stack.enter_context(control_directory(settings.service.workers))
        except OSError as exc:
            typer.echo(
                f"persistence-service: no directory for the workers' control sockets can be made: {exc}", err=True
            )
            return False
        with asyncio.Runner() as runner:
            failure = runner.run(Supervisor(settings, sockets, directory).run())
    if failure:
        typer.echo(f"persistence-service: no worker can start: {failure}", err=True)
    return not failure


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of `host`, with one port, listening already: who connects now is served in a moment."""
    sockets: list[socket.socket] = []
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    problem: OSError | None = None
    with ExitStack() as undo:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            each = socket.socket(family, kind, protocol)
            undo.callback(each.close)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = sockets[0].getsockname()[1] if sockets and not port else port
            try:
                each.bind((address[0], taken, *address[2:]))
            except OSError as exc:
                if exc.errno != errno.EADDRNOTAVAIL:  # this machine has no such address, but perhaps the next
                    raise
                problem = exc
                continue
            each.listen(BACKLOG)
            sockets.append(each)
        if not sockets:
            raise problem or OSError(errno.EADDRNOTAVAIL, "it has no address")
        undo.pop_all()
    return sockets


@contextmanager
def _held_back(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """A process that is started meanwhile, and this one until the end, hears of these signals when it lets them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        # It lives as long as this process, so it needs this too; and starting it lets some of these signals through.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Run:
    """One worker process from its start to its end."""

    def __init__(self, start: WorkerStart, ours: Connection) -> None:
        self.number = start.identity.number
        self.loaded = asyncio.Event()  # it could begin, or has ended
        self.began = asyncio.Event()  # it is ready, or has ended
        self.ended = asyncio.Event()
        self.followed = asyncio.Event()  # another one was started in its place
        self.ready_at: float | None = None
        self.failure = ""
        self.ordered = False
        self._supervised = ours
        self._loop = asyncio.get_running_loop()
        self._process = _SPAWN.Process(target=run_worker, args=(start,), name=f"worker-{self.number}")
        try:
            with _held_back(TERMINAL_SIGNALS):
                self._process.start()
            self._loop.add_reader(ours.fileno(), self._hear)
            self._loop.add_reader(self._process.sentinel, self._note_end)
        except BaseException:
            ours.close()  # which ends the process if there is one
            raise
        finally:
            start.supervisor.close()  # the worker has its own

    def _hear(self) -> None:
        try:
            said = self._supervised.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._supervised.fileno())
            return
        if said == LOADED:
            self.loaded.set()
        elif said == READY:
            self.ready_at = time.monotonic()
            self.began.set()
        else:
            self.failure = said

    def _note_end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._loop.remove_reader(self._supervised.fileno())
        with suppress(EOFError, OSError):
            while self._supervised.poll():
                if (said := self._supervised.recv()) not in (LOADED, READY):
                    self.failure = said
        self._supervised.close()
        self._process.join()
        self.loaded.set()
        self.began.set()
        self.ended.set()

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        code = self._process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def go(self) -> None:
        """Let it begin, now that nobody else has its journal."""
        with suppress(OSError):  # it has ended, which is noticed
            self._supervised.send(GO)

    def stop(self) -> None:
        """Have it end in an orderly way, at once as long as it loads; asking twice changes nothing."""
        if self.ordered or self.ended.is_set():
            return
        self.ordered = True
        if not self.loaded.is_set():
            self.kill()  # it would hear of nothing for a while, and has nothing to put in order
        with suppress(OSError):
            self._supervised.send(STOP)

    def kill(self) -> None:
        """End it at once, which loses nothing that was acknowledged."""
        if not self.ended.is_set():
            self._process.kill()

    async def end_within(self, seconds: float) -> None:
        """Wait until it has ended; it is killed when it takes longer."""
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            _log.error("worker.killed", worker=self.number, because=f"it did not stop within {seconds:g} s")
            self.kill()
            await self.ended.wait()


class Supervisor:
    """Keeps one worker in each slot running until it is told to stop."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket], control_directory: Path) -> None:
        self._settings = settings
        self._sockets = tuple(sockets)
        self._control_directory = control_directory
        self._stop_s = settings.service.shutdown_timeout + _OVERTIME_S
        self._runs: dict[int, _Run] = {}
        self._successors: dict[int, _Run] = {}  # that wait for their predecessor's end
        self._stopping = asyncio.Event()
        self._serving = asyncio.Event()
        self._restart_wanted = asyncio.Event()
        self._failures: dict[int, str] = {}
        self._told = OncePer(_TOLD_EVERY_S)

    async def run(self) -> str:
        """Return when all is over: why no worker can start, empty if one could."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._restart_wanted.set)
        try:
            async with asyncio.TaskGroup() as group:
                restarting = group.create_task(self._restart_when_wanted())
                await together(*(self._keep(slot) for slot in range(self._settings.service.workers)))
                restarting.cancel()
        finally:  # a mistake of ours must not leave workers that nobody supervises, and this process waiting for them
            await self._end_all()
        _log.info("service.stopped")
        return "" if self._serving.is_set() else next(iter(self._failures.values()), "")

    async def _end_all(self) -> None:
        if not self._stopping.is_set():
            self._stop()
        for run in [*self._runs.values(), *self._successors.values()]:
            await run.end_within(self._stop_s)

    def _stop(self) -> None:
        runs = [*self._runs.values(), *self._successors.values()]
        if self._stopping.is_set():
            for run in runs:
                run.kill()
            return
        self._stopping.set()
        for each in self._sockets:  # nobody shall wait here for a service that ends
            each.close()
        for run in runs:
            run.stop()

    # -------------------------------------------------------------------------------------------------- one slot

    async def _keep(self, slot: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                run = self._begin(slot)
            except _NO_PROCESS as exc:
                failures += 1
                if times := self._told.occurred(str(slot)):
                    _log.error(
                        "worker.not_started", worker=slot + 1, detail=str(exc), now="it is tried again", times=times
                    )
                self._note_failure(slot, f"no process can be started: {exc}")
                await self._pause(_pause_s(failures))
                continue
            await _first_of(run.began, self._stopping)
            if run.ready_at is not None:
                self._note_ready(run)
            await _first_of(run.ended, self._stopping)
            if self._stopping.is_set():
                run.stop()
                await run.end_within(self._stop_s)
                return
            if run.ordered:
                continue
            is_stable = run.ready_at is not None and time.monotonic() - run.ready_at > _STABLE_S
            failures = 1 if is_stable else failures + 1
            pause_s = 0.0 if run.ready_at and failures == 1 else _pause_s(failures)
            _log.error(
                "worker.ended",
                worker=run.number,
                how=run.outcome,
                detail=run.failure,
                now=f"it is started again in {pause_s:g} s",
            )
            self._note_failure(slot, run.failure or run.outcome)
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _begin(self, slot: int) -> _Run:
        before, run = self._runs.get(slot), self._successors.pop(slot, None) or self._start(slot)
        self._runs[slot] = run
        run.go()
        if before is not None:
            before.followed.set()
        return run

    def _start(self, slot: int) -> _Run:
        ours, theirs = _SPAWN.Pipe()
        identity = WorkerIdentity(slot, self._settings.service.workers, self._control_directory)
        return _Run(WorkerStart(self._settings, identity, self._sockets, theirs), ours)

    def _note_ready(self, run: _Run) -> None:
        _log.info("worker.ready", worker=run.number)
        if not self._serving.is_set():
            self._serving.set()
            _log.info("Uvicorn running on %s (Press CTRL+C to quit)", _address(self._sockets[0]))

    def _note_failure(self, slot: int, why: str) -> None:
        """When none could start, it is all over."""
        self._failures.setdefault(slot, why)
        if not self._serving.is_set() and len(self._failures) == self._settings.service.workers:
            self._stop()

    # --------------------------------------------------------------------------------------------------- restart

    async def _restart_when_wanted(self) -> None:
        while True:
            await self._restart_wanted.wait()
            self._restart_wanted.clear()
            try:
                await self._restart_all()
            except _NO_PROCESS as exc:
                _log.error("service.restart_stopped", because=f"no process can be started: {exc}")

    async def _restart_all(self) -> None:
        """One worker after the other, each when the one before is ready."""
        _log.info("service.restarting")
        for slot in range(self._settings.service.workers):
            if self._stopping.is_set():
                return
            run = self._runs.get(slot)
            if run is None or run.ended.is_set():  # it is being restarted anyway
                continue
            successor = self._successors[slot] = self._start(slot)
            await successor.loaded.wait()
            if successor.ended.is_set():
                self._successors.pop(slot, None)
            else:
                run.stop()
                await run.end_within(self._stop_s)
                await run.followed.wait()
                await successor.began.wait()
            if successor.ready_at is None:
                _log.error("service.restart_stopped", worker=slot + 1, because="it does not start again")
                return
        _log.info("service.restarted")


def _pause_s(failures: int) -> float:
    return float(min(_FIRST_PAUSE_S * 2 ** min(failures, _DOUBLINGS), _LONGEST_PAUSE_S))


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""What an operator does to several workers while they start, and what a mistake of ours in their supervisor does to them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from persistence_service.cli.worker import TERMINAL_SIGNALS
from tests.e2e.caller import Caller
from tests.e2e.database import SqliteFile
from tests.e2e.service import ROOT, ServiceProcess
from tests.e2e.test_process import ServedByUvicorn
from tests.e2e.test_workers_process import (
    THREE,
    WORKERS,
    all_ready,
    is_alive,
    is_healthy,
    pids,
    supervisor,
    until,
)

_EXIT_MISTAKE = 70
# Every Python process reads this when it starts. Workers are held up by it, as they are by a slow disk.
_SLOW_TO_LOAD = """
import os, sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    open(f"{os.environ['LOADING']}/{os.getpid()}", "w").close()
    while not os.path.exists(os.environ["LOADING"] + "/go"):
        time.sleep(0.01)
"""
_MISTAKEN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from persistence_service.cli import supervisor
from persistence_service.cli.app import main
if __name__ == "__main__":
    supervisor._Run.outcome = property(lambda _: 1 // 0)
    main()
"""


class SlowToLoad(ServiceProcess):
    """Its workers load until `go_on`; `loading` are those that have begun to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, THREE, measured=False)
        self._notes = folder / "loading"
        self._notes.mkdir()
        (folder / "sitecustomize.py").write_text(_SLOW_TO_LOAD)
        self._environment |= {"PYTHONPATH": str(folder), "LOADING": str(self._notes)}

    @property
    def loading(self) -> list[int]:
        return [int(note.name) for note in self._notes.iterdir() if note.name != "go"]

    def go_on(self) -> None:
        (self._notes / "go").touch()

    def hold_up(self) -> None:
        """Those that begin to load from now on wait again."""
        (self._notes / "go").unlink()


@asynccontextmanager
async def starting(service: ServiceProcess) -> AsyncIterator[None]:
    """It starts meanwhile, or never comes so far."""
    start = asyncio.create_task(service.start())
    try:
        yield
    finally:
        start.cancel()
        with suppress(asyncio.CancelledError, AssertionError):
            await start
        await service.close()


@pytest.mark.parametrize(
    "number, is_told_to_all", [(signal.SIGTERM, False), (signal.SIGINT, True)], ids=["by kill", "by a terminal"]
)
async def test_a_stop_while_workers_load_waits_for_none_of_them(
    tmp_path: Path, number: signal.Signals, *, is_told_to_all: bool
) -> None:
    service = SlowToLoad(tmp_path)
    async with starting(service):
        await until(lambda: len(service.loading) == WORKERS, service)
        first = supervisor(service)
        for pid in (*(service.loading if is_told_to_all else ()), first):
            os.kill(pid, number)
        assert await service.end_by_itself() == 0
    assert not any(map(is_alive, service.loading))
    assert not any("worker." in line or "Traceback" in line for line in service.log)


async def test_what_a_terminal_sends_to_workers_that_load_ends_none_of_them(tmp_path: Path) -> None:
    service = SlowToLoad(tmp_path)
    async with starting(service):
        await until(lambda: len(service.loading) == WORKERS, service)
        for pid, number in product(service.loading, TERMINAL_SIGNALS):
            os.kill(pid, number)
        service.go_on()
        workers = await all_ready(service)
        assert sorted(workers.values()) == sorted(service.loading)
        assert not any("worker.ended" in line or "Traceback" in line for line in service.log)
        for pid, number in product(workers.values(), TERMINAL_SIGNALS):
            os.kill(pid, number)
        async with Caller.to(service) as caller:
            await until(partial(is_healthy, caller), service)
        assert pids(service) == workers
        assert await service.terminate() == 0


async def test_a_mistake_of_ours_in_the_supervisor_ends_all_workers_in_an_orderly_way(tmp_path: Path) -> None:
    script = tmp_path / "mistaken.py"
    script.write_text(_MISTAKEN)
    service = ServiceProcess(tmp_path, THREE, measured=False)
    service._command[1] = str(script)
    try:
        await service.start()
        workers = await all_ready(service)
        os.kill(workers[2], signal.SIGKILL)
        assert await service.end_by_itself() == _EXIT_MISTAKE
        assert not any(map(is_alive, workers.values()))
    finally:
        await service.close()
    assert any("ZeroDivisionError" in line for line in service.log)
    assert sum("journal_closed" in line for line in service.log) == WORKERS - 1


async def test_another_server_says_once_that_it_serves_alone_whatever_number_of_workers_is_set(tmp_path: Path) -> None:
    service = ServedByUvicorn(tmp_path, SqliteFile(tmp_path / "persistence.db"))
    service._environment["PERSISTENCE_SERVICE__WORKERS"] = str(WORKERS)
    try:
        await service.start()
        async with Caller.to(service) as caller:
            assert await is_healthy(caller)
        await service.terminate()
    finally:
        await service.close()
    (warning,) = (line for line in service.log if "service.workers_ignored" in line)
    assert "persistence-service serve" in warning


@pytest.mark.slow
async def test_restarts_that_are_asked_for_during_one_are_one_more_and_a_worker_that_is_away_hinders_none(
    tmp_path: Path,
) -> None:
    service = SlowToLoad(tmp_path)
    async with starting(service):
        service.go_on()
        workers = await all_ready(service)
        service.hold_up()
        os.kill(workers[2], signal.SIGKILL)
        await until(lambda: len(service.loading) == WORKERS + 1, service)
        os.kill(supervisor(service), signal.SIGHUP)
        await until(lambda: len(service.loading) == WORKERS + 2, service)
        for _ in range(3):
            os.kill(supervisor(service), signal.SIGHUP)
        service.go_on()
        await until(lambda: sum("service.restarted" in line for line in service.log) == 2, service)
        async with Caller.to(service) as caller:
            await until(partial(is_healthy, caller), service)
        assert sum("service.restarting" in line for line in service.log) == 2
        assert sum("worker.ended" in line for line in service.log) == 1
        assert set(pids(service).values()).isdisjoint(workers.values())
        assert await service.terminate() == 0

"""Several workers as real processes: one service whichever of them is killed, stopped or restarted."""

import asyncio
import os
import re
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from persistence_service.journal.lock import DirectoryLock
from persistence_service.torture.ledger import Ledger, read
from tests.e2e.caller import BASE, Caller
from tests.e2e.conftest import StartService
from tests.e2e.job import MainJob
from tests.e2e.sample import sample_workbooks
from tests.e2e.service import ServiceProcess, command
from tests.e2e.test_process import EXIT_UNUSABLE, NO_FLUSH, run_to_its_end
from tests.e2e.worker import Worker

WORKERS = 3
THREE: Mapping[str, object] = {"service.workers": WORKERS}
_SEED = 12
_STARTED = re.compile(r"Started server process \[(\d+)\].*worker=(\d+)")


def pids(service: ServiceProcess) -> dict[int, int]:
    """The process of each worker, by its number, as far as it came."""
    found = (_STARTED.search(line) for line in service.log)
    return {int(match[2]): int(match[1]) for match in found if match}


def supervisor(service: ServiceProcess) -> int:
    assert service.pid is not None
    return service.pid


async def until(condition: Callable[[], bool | Awaitable[bool]], service: ServiceProcess) -> None:
    """Wait for something that the service does by itself."""
    try:
        async with asyncio.timeout(150):
            while True:
                holds = condition()
                if holds if isinstance(holds, bool) else await holds:
                    return
                await asyncio.sleep(0.02)  # it is another process's, which tells nobody
    except TimeoutError:
        raise AssertionError("it did not come true:\n" + service.log_tail()) from None


async def all_ready(service: ServiceProcess, times: int = 1) -> dict[int, int]:
    """Wait until every worker was ready so often; gives their processes."""
    await until(lambda: sum("worker.ready" in line for line in service.log) >= WORKERS * times, service)
    return pids(service)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def journals(service: ServiceProcess) -> set[str]:
    return {path.name for path in (service.folder / "journal").glob("worker-*")}


@asynccontextmanager
async def alone(workers: Mapping[int, int], number: int) -> AsyncIterator[None]:
    """One worker serves whoever connects, since the others are stopped."""
    others = [pid for other, pid in workers.items() if other != number]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Load:
    """Clients that send batch after batch, and a batch again only if its connection broke."""

    CLIENTS = 6

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._ended = False
        self.acknowledged: set[str] = set()
        self.refused: list[str] = []
        self.broken = 0

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator["Load"]:
        """Within the block; whatever was refused fails the test at its end."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.CLIENTS):
                group.create_task(self._send(number))
            await self.goes_on()
            try:
                yield self
                await self.goes_on()
            finally:
                self._ended = True
        assert self.refused == []

    async def goes_on(self) -> None:
        """Some more is acknowledged."""
        enough = len(self.acknowledged) + 40 * self.CLIENTS
        await until(lambda: len(self.acknowledged) >= enough or bool(self.refused), self._service)

    async def _send(self, number: int) -> None:
        session = {"session_id": f"S{number}", "filename": "f", "file_path": "p", "status": "processing"}
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as http:  # noqa: S501  # plain HTTP
            await self._post(http, "sessions", [session | {"llm_provider": "x"}])
            batch = 0
            while not self._ended:
                batch += 1
                place = {"session_id": f"S{number}", "batch_id": "B", "sheet_name": "s", "column_name": "A"}
                tasks = [
                    {"task_id": f"{number}-{batch}-{row}", "row_index": row, "source_text": "t", "status": "pending"}
                    for row in range(5)
                ]
                await self._post(http, "tasks", [place | task for task in tasks])
                self.acknowledged.update(str(task["task_id"]) for task in tasks)

    async def _post(self, http: httpx.AsyncClient, kind: str, items: list[dict[str, Any]]) -> None:
        while True:
            try:
                answer = await http.post(f"{self._service.url}{BASE}/{kind}/batch", json={kind: items})
            except httpx.TransportError:
                self.broken += 1
                continue
            if answer.status_code != httpx.codes.OK:
                self.refused.append(answer.text)
            return


async def stored_ids(caller: Caller) -> set[str]:
    await caller.post("/flush")
    return {row["task_id"] for row in await caller.walk("/tasks", sort_by="task_id", order="asc")}


async def test_each_worker_serves_and_the_log_says_which(start_service: StartService) -> None:
    service = await start_service(THREE)
    workers = await all_ready(service)
    assert sorted(workers) == [1, 2, 3]
    for number in workers:
        async with alone(workers, number), httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as http:  # noqa: S501  # plain HTTP
            assert (await http.get(f"{service.url}/health/live")).status_code == httpx.codes.OK
    assert journals(service) == {"worker-2", "worker-3"}
    assert await service.terminate() == 0
    assert not any(map(is_alive, workers.values()))


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_one_worker_after_the_other_is_killed(
    start_service: StartService,
) -> None:
    service = await start_service({**THREE, "buffer.flush_interval": 1}, measured=False)
    await all_ready(service)
    random = Random(_SEED)
    async with Caller.to(service) as caller:
        job = MainJob(caller, sample_workbooks())

        async def kill_some() -> None:
            for kills, batches in enumerate(sorted(random.sample(range(1, job.batches), 6))):
                await job.ledger.reached(batches)
                number = random.randrange(1, WORKERS + 1)
                pid = pids(service)[number]
                os.kill(pid, signal.SIGKILL)
                ready = WORKERS + kills + 1
                await until(lambda n=ready: sum("worker.ready" in line for line in service.log) >= n, service)  # type: ignore[misc]  # a default binds
                assert pids(service)[number] != pid

        killing = asyncio.create_task(kill_some())
        await job.run()
        await killing
        verdict = await job.check_everything()
        assert verdict, str(verdict)
        health = await caller.health()
    assert (health["status"], health["journal"]["losses"]) == ("healthy", [])
    assert (health["buffer"]["total_count"], health["journal"]["unstored_items"]) == (0, 0)
    assert sum("killed by SIGKILL" in line for line in service.log) == 6


async def test_a_worker_that_is_stopped_alone_refuses_nobody_and_is_started_again(start_service: StartService) -> None:
    service = await start_service(THREE, measured=False)
    workers = await all_ready(service)
    load = Load(service)
    async with load.going_on():
        os.kill(workers[2], signal.SIGTERM)
        await until(lambda: pids(service)[2] != workers[2], service)
        await until(lambda: sum("worker.ready" in line for line in service.log) > WORKERS, service)
    async with Caller.to(service) as caller:
        assert await stored_ids(caller) == load.acknowledged


async def test_a_restart_one_after_the_other_refuses_nobody(start_service: StartService) -> None:
    service = await start_service(THREE, measured=False)
    workers = await all_ready(service)
    load = Load(service)
    async with load.going_on():
        os.kill(supervisor(service), signal.SIGHUP)
        await until(lambda: any("service.restarted" in line for line in service.log), service)
    assert set(pids(service).values()).isdisjoint(workers.values())
    async with Caller.to(service) as caller:
        assert await stored_ids(caller) == load.acknowledged


async def test_workers_end_in_an_orderly_way_when_their_supervisor_is_killed(start_service: StartService) -> None:
    service = await start_service({**THREE, **NO_FLUSH}, measured=False)
    workers = await all_ready(service)
    load = Load(service)
    async with load.going_on():
        pass
    await service.kill()  # until the last process has closed the log
    assert not any(map(is_alive, workers.values()))
    with sqlite3.connect(service.folder / "persistence.db") as database:
        stored = {task_id for (task_id,) in database.execute("SELECT task_id FROM translation_tasks")}
    assert stored == load.acknowledged


@pytest.mark.parametrize("fewer", [1, 2])
async def test_fewer_workers_take_over_what_more_of_them_left(start_service: StartService, fewer: int) -> None:
    service = await start_service({**THREE, **NO_FLUSH}, measured=False)
    workers = await all_ready(service)
    ledger = Ledger()
    async with Caller.to(service) as caller:
        async with alone(workers, WORKERS):
            await Worker(caller, ledger, sample_workbooks()[0], batch_size=20).work()
            for pid in (supervisor(service), *workers.values()):
                os.kill(pid, signal.SIGKILL)
            await service.kill()
        service._command.append(f"--set=service.workers={fewer}")
        await service.start()
        rows = [read(row) for row in await caller.walk("/tasks", fresh=True)]
        assert ledger.judge(rows)
        assert len(rows) == len(ledger.tasks_kept)
        assert (await caller.health())["status"] == "healthy"
    assert journals(service) == ({"worker-2"} if fewer == 2 else set())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_that_every_process_hears_of_is_one_stop_and_stores_what_all_workers_have(
    start_service: StartService, number: signal.Signals
) -> None:
    service = await start_service({**THREE, **NO_FLUSH})
    workers = await all_ready(service)
    load = Load(service)
    async with load.going_on():
        pass
    for pid in (*workers.values(), supervisor(service)):  # as systemd and terminals do it
        os.kill(pid, number)
    await until(lambda: any("service.stopped" in line for line in service.log), service)
    await service.kill()
    assert sum("journal_closed" in line and "unstored_items=0" in line for line in service.log) == WORKERS
    with sqlite3.connect(service.folder / "persistence.db") as database:
        stored = {task_id for (task_id,) in database.execute("SELECT task_id FROM translation_tasks")}
    assert stored == load.acknowledged


async def test_a_second_service_on_the_same_journals_says_whose_they_are_and_ends(start_service: StartService) -> None:
    service = await start_service(THREE)
    code, message = await run_to_its_end(*command(service.folder, THREE))
    assert code == EXIT_UNUSABLE
    assert message.count(f"the journal {service.folder / 'journal'} belongs to a running process") == 1
    assert "Traceback" not in message


async def test_when_no_worker_can_start_the_reason_is_said_once(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "persistence.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    code, message = await run_to_its_end(*command(tmp_path, THREE), folder=tmp_path)
    assert code == EXIT_UNUSABLE
    assert message.count("persistence-service: ") == 1
    assert "no worker can start: the database's schema is of version 9999" in message
    assert "Traceback" not in message


async def test_a_worker_that_can_not_start_is_tried_again_while_the_others_serve(
    start_service: StartService, tmp_path: Path
) -> None:
    folder = tmp_path / "held"
    (folder / "worker-2").mkdir(parents=True)
    lock = DirectoryLock.take(folder / "worker-2")
    service = await start_service({**THREE, "journal.directory": folder}, measured=False)
    await until(lambda: sum("worker.ended" in line and "worker=2" in line for line in service.log) >= 2, service)
    assert any(f"the journal {folder / 'worker-2'} belongs to a running process" in line for line in service.log)
    async with Caller.to(service) as caller:
        assert (await caller.health())["status"] == "degraded"
        lock.release()
        await all_ready(service)
        await until(partial(is_healthy, caller), service)


async def is_healthy(caller: Caller) -> bool:
    return bool((await caller.health())["status"] == "healthy")


async def test_a_second_signal_ends_all_at_once_and_loses_nothing(start_service: StartService) -> None:
    service = await start_service({**THREE, **NO_FLUSH, "storage.migrate_on_start": False}, measured=False)
    workers = await all_ready(service)  # nothing can be stored: there are no tables
    load = Load(service)
    async with load.going_on():
        pass
    os.kill(workers[2], signal.SIGSTOP)  # so that the first signal alone would wait for it
    os.kill(supervisor(service), signal.SIGTERM)
    await until(lambda: any("Shutting down" in line for line in service.log), service)
    assert await service.terminate() == 0
    assert not any(map(is_alive, workers.values()))
    assert not any("worker.killed" in line for line in service.log), "nobody waited until its time was over"
    assert not any("journal_closed" in line and "worker=2" in line for line in service.log)
    service._command.append("--set=storage.migrate_on_start=true")
    await service.start()
    async with Caller.to(service) as caller:
        assert await stored_ids(caller) == load.acknowledged


async def test_a_worker_that_no_process_can_be_started_for_is_tried_again_until_one_can(
    start_service: StartService,
) -> None:
    service = await start_service(THREE, measured=False)
    workers = await all_ready(service)
    pid = supervisor(service)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(workers[2], signal.SIGKILL)
    await until(lambda: any("worker.not_started" in line and "worker=2" in line for line in service.log), service)
    os.kill(pid, signal.SIGHUP)
    await until(lambda: any("service.restart_stopped" in line for line in service.log), service)
    assert is_alive(workers[1])
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    await until(lambda: pids(service)[2] != workers[2], service)
    async with Caller.to(service) as caller:
        await until(partial(is_healthy, caller), service)
    assert await service.terminate() == 0


async def test_an_address_that_is_taken_is_said(start_service: StartService) -> None:
    service = await start_service(THREE)
    port = httpx.URL(service.url).port
    other = {"journal.directory": service.folder / "other", "service.workers": 2}
    code, message = await run_to_its_end(*command(service.folder, other), f"--port={port}")
    assert code == EXIT_UNUSABLE
    assert f"can't listen on 127.0.0.1:{port}" in message


async def test_the_memory_backend_is_refused_with_more_than_one_worker(tmp_path: Path) -> None:
    code, message = await run_to_its_end(*command(tmp_path, {**THREE, "storage.backend": "memory"}), folder=tmp_path)
    assert code == 2
    assert "service.workers (3) must be 1 with the backend memory" in message

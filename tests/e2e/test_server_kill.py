"""`kill -9` of the database's server under load, beside kills of the service: nothing is lost, and rows are those of SQLite."""

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from random import Random

import msgspec
import pytest

from persistence_service.client import SessionRequest, TaskRequest
from persistence_service.torture.ledger import Ledger
from tests.e2e.caller import Caller, batched
from tests.e2e.conftest import StartService
from tests.e2e.database import Database, OnServer, SqliteFile
from tests.e2e.job import MainJob
from tests.e2e.outside import until
from tests.e2e.sample import sample_workbooks
from tests.e2e.service import ServiceProcess, running_service
from tests.e2e.test_kill import any_moment
from tests.e2e.workbooks import Workbook, read_workbooks
from tests.servers.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

SERVER_KILLS = 3  # one in each order
_SEED = 5
_LONGEST_OUTAGE_S = 1.0


@pytest.fixture
def workbooks(request: pytest.FixtureRequest) -> list[Workbook]:
    """The real data, and the generated sample only where there are none."""
    if os.environ.get("PERSISTENCE_TEST_DATA"):
        return read_workbooks(request.getfixturevalue("real_data"))
    return sample_workbooks()


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_and_rows_are_those_of_sqlite(
    own_server: Server, start_service: StartService, workbooks: Sequence[Workbook], tmp_path: Path
) -> None:
    database = OnServer(own_server)
    service = await start_service(database.settings() | {"buffer.flush_interval": 1}, measured=False)
    async with Caller.to(service) as caller, asyncio.timeout(900):
        job = MainJob(caller, workbooks)
        async with asyncio.TaskGroup() as both:
            killing = both.create_task(kill_both(service, own_server, job))
            both.create_task(job.run())
        kills = killing.result()

        async def is_well() -> bool:
            return bool((await caller.health())["status"] == "healthy")

        await until(is_well, "it has found its database again")
        # Pages and single reads of these records: test_kill.py on SQLite; on the servers, of the sample: test_main_job.py.
        verdict = await job.check_kept()
        health = await caller.health()
    print(
        f"{own_server.kind}: {SERVER_KILLS} kills of the server, {kills} of the service, {caller.repeated} requests "
        f"repeated, {len(job.ledger.tasks_kept)} tasks: {verdict}"
    )
    assert verdict, str(verdict)
    assert (health["status"], health["journal"]["losses"]) == ("healthy", [])
    assert (health["buffer"]["total_count"], health["journal"]["unstored_items"]) == (0, 0)
    assert await service.terminate() == 0
    await check_rows_of_sqlite(database, job.ledger, tmp_path)


async def kill_both(service: ServiceProcess, server: Server, job: MainJob) -> int:
    """Kill the server at seeded places of the load, and the service too, in each of the orders there are.

    While the server is away the load goes on. Returns how often the service was killed.
    """
    random = Random(_SEED)
    kills = 0
    for number, batches in enumerate(sorted(random.sample(range(1, job.batches), SERVER_KILLS))):
        await job.ledger.reached(batches)
        await asyncio.to_thread(server.kill)
        if number % 3 == 1:  # it starts without its database
            await service.restart_after_kill()
            kills += 1
        await any_moment(random.uniform(0, _LONGEST_OUTAGE_S))
        if number % 3 == 2:  # they come back together
            await service.kill()
            await asyncio.gather(service.start(), asyncio.to_thread(server.start))
            kills += 1
        else:
            await asyncio.to_thread(server.start)
        await job.check_single_reads(random, 20)
    return kills


async def check_rows_of_sqlite(database: Database, ledger: Ledger, folder: Path) -> None:
    """Store what was kept in SQLite too, and compare the rows of both, column by column."""
    reference = SqliteFile(folder / "reference.db")
    async with running_service(folder, reference.settings(), measured=False) as service, Caller.to(service) as caller:
        sessions = [state for states in ledger.sessions_kept.values() for state in states]
        await caller.client.send_sessions(msgspec.convert(sessions, list[SessionRequest]))
        tasks = [{name: _as_sent(value) for name, value in task.items()} for task in ledger.tasks_kept.values()]
        for some in batched(tasks, 1000):
            await caller.client.send_tasks(msgspec.convert(some, list[TaskRequest]))
        await service.terminate()
    for table in ("translation_sessions", "translation_tasks"):
        columns = reference.columns(table)
        stored, expected = database.contents(table, columns), reference.contents(table, columns)
        assert len(stored) == len(expected)
        assert sorted(stored ^ expected, key=repr)[:4] == []


def _as_sent(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value

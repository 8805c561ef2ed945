"""`kill -9` while ten workers report: nothing that was acknowledged is lost, nothing goes back, nothing is invented."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import pytest

from tests.e2e.caller import Caller
from tests.e2e.conftest import StartService
from tests.e2e.database import Database
from tests.e2e.job import MainJob
from tests.e2e.service import ServiceProcess
from tests.e2e.workbooks import Workbook

KILLS = 10
_SEED = 77
_DELAY_S = 0.03


# The real data on the servers, which are killed too: test_server_kill.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    "workbooks, database",
    [("sample", "sqlite"), ("sample", "mysql"), ("sample", "mariadb"), ("real", "sqlite")],
    indirect=True,
)
async def test_nothing_acknowledged_is_lost_in_ten_kills(
    database: Database, start_service: StartService, workbooks: Sequence[Workbook]
) -> None:
    service = await start_service(database.settings() | {"buffer.flush_interval": 1}, measured=False)
    async with Caller.to(service) as caller:
        job = MainJob(caller, workbooks)
        killer = asyncio.create_task(kill_at_random_moments(service, job))
        await job.run()
        assert await killer == KILLS
        verdict = await job.check_everything()
        health = await caller.health()
    print(f"{KILLS} kills, {caller.repeated} requests repeated: {verdict}")
    assert verdict, str(verdict)
    assert (health["status"], health["journal"]["losses"]) == ("healthy", [])
    assert (health["buffer"]["total_count"], health["journal"]["unstored_items"]) == (0, 0)

    assert await service.terminate() == 0
    tasks = sum(len(workbook.tasks) for workbook in workbooks)
    assert database.stored_rows() == {
        "translation_sessions": (len(workbooks), len(workbooks)),
        "translation_tasks": (tasks, tasks),
    }


async def kill_at_random_moments(service: ServiceProcess, job: MainJob) -> int:
    """Kill the service at seeded places of the load, a random time after each, and start it again at once.

    After each start some of what was acknowledged is read, which waits in the journal or the database.
    """
    random = Random(_SEED)
    kills = 0
    for batches in sorted(random.sample(range(1, job.batches), KILLS)):
        await job.ledger.reached(batches)
        await any_moment(random.uniform(0, _DELAY_S))
        await service.restart_after_kill()
        kills += 1
        await job.check_single_reads(random, 20)
    return kills


async def any_moment(seconds: float) -> None:
    """Wait so long for nothing: a kill has no reason to come when something happens."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()

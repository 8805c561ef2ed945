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

_SEED = 77
_DELAY_S = 0.03


# What the service reads from its journal after a kill is the same whatever its database: a few kills show what the servers
# do with the connections and transactions of one that is gone.
# The real data on the servers, which are killed too: test_server_kill.py.
@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "workbooks, database, kills",
    [("sample", "sqlite", 10), ("sample", "mysql", 4), ("sample", "mariadb", 4), ("real", "sqlite", 10)],
    indirect=["workbooks", "database"],
)
async def test_nothing_acknowledged_is_lost_in_kill_after_kill(
    database: Database, start_service: StartService, workbooks: Sequence[Workbook], kills: int
) -> None:
    service = await start_service(database.settings() | {"buffer.flush_interval": 1}, measured=False)
    async with Caller.to(service) as caller:
        job = MainJob(caller, workbooks)
        killer = asyncio.create_task(kill_at_random_moments(service, job, kills))
        await job.run()
        assert await killer == kills
        verdict = await job.check_everything()
        health = await caller.health()
    print(f"{kills} kills, {caller.repeated} requests repeated: {verdict}")
    assert verdict, str(verdict)
    assert (health["status"], health["journal"]["losses"]) == ("healthy", [])
    assert (health["buffer"]["total_count"], health["journal"]["unstored_items"]) == (0, 0)

    assert await service.terminate() == 0
    tasks = sum(len(workbook.tasks) for workbook in workbooks)
    assert database.stored_rows() == {
        "translation_sessions": (len(workbooks), len(workbooks)),
        "translation_tasks": (tasks, tasks),
    }


async def kill_at_random_moments(service: ServiceProcess, job: MainJob, kills: int) -> int:
    """Kill the service at so many seeded places of the load, a random time after each, and start it again at once.

    After each start some of what was acknowledged is read, which waits in the journal or the database.
    """
    random = Random(_SEED)
    killed = 0
    for batches in sorted(random.sample(range(1, job.batches), kills)):
        await job.ledger.reached(batches)
        await any_moment(random.uniform(0, _DELAY_S))
        await service.restart_after_kill()
        killed += 1
        await job.check_single_reads(random, 20)
    return killed


async def any_moment(seconds: float) -> None:
    """Wait so long for nothing: a kill has no reason to come when something happens."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()

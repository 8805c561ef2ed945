"""Ten workers at once report everything they do; afterwards all of it is there, field by field."""

from collections.abc import Sequence

import pytest

from tests.e2e.caller import Caller
from tests.e2e.conftest import StartService
from tests.e2e.database import Database
from tests.e2e.job import MainJob
from tests.e2e.workbooks import Workbook


# The real data on the servers, which are killed meanwhile: test_server_kill.py. They bring no code to run that the sample
# does not, so that run is spared the time of measuring, as are those on servers (see conftest.py).
@pytest.mark.parametrize(
    "workbooks, database, measured",
    [
        pytest.param("sample", "sqlite", True, id="sample-sqlite"),
        pytest.param("sample", "mysql", False, marks=pytest.mark.unmeasured, id="sample-mysql"),
        pytest.param("sample", "mariadb", False, marks=pytest.mark.unmeasured, id="sample-mariadb"),
        pytest.param("real", "sqlite", False, marks=[pytest.mark.slow, pytest.mark.unmeasured], id="real-sqlite"),
    ],
    indirect=["workbooks", "database"],
)
async def test_everything_that_ten_workers_report_is_read_back_as_it_was_sent(
    database: Database, start_service: StartService, workbooks: Sequence[Workbook], measured: bool
) -> None:
    service = await start_service(database.settings(), measured=measured)
    async with Caller.to(service) as caller:
        job = MainJob(caller, workbooks)
        await job.run()
        verdict = await job.check_everything()
        health = await caller.health()
    print(verdict)
    assert verdict, str(verdict)
    assert health["status"] == "healthy"
    assert (health["buffer"]["total_count"], health["journal"]["unstored_items"]) == (0, 0)

    assert await service.terminate() == 0
    tasks = sum(len(workbook.tasks) for workbook in workbooks)
    assert database.stored_rows() == {
        "translation_sessions": (len(workbooks), len(workbooks)),
        "translation_tasks": (tasks, tasks),
    }

"""The command, as users have it: on SQLite with all its faults, against a running service, and on a database of others."""

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from persistence_service.torture.conductor import Plan
from persistence_service.torture.engine import Order, torture
from persistence_service.torture.processes import ServiceProcess
from persistence_service.torture.report import FIGURES, Report
from tests.chaos.rig import check_strained, seconds_of, seed_of
from tests.e2e.database import Database, OnServer, SqliteFile
from tests.e2e.service import ROOT
from tests.servers.server import Server

pytestmark = pytest.mark.slow

_FAULTS_OF_THE_PROCESS = {
    "machine: power loss",
    "service: SIGKILL",
    "service: SIGKILL during replay",
    "service: SIGSTOP, SIGCONT",
    "service: SIGTERM with slow requests open",
    "service: SIGTERM, then SIGKILL",
}
_DISK_FAULTS_AT_LEAST = 5
_SLOW_S = 120
_PARTS = 5
"""On a slow machine it takes more than one until all has struck."""
ON_MYSQL = pytest.mark.parametrize("own_server", ["mysql"], indirect=True)
"""Its own, since it is read-only for a while."""


async def test_on_sqlite_nothing_acknowledged_is_lost_regressed_duplicated_or_invented() -> None:
    total = Report(seed_of(5), "services on sqlite")
    async with asyncio.timeout(1500 + seconds_of(0)):
        for part in range(_PARTS):
            report = await torture(Order(Plan(seconds_of(60), seed_of(5) + part)), lambda _: None)
            print(report.document())
            assert [len(report.found(figure)) for figure in FIGURES] == [0, 0, 0, 0], list(report.findings())
            assert report.trouble == []
            add(total, report)
            with suppress(AssertionError):
                check_enough(total)
                break
    check_enough(total)


def add(total: Report, report: Report) -> None:
    for counted, more in ((total.faults, report.faults), (total.hits, report.hits), (total.seen, report.seen)):
        counted.update(more)
    total.records_acknowledged += report.records_acknowledged
    total.data_rejected += report.data_rejected


def check_enough(report: Report) -> None:
    """All kinds struck and were felt, and the service went through much."""
    assert report.faults.keys() >= _FAULTS_OF_THE_PROCESS
    assert min(report.hits[name] for name in _FAULTS_OF_THE_PROCESS) > 0
    assert sum(name.startswith("disk:") for name in report.faults) >= _DISK_FAULTS_AT_LEAST
    assert report.records_acknowledged > 0
    assert report.data_rejected > 0
    assert min(report.seen["read_back_at_once"], report.seen["lists_at_once"]) > 0
    check_strained(report, at_least=12)


async def test_a_running_service_is_tortured_from_outside_and_left_as_it_was(tmp_path: Path) -> None:
    settings = {"journal.directory": tmp_path / "journal", "sqlite.path": tmp_path / "p.db", "logging.file": ""}
    service = ServiceProcess(tmp_path, settings)
    await service.start()
    try:
        code, document = await run("--url", service.url)
    finally:
        await service.close()
    assert (code, document["trouble"], [document[figure] for figure in FIGURES]) == (0, [], [0, 0, 0, 0])
    assert document["faults"] == {}
    assert document["records_acknowledged"] > 0
    check_empty(SqliteFile(tmp_path / "p.db"))


@ON_MYSQL
async def test_in_the_database_of_others_nothing_is_left_behind(own_server: Server) -> None:
    database = OnServer(own_server)
    code, document = await run("--backend=mysql", settings=database.settings())
    assert (code, document["trouble"], [document[figure] for figure in FIGURES]) == (0, [], [0, 0, 0, 0])
    assert document["records_acknowledged"] > 0
    check_empty(database)


@ON_MYSQL
async def test_what_a_signal_ends_has_removed_what_it_had_stored(own_server: Server) -> None:
    database = OnServer(own_server)
    process = await started("--backend=mysql", "--seconds=600", settings=database.settings())
    try:
        async with asyncio.timeout(_SLOW_S):
            while not await asyncio.to_thread(stored_tasks, database):  # noqa: ASYNC110  # a database tells nobody
                await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 128 + signal.SIGTERM
    finally:
        if process.returncode is None:
            process.kill()
    check_empty(database)


def stored_tasks(database: Database) -> int:
    """How many there are; none as long as there is no table for them."""
    try:
        ((tasks,),) = database.look("SELECT COUNT(*) FROM translation_tasks")
    except Exception:  # noqa: BLE001  # of several drivers
        return 0
    return int(str(tasks))


async def test_where_no_service_is_the_torture_says_that_it_could_not_be_done(tmp_path: Path) -> None:
    code, document = await run(settings={"journal.directory": "/proc/nowhere"})
    assert (code, document) == (3, {})


async def test_a_running_service_that_can_not_be_reached_is_not_waited_for() -> None:
    code, document = await run("--url=http://127.0.0.1:9")
    assert (code, document) == (3, {})


async def test_a_fault_that_there_is_not_is_a_wrong_usage() -> None:
    code, document = await run("--faults=nonsense")
    assert (code, document) == (2, {})


def check_empty(database: Database) -> None:
    for table in ("translation_sessions", "translation_tasks", "dead_letters"):
        assert database.look(f"SELECT COUNT(*) FROM {table}") == [(0,)], table


async def run(*options: str, settings: Mapping[str, object] | None = None) -> tuple[int, dict[str, Any]]:
    """The command for a few seconds; its exit code and what it answers."""
    process = await started(f"--seconds={seconds_of(12)}", *options, settings=settings)
    answer, _ = await process.communicate()
    return process.returncode or 0, msgspec.json.decode(answer) if answer else {}


async def started(*options: str, settings: Mapping[str, object] | None = None) -> asyncio.subprocess.Process:
    """The command, which will answer with a document."""
    given = [f"--set={key}={value}" for key, value in (settings or {}).items()]
    command = (sys.executable, str(ROOT / "main.py"), "torture", "--json", f"--seed={seed_of(4)}")
    return await asyncio.create_subprocess_exec(*command, *options, *given, stdout=asyncio.subprocess.PIPE)

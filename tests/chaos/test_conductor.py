"""What a torture is there to find is found: a service that ends by itself, and one that answers before its fsync."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from persistence_service.torture.conductor import Conductor, Plan
from persistence_service.torture.engine import SMALL
from persistence_service.torture.faults import Subject
from persistence_service.torture.orders import Orders
from persistence_service.torture.power_faults import PowerLost
from persistence_service.torture.processes import ServiceProcess
from persistence_service.torture.report import FIGURES, Report
from tests.chaos.rig import seed_of

pytestmark = pytest.mark.slow

_PARTS = 6
"""On a slow machine power may fail too seldom in one of them."""


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    settings = {"journal.directory": tmp_path / "journal", "sqlite.path": tmp_path / "p.db", "logging.file": ""}
    settings |= {"buffer.orphan_grace": 1, "buffer.flush_interval": 0.5}
    subject = ServiceProcess(tmp_path, settings)
    try:
        await subject.start()
        yield subject
    finally:
        await subject.close()


class BehindTheBack:
    """A kill that nobody answers for, as if the service had ended by itself."""

    name = "service: ends"

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    async def strike(self, random: Random) -> None:
        if self._subject.is_running:
            with suppress(ProcessLookupError):  # it has ended, and its parent does not know yet
                os.kill(self._subject.pid, signal.SIGKILL)


_WITHOUT_FSYNC = """
from persistence_service.journal.writer import JournalWriter
from persistence_service.testing.under_faults import main

JournalWriter._sync_file = lambda self, active: None
main()
"""


async def test_a_service_that_answers_before_its_fsync_loses_what_it_acknowledged_when_power_fails(
    tmp_path: Path,
) -> None:
    orders, journal = Orders(tmp_path / "orders"), tmp_path / "journal"
    settings = {**SMALL, "journal.directory": journal, "sqlite.path": tmp_path / "p.db"}
    # So that what is lost is not in the database by then.
    settings |= {"buffer.max_buffer_size": 5000, "buffer.max_memory_records": 50_000, "buffer.flush_interval": 60}
    subject = ServiceProcess(tmp_path, settings, program=("-c", _WITHOUT_FSYNC, str(orders.paths[0]), "serve"))
    report = Report(seed_of(1), "a service without fsync")
    try:
        await subject.start()
        power = PowerLost(subject, orders, journal)
        for part in range(_PARTS):
            await Conductor(Plan(8, report.seed + part), subject.url, [power], report, lambda _: None, subject).run()
            if report.found("lost") or report.found("regressed"):
                break
    finally:
        await subject.close()
    assert power.hits > 0
    assert [*report.found("lost"), *report.found("regressed")] != [], report.document()


async def test_a_service_that_ended_by_itself_is_trouble_and_what_it_kept_is_compared_all_the_same(
    subject: ServiceProcess,
) -> None:
    report = Report(1, "a service")
    await Conductor(Plan(3, 1), subject.url, [BehindTheBack(subject)], report, lambda _: None, subject).run()
    assert not report.is_well
    assert "ended by itself" in report.trouble[0]
    assert len(report.trouble) == 1
    assert [report.found(figure) for figure in FIGURES] == [[], [], [], []]
    assert report.records_acknowledged > 0

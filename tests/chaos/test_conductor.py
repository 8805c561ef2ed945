"""What is no fault of the schedule is found too: a service that ends by itself."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from persistence_service.torture.conductor import Conductor, Plan
from persistence_service.torture.faults import Subject
from persistence_service.torture.processes import ServiceProcess
from persistence_service.torture.report import FIGURES, Report

pytestmark = pytest.mark.slow


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

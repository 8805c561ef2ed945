"""A service that does not come back is found, and told of in the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import pytest

from persistence_service.torture.conductor import Conductor, Plan
from persistence_service.torture.faults import Fault, ServiceEnded
from persistence_service.torture.report import Report
from persistence_service.torture.service_faults import Killed

_NOBODY = "http://127.0.0.1:9"


class CrashLoop:
    """A service that ends by itself whenever it is started; `starts` counts how often that was."""

    settings: Mapping[str, object] = {}
    program: Sequence[str] = ()
    pid = 0
    url = _NOBODY
    is_running = False
    is_ready = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0

    async def start(self, *, ready: bool = True) -> None:
        self.starts += 1
        raise ServiceEnded(f"it ended by itself with code {self.starts}")

    async def kill(self) -> None:
        pass

    async def terminate(self) -> int:
        raise ServiceEnded("it was not started")

    def signal(self, number: int) -> None:
        pass

    async def until_ready(self) -> None:
        raise ServiceEnded("it ended by itself")


class Nothing:
    """A fault that is none."""

    name = "service: nothing"

    async def strike(self, random: Random) -> None:
        pass


@pytest.fixture
def subject(tmp_path: Path) -> CrashLoop:
    return CrashLoop(tmp_path)


async def verdict(subject: CrashLoop, fault: Fault, *, seconds: float) -> Report:
    report = Report(1, "a service")
    await Conductor(Plan(seconds, 1, clients=2), subject.url, [fault], report, lambda _: None, subject).run()
    assert not report.is_well
    return report


async def test_a_service_that_ends_at_each_start_does_not_come_back(subject: CrashLoop) -> None:
    report = await verdict(subject, Nothing(), seconds=0.1)
    assert report.trouble == ["it ended by itself", "it does not come back: it ended by itself with code 1"]
    assert report.records_acknowledged == 0


async def test_one_that_a_fault_can_not_start_again_is_started_once_more(subject: CrashLoop) -> None:
    report = await verdict(subject, Killed(subject), seconds=60)  # which ends at once
    assert [text.split(":")[0] for text in report.trouble] == [
        "before or in service",
        "it ended by itself",
        "it does not come back",
    ]
    assert subject.starts == 2


async def test_what_was_found_ends_a_long_torture(subject: CrashLoop) -> None:
    report = await verdict(subject, Killed(subject), seconds=180)
    assert report.rounds == 1

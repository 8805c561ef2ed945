"""A torture as the tests have it: a service of its own under faults, all kinds of which have to be felt."""

import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from persistence_service.torture.conductor import Conductor, Plan
from persistence_service.torture.engine import SMALL
from persistence_service.torture.faults import Fault, Subject
from persistence_service.torture.report import FIGURES, Report
from persistence_service.torture.sources import Rig, rig

PREFIX = "torture"
_PARTS = 12
STRAINS = ("spilled", "read_back", "failed_flushes")
_CLIENTS = 12


def seed_of(default: int) -> int:
    """The seed of a test: PERSISTENCE_TEST_SEED names another."""
    return int(os.environ.get("PERSISTENCE_TEST_SEED") or default)


def seconds_of(default: float) -> float:
    """How long a torture lasts: PERSISTENCE_TEST_TORTURE_SECONDS names another time."""
    return float(os.environ.get("PERSISTENCE_TEST_TORTURE_SECONDS") or default)


@asynccontextmanager
async def started(folder: Path, settings: Mapping[str, object]) -> AsyncIterator[Rig]:
    """A service that is ready, and what can be done to it; `settings` by dotted keys."""
    own = {"journal.directory": folder / "journal", "sqlite.path": folder / "persistence.db", **SMALL}
    async with rig(folder, own | dict(settings), None, PREFIX) as torn:
        yield torn


def of(faults: Sequence[Fault], *sources: str) -> list[Fault]:
    """Those of these sources: service, machine, disk, clock, network, database."""
    return [fault for fault in faults if fault.name.split(":")[0] in sources]


async def torture(
    torn: Rig,
    faults: Sequence[Fault],
    *,
    seed: int,
    seconds: float,
    clients: int = _CLIENTS,
    clock_doubt: timedelta | None = None,
    strains: Sequence[str] = (),
) -> Report:
    """Do it; the table of what was done and found is printed, and all that is found at all is asserted not to be.

    All kinds of faults have to strike, and those that count what they do have to be felt, and the service has to go through
    all `strains`, see `Report.seen`: on a slow machine what was not by then gets more time.
    """
    seed, seconds = seed_of(seed), seconds_of(seconds)
    report = Report(seed, f"a service on {torn.subject.settings.get('storage.backend', 'sqlite')}")
    left = faults
    for part in range(_PARTS):
        plan = Plan(seconds if part == 0 else seconds / 2, seed + part, clients=clients, clock_doubt=clock_doubt)
        prefix = f"{PREFIX}-{part}"
        await Conductor(
            plan, torn.subject.url, left or faults, report, lambda _: None, torn.subject, prefix, refused=torn.refused
        ).run()
        left = [fault for fault in faults if not (report.faults[fault.name] and report.hits[fault.name])]
        is_felt = not left and all(report.seen[name] for name in strains)
        if is_felt or not report.is_well:
            break
    Console(width=110).print(report.table(), *report.findings(), sep="\n")
    if not report.is_well:
        print((torn.subject.folder / "service.log").read_text()[-20_000:])
    assert {figure: report.found(figure)[:3] for figure in FIGURES} == {figure: [] for figure in FIGURES}
    assert report.trouble == []
    assert report.records_acknowledged > 0
    assert [fault.name for fault in left] == [], "these did not strike, or were not felt"
    return report


def check_strained(report: Report, *, at_least: int) -> None:
    """The service was not treated too gently: it had to spill, read back and try again, and many faults struck."""
    print(dict(report.seen))
    assert [name for name in STRAINS if not report.seen[name]] == []
    assert report.faults.total() >= at_least


def most_in_a_flush(subject: Subject) -> int:
    """The most tasks that one flush has stored, by the service's log."""
    log = (subject.folder / "service.log").read_text()
    return max(map(int, re.findall(r" flush .*translation_tasks=(\d+)", log)), default=0)

"""From what was asked for to a report: the service of its own, or a running one, and the faults that there are for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from persistence_service.client import PersistenceClient, ServiceUnreachable, UnexpectedAnswer
from persistence_service.errors import ConfigurationError
from persistence_service.torture.conductor import Conductor, Plan, new_prefix
from persistence_service.torture.faults import CouldNotRun
from persistence_service.torture.report import Report
from persistence_service.torture.schedule import chosen
from persistence_service.torture.sources import rig

SMALL: Mapping[str, object] = {
    # So that within a minute everything comes to pass that takes a service hours: it spills what memory has no room for and
    # reads it back, sets aside what waits, and begins and removes segments all the while.
    "buffer.max_buffer_size": 50,
    "buffer.max_memory_records": 60,
    "buffer.flush_interval": 0.5,
    "buffer.orphan_grace": 1,
    "buffer.ack_timeout": 2,
    "buffer.max_dead_letter_rate": 1000,  # of which the tasks that the database refuses stay below
    "journal.segment_bytes": "64KiB",
    "service.shutdown_timeout": 4,
    "sqlite.busy_timeout": 0.5,
    "logging.file": "",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What a torture is asked to do, and to which service: `settings` are above `config`, and both above our own."""

    plan: Plan
    backend: str = "sqlite"
    url: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    config: Path | None = None
    faults: Sequence[str] = ()
    keep: bool = False


async def torture(order: Order, tell: Callable[[str], None]) -> Report:
    """Do it.

    Raises:
        CouldNotRun: there is no service to torture.
        ConfigurationError: a fault that there is not.

    Whatever else ends it has notes: what was found until then, and the folder that is kept.
    """
    if order.url is not None:
        report = Report(order.plan.seed, order.url)
        faults = chosen([], order.faults)
        await _check_reachable(order.url)
        await Conductor(order.plan, order.url, faults, report, tell).run()
        return report
    report = Report(order.plan.seed, f"a service on {order.backend}")
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        await _torture_own(order, folder, report, tell)
    except ConfigurationError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException as exc:
        report.kept_in = str(folder)
        for finding in report.findings():
            exc.add_note(finding)
        raise
    if order.keep or not report.is_well:
        report.kept_in = str(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return report


async def _check_reachable(url: str) -> None:
    async with PersistenceClient(url) as client:
        try:
            await client.health()
        except (ServiceUnreachable, UnexpectedAnswer) as exc:
            raise CouldNotRun(f"{url}: {exc}") from exc


async def _torture_own(order: Order, folder: Path, report: Report, tell: Callable[[str], None]) -> None:
    prefix = new_prefix()
    tell("starting the service")
    async with rig(folder, _settings(order, folder), order.config, prefix) as torn:
        report.target = f"a service on {torn.backend}"
        faults = chosen(torn.faults, order.faults)
        report.skipped = [f"{skipped.name}: {skipped.reason}" for skipped in torn.skipped]
        conductor = Conductor(
            order.plan, torn.subject.url, faults, report, tell, torn.subject, prefix, refused=torn.refused
        )
        await conductor.run()


def _settings(order: Order, folder: Path) -> dict[str, object]:
    own = {
        "storage.backend": order.backend,
        "storage.routes": "",  # of the configuration's none counts, which may lead to a database that was not asked for
        "journal.directory": folder / "journal",
        "sqlite.path": folder / "persistence.db",
    }
    return own | dict(SMALL) | dict(order.settings)

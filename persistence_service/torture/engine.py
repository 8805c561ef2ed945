"""From what was asked for to a report: the service of its own, or a running one, and the faults that there are for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from persistence_service.torture.conductor import Conductor, Plan, new_prefix
from persistence_service.torture.report import Report
from persistence_service.torture.schedule import chosen
from persistence_service.torture.sources import rig

_OWN_SETTINGS: Mapping[str, object] = {
    # Small, so that within a minute everything comes to pass that takes a service hours.
    "buffer.max_buffer_size": 200,
    "buffer.max_memory_records": 1000,
    "buffer.flush_interval": 0.5,
    "buffer.orphan_grace": 1,
    "buffer.ack_timeout": 2,
    "journal.segment_bytes": "256KiB",
    "service.shutdown_timeout": 4,
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
    """
    if order.url is not None:
        report = Report(order.plan.seed, order.url)
        chosen([], order.faults)
        await Conductor(order.plan, order.url, [], report, tell).run()
        return report
    async with _folder(order) as folder:
        return await _torture_own(order, folder, tell)


async def _torture_own(order: Order, folder: Path, tell: Callable[[str], None]) -> Report:
    report = Report(order.plan.seed, f"a service on {order.backend}")
    prefix = new_prefix()
    tell("starting the service")
    async with rig(folder, _settings(order, folder), order.config, prefix) as torn:
        faults = chosen(torn.faults, order.faults)
        report.skipped = [f"{skipped.name}: {skipped.reason}" for skipped in torn.skipped]
        await Conductor(order.plan, torn.subject.url, faults, report, tell, torn.subject, prefix).run()
    if not report.is_well:
        shutil.copytree(folder, kept := Path(tempfile.mkdtemp(prefix="torture-")), dirs_exist_ok=True)
        report.trouble.append(f"journal, log and embedded database are kept in {kept}")
    return report


def _settings(order: Order, folder: Path) -> dict[str, object]:
    own = {
        "storage.backend": order.backend,
        "journal.directory": folder / "journal",
        "sqlite.path": folder / "persistence.db",
    }
    return own | dict(_OWN_SETTINGS) | dict(order.settings)


@asynccontextmanager
async def _folder(order: Order) -> AsyncIterator[Path]:
    """A folder of its own; with `keep` it stays."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        yield folder
    finally:
        if not order.keep:
            shutil.rmtree(folder, ignore_errors=True)

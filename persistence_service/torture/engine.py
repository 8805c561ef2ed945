"""From what was asked for to a report: the service of its own, or a running one, and the faults that there are for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from persistence_service.torture.conductor import Conductor, Plan
from persistence_service.torture.faults import CouldNotRun, Fault, ServiceEnded, Subject
from persistence_service.torture.processes import ServiceProcess
from persistence_service.torture.report import Report
from persistence_service.torture.schedule import chosen
from persistence_service.torture.service_faults import service_faults

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
    """What a torture is asked to do. `arguments` are those of `serve` that name the configuration."""

    plan: Plan
    backend: str = "sqlite"
    url: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    arguments: Sequence[str] = ()
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
    subject = ServiceProcess(folder, _settings(order, folder), arguments=order.arguments)
    faults = chosen(_faults(subject), order.faults)
    tell("starting the service")
    try:
        try:
            await subject.start()
        except ServiceEnded as exc:
            raise CouldNotRun(f"the service can't be started: {exc}") from exc
        await Conductor(order.plan, subject.url, faults, report, tell, subject).run()
    finally:
        await subject.close()
    if not report.is_well:
        shutil.copytree(folder, kept := Path(tempfile.mkdtemp(prefix="torture-")), dirs_exist_ok=True)
        report.trouble.append(f"journal, log and embedded database are kept in {kept}")
    return report


def _faults(subject: Subject) -> Sequence[Fault]:
    return service_faults(subject)


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

"""Which faults there are for a service of our own, and what it has to be told so that they can strike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from persistence_service.bootstrap import mysql_options, storage_names
from persistence_service.settings import Settings, TlsMode, load_settings
from persistence_service.torture.database_faults import Skipped, database_faults
from persistence_service.torture.faults import CouldNotRun, Fault, ServiceEnded, Subject
from persistence_service.torture.file_faults import FileLocked
from persistence_service.torture.ledger import Record
from persistence_service.torture.orders import Orders
from persistence_service.torture.poison import is_poison, refuse_poison
from persistence_service.torture.power_faults import PowerLost
from persistence_service.torture.processes import ServiceProcess
from persistence_service.torture.proxy import Proxy, proxy_to
from persistence_service.torture.proxy_faults import proxy_faults
from persistence_service.torture.service_faults import service_faults
from persistence_service.torture.subject_faults import SETTINGS as CLOCK_SETTINGS
from persistence_service.torture.subject_faults import clock_faults, disk_faults

_UNDER_FAULTS = "persistence_service.testing.under_faults"
_NO_PROXY = "network: all"


@dataclass(frozen=True, slots=True)
class Rig:
    """A service that runs, all that can be done to it, and what can't."""

    subject: Subject
    faults: Sequence[Fault]
    backend: str
    skipped: Sequence[Skipped] = field(default_factory=list)
    refuses_poison: bool = False

    def refused(self, task: Record) -> bool:
        """Whether the database refuses this task for good."""
        return self.refuses_poison and is_poison(task)


@asynccontextmanager
async def rig(folder: Path, settings: Mapping[str, object], config: Path | None, prefix: str) -> AsyncIterator[Rig]:
    """What `settings` and the configuration make; the process ends with the block, however it is then.

    Raises:
        ConfigurationError: what is wrong with them.
        CouldNotRun: the service does not start with them.
    """
    settings = {**CLOCK_SETTINGS, **settings}
    loaded = load_settings(flags=settings, config_path=config, known=storage_names()).settings
    if loaded.storage.backend != "mysql":
        async with _process(folder, settings, config, loaded) as subject:
            of_the_file, is_ours = [], False
            if loaded.storage.backend == "sqlite":
                of_the_file = [FileLocked(loaded.sqlite.path)]
                is_ours = loaded.sqlite.path.is_relative_to(folder)
            if is_ours:
                await refuse_poison(loaded.sqlite.path)
            faults = [*_of_the_process(subject, loaded), *of_the_file]
            yield Rig(subject, faults, loaded.storage.backend, refuses_poison=is_ours)
        return
    options = mysql_options(loaded)
    obstacle = _obstacle_to_proxy(loaded)
    async with proxy_to(options.addresses[0]) as proxy:
        way = {} if obstacle else _through(proxy)
        async with _process(folder, settings | way, config, loaded) as subject:
            faults, skipped = await database_faults(options, options, prefix)
            if obstacle:
                skipped.append(Skipped(_NO_PROXY, obstacle))
            else:
                faults += proxy_faults(proxy)
            yield Rig(subject, [*_of_the_process(subject, loaded), *faults], loaded.storage.backend, skipped)


def _of_the_process(subject: Subject, loaded: Settings) -> list[Fault]:
    orders = Orders.to_service(_orders_path(subject.folder), loaded.service.workers)
    power = PowerLost(subject, orders, loaded.journal.directory)
    return [*service_faults(subject), power, *disk_faults(orders, subject), *clock_faults(orders, subject)]


@asynccontextmanager
async def _process(
    folder: Path, settings: Mapping[str, object], config: Path | None, loaded: Settings
) -> AsyncIterator[ServiceProcess]:
    arguments = [f"--config={config}"] if config else []
    settings = {**settings, "service.workers": loaded.service.workers}
    program = ("-m", _UNDER_FAULTS, str(_orders_path(folder)), "serve")
    subject = ServiceProcess(folder, settings, program=program, arguments=arguments)
    try:
        try:
            await subject.start()
        except ServiceEnded as exc:
            raise CouldNotRun(f"the service can't be started: {exc}") from exc
        yield subject
    finally:
        await subject.close()


def _orders_path(folder: Path) -> Path:
    return folder / "orders"


def _through(proxy: Proxy) -> dict[str, object]:
    host, port = proxy.address
    return {"database.host": host, "database.port": port}


def _obstacle_to_proxy(settings: Settings) -> str | None:
    if len(settings.database.addresses) > 1:
        return "database.host names several servers, which the service follows by their addresses"
    if settings.database.tls is not TlsMode.DISABLED:
        return "database.tls hides what is sent; set it to disabled"
    return None

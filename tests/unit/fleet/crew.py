"""Several workers of one service in one process: real journals, real control sockets, one SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persistence_service.bootstrap import Services, build_registry, open_services
from persistence_service.errors import StorageUnavailable
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.journals import prepare_journals
from persistence_service.settings import Settings
from persistence_service.storage.backend import StorageBackend, Transaction
from persistence_service.storage.collections import SESSIONS, Collection
from persistence_service.storage.query import Condition, Group, Measurement
from persistence_service.storage.sqlite.backend import SqliteBackend
from persistence_service.testing.faulty_backend import FaultyBackend, When
from tests.unit.buffer.harness import until

WORKERS = 3
AWAY = StorageUnavailable("the database is away")


class Database(FaultyBackend):
    """A worker's way to the file.

    `lookups` are the times that it looked for sessions which others may have stored; transactions begin while `may_begin`,
    and `at_gate` wait for that.
    """

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.lookups = 0
        self.at_gate = 0
        self.may_begin = asyncio.Event()
        self.may_begin.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See `StorageBackend.transaction`."""
        self.at_gate += 1
        await self.may_begin.wait()
        self.at_gate -= 1
        async with super().transaction() as transaction:
            yield transaction

    async def aggregate(
        self,
        collection: Collection[Any],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        """See `StorageBackend.aggregate`."""
        self.lookups += collection is SESSIONS
        return await super().aggregate(collection, group_by=group_by, measure=measure, where=where)


@dataclass
class Worker:
    """One that runs, and its way to the database."""

    services: Services
    backend: Database
    running: AsyncExitStack

    def stop_storing(self) -> None:
        """Its writes fail from now on, and so what it accepts stays with it; it can read."""
        self.backend.fail_next(AWAY, times=10_000, when=When.BEGIN)

    def store_again(self) -> None:
        """They work again."""
        self.backend.come_back()


@dataclass
class Crew:
    """All workers, by slot; one that is away has no entry."""

    settings: Settings
    directory: Path
    workers: dict[int, Worker] = field(default_factory=dict)

    def __getitem__(self, slot: int) -> Services:
        return self.workers[slot].services

    @property
    def each(self) -> list[Services]:
        """Those that are there."""
        return [worker.services for worker in self.workers.values()]

    async def start(self, slot: int, prepare: Callable[[FaultyBackend], None] = lambda _: None) -> Services:
        """Start the worker of a slot, and wait until all is read that its journal has."""
        backend = Database(SqliteBackend(self.settings.sqlite.path, readers=1))
        prepare(backend)
        registry = build_registry(self.settings)
        registry.register("given", lambda: backend)
        registry.route_all("given", {})
        running = AsyncExitStack()
        services = await running.enter_async_context(
            open_services(
                self.settings,
                registry=registry,
                drain_s=lambda: 0.0,
                worker=WorkerIdentity(slot, WORKERS, self.directory),
            )
        )
        self.workers[slot] = Worker(services, backend, running)
        await until(lambda: not services.whole.is_incomplete)
        return services

    async def stop(self, slot: int) -> None:
        """End one; what it has not stored is in its journal."""
        worker = self.workers.pop(slot)
        worker.stop_storing()
        await worker.running.aclose()

    async def stop_storing(self) -> None:
        """What is accepted from now on stays with who accepted it."""
        for worker in self.workers.values():
            worker.stop_storing()

    async def store_again(self) -> None:
        """Everything works."""
        for worker in self.workers.values():
            worker.store_again()


@asynccontextmanager
async def crew_of(tmp_path: Path, control_directory: Path, **sections: dict[str, Any]) -> AsyncIterator[Crew]:
    """All workers, running; arguments are sections of the settings."""
    plain: dict[str, dict[str, Any]] = {
        "journal": {"directory": tmp_path / "journal", "min_free": 0},
        "sqlite": {"path": tmp_path / "test.db", "readers": 1},
        "buffer": {"flush_interval": 3600},
        "stats": {"refresh_interval": 1},
    }
    for name, values in sections.items():
        plain[name] = plain.get(name, {}) | values
    settings = Settings.model_validate(plain)
    prepare_journals(settings.journal, wall_us=0)
    crew = Crew(settings, control_directory)
    try:
        for slot in range(WORKERS):
            await crew.start(slot)
        yield crew
    finally:
        for slot in list(crew.workers):
            await crew.stop(slot)

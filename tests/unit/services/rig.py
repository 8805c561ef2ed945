"""The administrative services over a real buffer and journal, on a backend that fails on demand and a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persistence_service.bootstrap import Services, open_services
from persistence_service.buffer.letter_files import DIRECTORY_NAME, LetterFiles
from persistence_service.buffer.record_writer import write_records
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.models.tombstone import Tombstone
from persistence_service.services import adoption as adoption_module
from persistence_service.services import deletion as deletion_module
from persistence_service.services.adoption import OrphanAdoption
from persistence_service.services.cleanup import CleanupService
from persistence_service.services.dead_letters import DeadLetterService
from persistence_service.services.deletion import DeletionService
from persistence_service.settings import Settings
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, TOMBSTONES, Collection
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Query
from persistence_service.storage.registry import StorageRegistry
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.unit.buffer.harness import until


@dataclass
class Rig:
    """One run of the services.

    `deletion`, `cleanup`, `letters` and `adoption` have nothing in the background; those of `services`, on the same backend, have.
    """

    services: Services
    backend: FaultyBackend
    timing: ManualTiming
    deletion: DeletionService
    cleanup: CleanupService
    letters: DeadLetterService
    adoption: OrphanAdoption
    files: LetterFiles

    async def keep(self, *records: Any) -> None:  # noqa: ANN401  # requests of sessions or tasks
        """Have them accepted, and not flushed."""
        for record in records:
            if hasattr(record, "task_id"):
                await self.services.buffer.accept_tasks([record])
            else:
                await self.services.buffer.accept_sessions([record])

    async def store(self, *records: Any) -> None:  # noqa: ANN401  # as above
        """Have them accepted and written to the backend."""
        await self.keep(*records)
        await self.services.buffer.flush()

    async def write(self, records: Sequence[Session | Task]) -> None:
        """Put records of one kind into the backend directly, as another instance may."""
        collection: Collection[Any] = SESSIONS if isinstance(records[0], Session) else TASKS
        async with self.backend.inner.transaction() as transaction:
            await write_records(transaction, collection, records)

    async def stored(self) -> tuple[list[str], list[str]]:
        """Keys of the stored sessions and tasks, sorted."""
        everything = Query(limit=10_000)
        sessions = await self.backend.inner.query(SESSIONS, everything)
        tasks = await self.backend.inner.query(TASKS, everything)
        return sorted(s.session_id for s in sessions), sorted(t.task_id for t in tasks)

    async def tombstone(self, session_id: str) -> Tombstone | None:
        found = await self.backend.inner.read(TOMBSTONES, [session_id])
        return found[0] if found else None


@asynccontextmanager
async def open_rig(
    directory: Path, inner: StorageBackend | None = None, timing: ManualTiming | None = None
) -> AsyncIterator[Rig]:
    """A run on the journal in `directory`. A backend that is given must be open already, and stays open."""
    timing = timing or ManualTiming()
    backend = FaultyBackend(inner or MemoryBackend())
    if inner is not None:
        backend = _StaysOpen(inner)
    registry = StorageRegistry()
    registry.register("test", lambda: backend)
    registry.route_all("test", {})
    journal = directory / "journal"
    settings = Settings.model_validate({"journal": {"directory": journal, "min_free": 0}})
    async with open_services(settings, timing=timing, registry=registry) as services:
        deletion = DeletionService(registry=registry, buffer=services.whole, timing=timing)
        files = LetterFiles(journal / DIRECTORY_NAME)
        await until(lambda: not services.buffer.replaying)
        refresh_s = settings.stats.refresh_interval
        background = {deletion_module._LOOK_EVERY_S, adoption_module._ADOPT_EVERY_S, refresh_s}
        await until(lambda: background <= set(timing.seconds_to_deadlines), "the background's first look")
        letters = DeadLetterService(
            registry=registry, files=files, timing=timing, limits=services.limits, metrics=services.metrics
        )
        yield Rig(
            services,
            backend,
            timing,
            deletion,
            CleanupService(registry=registry, buffer=services.whole, deletion=deletion),
            letters,
            OrphanAdoption(registry=registry, letters=letters, timing=timing),
            files,
        )


class _StaysOpen(FaultyBackend):
    """A backend that outlives the run, as a database does."""

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

"""A backend that is away at first is opened when it comes back, and only once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from persistence_service.errors import StorageSetupError, StorageUnavailable
from persistence_service.storage.collections import SESSIONS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.opening import BackendOpener
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.faulty_backend import FaultyBackend

AWAY = StorageUnavailable("away")


class MigrationFails(MemoryBackend):
    """Its first migration ends in an error."""

    def __init__(self) -> None:
        super().__init__()
        self.migrations = 0

    async def migrate(self) -> None:
        self.migrations += 1
        if self.migrations == 1:
            raise AWAY


async def test_a_backend_that_is_away_is_opened_when_it_is_back() -> None:
    backend = FaultyBackend(MemoryBackend())
    opener = BackendOpener(backend, migrate=True)
    backend.go_away(AWAY)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await opener.ensure_open()
        assert opener.problem == str(AWAY), "which /health tells"
    backend.come_back()
    await opener.ensure_open()
    assert opener.is_open
    assert not opener.problem
    assert await backend.count(SESSIONS) == 0


async def test_opening_at_the_same_time_opens_once() -> None:
    opener = BackendOpener(MemoryBackend(), migrate=True)
    await asyncio.gather(*(opener.ensure_open() for _ in range(5)))
    assert opener.is_open


async def test_a_migration_that_failed_is_tried_again_without_opening_again() -> None:
    backend = MigrationFails()
    opener = BackendOpener(backend, migrate=True)
    with pytest.raises(StorageUnavailable):
        await opener.ensure_open()
    await opener.ensure_open()
    assert opener.is_open
    assert backend.migrations == 2


async def test_without_migration_the_schema_is_left_alone() -> None:
    backend = MigrationFails()
    await BackendOpener(backend, migrate=False).ensure_open()
    assert backend.migrations == 0


@pytest.fixture
async def backends(tmp_path: Path) -> AsyncIterator[tuple[SqliteBackend, SqliteBackend]]:
    """Two on one file, none of them open."""
    both = SqliteBackend(tmp_path / "file.db"), SqliteBackend(tmp_path / "file.db")
    yield both
    for backend in both:
        await backend.close()


async def test_without_migration_a_schema_that_is_not_up_to_date_is_refused_until_somebody_migrated_it(
    backends: tuple[SqliteBackend, SqliteBackend],
) -> None:
    backend, other = backends
    opener = BackendOpener(backend, migrate=False)
    for _ in range(2):
        with pytest.raises(StorageSetupError, match="persistence-service migrate"):
            await opener.ensure_open()
    assert not opener.is_open
    await BackendOpener(other, migrate=True).ensure_open()
    await opener.ensure_open()
    assert opener.is_open

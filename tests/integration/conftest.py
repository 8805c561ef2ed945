"""The whole service, but for HTTP, on every backend that ships."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from persistence_service.bootstrap import Services, build_registry, open_services
from persistence_service.settings import Settings
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.registry import StorageRegistry
from persistence_service.storage.sqlite.backend import SqliteBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend

Opener = Callable[..., AbstractAsyncContextManager[tuple[Services, FaultyBackend]]]


class SurvivingMemory(MemoryBackend):
    """A memory that outlives a run, as a database server does."""

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False


def registry_of(settings: Settings, backend: StorageBackend) -> StorageRegistry:
    """The configured registry, with everything in `backend`."""
    registry = build_registry(settings)
    registry.register("given", lambda: backend)
    registry.route_all("given", {})
    return registry


@pytest.fixture
def timing() -> ManualTiming:
    """The clock of the services that `opener` opens."""
    return ManualTiming()


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with everything below `tmp_path`; arguments are sections."""

    def make(**sections: dict[str, Any]) -> Settings:
        plain: dict[str, dict[str, Any]] = {
            "journal": {
                "directory": tmp_path / "journal",
                "min_free": 0,
                "max_bytes": 1 << 20,
                "segment_bytes": 1 << 16,
            },
            "sqlite": {"path": tmp_path / "test.db", "readers": 1},
            "service": {"shutdown_timeout": 5},
            "limits": {"max_body_bytes": 1 << 19, "max_text_bytes": 1 << 16},
        }
        for name, values in sections.items():
            plain[name] = plain.get(name, {}) | values
        return Settings.model_validate(plain)

    return make


@pytest.fixture(params=["memory", "sqlite"])
def opener(
    request: pytest.FixtureRequest, tmp_path: Path, timing: ManualTiming, configure: Callable[..., Settings]
) -> Opener:
    """Opens the services as often as a test likes, on the same journal and the same database."""
    memory = SurvivingMemory()

    @asynccontextmanager
    async def open_them(
        prepare: Callable[[FaultyBackend], None] | None = None, **sections: dict[str, Any]
    ) -> AsyncIterator[tuple[Services, FaultyBackend]]:
        settings = configure(**sections)
        inner = memory if request.param == "memory" else SqliteBackend(tmp_path / "test.db", readers=1)
        backend = FaultyBackend(inner)
        if prepare:
            prepare(backend)
        registry = registry_of(settings, backend)
        assert registry.backend_for(SESSIONS) is backend
        async with open_services(settings, timing=timing, registry=registry) as services:
            yield services, backend

    return open_them

"""The memory backend keeps the contract."""

from __future__ import annotations

import pytest

from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.conformance import BackendConformance, SizesConformance
from persistence_service.testing.conformance.base import NewBackend


class TestMemoryBackend(BackendConformance, SizesConformance):
    @pytest.fixture
    def new_backend(self) -> NewBackend:
        return MemoryBackend

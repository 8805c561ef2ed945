"""The SQLite backend keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.conformance import BackendConformance, SizesConformance
from persistence_service.testing.conformance.base import NewBackend


class TestSqliteBackend(BackendConformance, SizesConformance):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> NewBackend:
        return lambda: SqliteBackend(tmp_path / "data" / "test.db")

"""Any merge rule means the same in SQL as in Python, not only the two that sessions and tasks have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from persistence_service.storage.collections import Collection
from persistence_service.storage.query import Query
from persistence_service.storage.sql.tables import Schema
from persistence_service.storage.sqlite import SqliteBackend
from tests.merge_rules import COLLECTIONS, Entry, entries


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    engine = create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    Schema(COLLECTIONS).metadata.create_all(engine)
    engine.dispose()
    backend = SqliteBackend(tmp_path / "test.db", collections=COLLECTIONS)
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.parametrize("held", COLLECTIONS, ids=lambda held: held.name)
@given(updates=st.lists(entries, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_rule_means_the_same_in_sql_as_in_python(
    backend: SqliteBackend, held: Collection[Entry], updates: list[Entry]
) -> None:
    await backend.delete(held, ())
    expected: dict[str, Entry] = {}
    for update in updates:
        kept = expected.get(update.name)
        expected[update.name] = update if kept is None else held.merge(kept, update)
    await backend.write(held, updates)
    assert {entry.name: entry for entry in await backend.query(held, Query())} == expected

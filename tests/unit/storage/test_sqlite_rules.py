"""Any merge rule means the same in SQL as in Python, not only the two that sessions and tasks have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from persistence_service.models.merge import Measure, MergeRule, OrderTerm, Part
from persistence_service.models.status import Status
from persistence_service.storage.collections import Collection
from persistence_service.storage.query import Query
from persistence_service.storage.sql.tables import Schema
from persistence_service.storage.sqlite import SqliteBackend


class Entry(msgspec.Struct, frozen=True):
    name: str
    text: str | None
    number: int | None
    status: Status
    blob: bytes
    weight: float | None
    hits: int


def collection(name: str, *parts: Part, largest: tuple[str, ...] = ()) -> Collection[Entry]:
    rule: MergeRule[Entry] = MergeRule(parts, largest)
    return Collection(name, Entry, "name", rule, rule.compile())


STATUS = (OrderTerm("status", Measure.IS_COMPLETED), OrderTerm("status", Measure.RANK))
COLLECTIONS = (
    collection("newest_arrival", Part(("text", "number", "status", "blob", "weight", "hits"), ())),
    collection("first_arrival", Part((), (OrderTerm("name"),))),
    collection("null_first", Part(("text", "number", "blob"), (OrderTerm("number"), OrderTerm("blob")))),
    collection("null_between", Part(("text", "status"), (OrderTerm("blob"), OrderTerm("text"), *STATUS))),
    collection("null_last", Part(("weight", "status"), (*STATUS, OrderTerm("weight"))), largest=("hits",)),
    collection("largest_alone", largest=("hits",)),
    collection("mixed", Part(("text",), ()), Part(("number",), (OrderTerm("number"),)), largest=("hits",)),
)

entries = st.builds(
    Entry,
    name=st.sampled_from(("a", "A")),
    text=st.sampled_from((None, "", "x", "é")),
    number=st.sampled_from((None, -1, 0, 2)),
    status=st.sampled_from(Status),
    blob=st.sampled_from((b"", b"\0", b"\xff")),
    weight=st.sampled_from((None, 0.0, 0.5)),
    hits=st.integers(0, 2),
)


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

"""The merge law on real servers: memory, SQLite, MySQL and MariaDB end in the same rows, whatever meets in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from persistence_service.errors import TransactionConflict
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.schema import MysqlSchema
from persistence_service.storage.query import Query
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.conformance.base import empty, merged, rows_by_key
from persistence_service.testing.samples import NO_DIGEST, START, session_record, session_updates, task_updates
from tests.merge_rules import COLLECTIONS, Entry, entries
from tests.servers.server import Server

OTHER_DIGEST = bytes([255] * 16)

law = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
histories = st.one_of(
    st.tuples(st.just(SESSIONS), session_updates()),
    st.tuples(st.just(TASKS), task_updates()),
)
digests = st.sampled_from((NO_DIGEST, OTHER_DIGEST))


@pytest.fixture
async def all_backends(backend: MysqlBackend, tmp_path: Path) -> AsyncIterator[list[StorageBackend]]:
    others: list[StorageBackend] = [MemoryBackend(), SqliteBackend(tmp_path / "test.db")]
    for other in others:
        await other.open()
        await other.migrate()
    yield [*others, backend]
    for other in others:
        await other.close()


@given(history=histories, data=st.data())
@law
async def test_every_backend_ends_in_the_same_rows_though_digests_collide(
    all_backends: list[StorageBackend], history: tuple[Collection[Any], list[Any]], data: st.DataObject
) -> None:
    """Two contents of one digest never meet outside of here; then the first to arrive stays, everywhere."""
    collection, updates = history
    updates = [_with_digests(update, data) for update in updates]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(updates)), max_size=3)))
    rows = []
    for backend in all_backends:
        await _start(backend, collection)
        for start, end in zip([0, *cuts], [*cuts, len(updates)], strict=True):
            await backend.write(collection, updates[start:end])
        rows.append(await rows_by_key(backend, collection))
    assert rows == [merged(collection, updates)] * len(all_backends)


@given(history=histories, data=st.data())
@law
async def test_what_several_connections_write_at_once_ends_in_the_same_rows(
    backend: MysqlBackend, history: tuple[Collection[Any], list[Any]], data: st.DataObject
) -> None:
    collection, updates = history
    shuffled = data.draw(st.permutations([*updates, *data.draw(st.lists(st.sampled_from(updates), max_size=4))]))
    writers = [shuffled[place::4] for place in range(4)]
    await _start(backend, collection)
    await asyncio.gather(*(_write_at_last(backend, collection, records) for records in writers))
    stored = {key: _without_stamps(row) for key, row in (await rows_by_key(backend, collection)).items()}
    assert stored == {key: _without_stamps(row) for key, row in merged(collection, updates).items()}


@pytest.fixture
async def by_rules(database_server: Server, database: str) -> AsyncIterator[MysqlBackend]:
    """A backend of collections with merge rules of every shape."""
    for table in MysqlSchema(COLLECTIONS).metadata.sorted_tables:
        database_server.sql(f"DROP TABLE IF EXISTS {table.name}", database)
        database_server.sql(str(CreateTable(table).compile(dialect=mysql.dialect())), database)
    backend = MysqlBackend(database_server.options(database), COLLECTIONS)
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.parametrize("held", COLLECTIONS, ids=lambda held: held.name)
@given(updates=st.lists(entries, min_size=1, max_size=6))
@settings(law, max_examples=25)
async def test_a_rule_means_the_same_in_sql_as_in_python(
    by_rules: MysqlBackend, held: Collection[Entry], updates: list[Entry]
) -> None:
    await by_rules.delete(held, ())
    await by_rules.write(held, updates)
    assert {entry.name: entry for entry in await by_rules.query(held, Query())} == merged(held, updates)


def _with_digests(record: Any, data: st.DataObject) -> Any:  # noqa: ANN401  # a session or a task
    fields = [field for field in record.__struct_fields__ if field.endswith("digest") and getattr(record, field)]
    return replace(record, **{field: data.draw(digests) for field in fields})


def _without_stamps(row: Any) -> Any:  # noqa: ANN401  # a session or a task
    return replace(row, created_at=START, updated_at=START)


async def _start(backend: StorageBackend, collection: Collection[Any]) -> None:
    await empty(backend)
    if collection is TASKS:
        await backend.write(SESSIONS, [session_record()])


async def _write_at_last(backend: StorageBackend, collection: Collection[Any], records: Sequence[Any]) -> None:
    while True:
        try:
            await backend.write(collection, records)
        except TransactionConflict:
            continue
        else:
            return

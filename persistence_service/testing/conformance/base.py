"""What every part of the suite uses: the fixtures that a plugin's author supplies, and those built on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from persistence_service.storage.backend import BackendHealth, Reader, StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.storage.query import Query
from persistence_service.testing.samples import session_record

R = TypeVar("R", bound=msgspec.Struct)

NewBackend = Callable[[], StorageBackend]


class ConformanceBase:
    """Supply `new_backend`; the tests use `backend`, which is empty, open and migrated."""

    @pytest.fixture
    def new_backend(self) -> NewBackend:
        """Makes backends that are not open yet, all on one storage that is empty at the test's start.

        A backend that keeps its storage to itself may give each a storage of its own.
        """
        raise NotImplementedError("override the fixture `new_backend`")

    @pytest.fixture
    async def backend(self, new_backend: NewBackend) -> AsyncIterator[StorageBackend]:
        """An empty backend, open and migrated, closed at the test's end."""
        backend = new_backend()
        await backend.open()
        await backend.migrate()
        yield backend
        await backend.close()

    @pytest.fixture
    async def with_session(self, backend: StorageBackend) -> StorageBackend:
        """The backend with `session-1` in it."""
        await backend.write(SESSIONS, [session_record()])
        return backend


async def told_healthy(backend: StorageBackend) -> BackendHealth:
    """Its health once it is well: a backend that has no answer within a moment may tell of the last time it looked."""
    while not (health := await backend.health_check()).healthy:  # noqa: ASYNC110  # there is no event
        await asyncio.sleep(0)
    return health


async def all_rows(reader: Reader, collection: Collection[R], **query: Any) -> list[R]:  # noqa: ANN401  # fields of Query
    """The matching records, as many as a test ever has."""
    return await reader.query(collection, Query(**{"limit": 10_000, **query}))


async def rows_by_key(reader: Reader, collection: Collection[R]) -> dict[str, R]:
    """Every record of the collection, by its key."""
    return {collection.key_of(record): record for record in await all_rows(reader, collection)}


async def empty(backend: StorageBackend) -> None:
    """Delete everything, between two examples of one test."""
    await backend.delete(TASKS, ())
    await backend.delete(SESSIONS, ())


def merged(collection: Collection[R], records: Sequence[R]) -> dict[str, R]:
    """What the merge rule makes of `records`, in their order."""
    rows: dict[str, R] = {}
    for record in records:
        key = collection.key_of(record)
        rows[key] = collection.merge(rows[key], record) if key in rows else record
    return rows

"""A backend that fails on demand, for tests of what a service does then."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import msgspec

from persistence_service.errors import DataRejected, PersistenceError
from persistence_service.storage.backend import BackendHealth, StorageBackend, Transaction, WriteResult
from persistence_service.storage.collections import Collection
from persistence_service.storage.query import Condition, Equals, Group, Measurement, OneOf, Query

R = TypeVar("R", bound=msgspec.Struct)


class When(Enum):
    """At which point of a transaction a fault strikes."""

    BEGIN = "begin"
    WRITE = "write"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    """Everything is stored, and the caller gets the error all the same: the outcome that it can't know."""


@dataclass(frozen=True, slots=True)
class _Fault:
    error: Exception
    when: When


class FaultyBackend(StorageBackend):
    """Passes everything on to `inner`, but for the faults that a test asks for.

    `transactions` counts those that were begun, `commits` those that were stored; `written` has, for each write that came
    through, the collection's name and the records.
    """

    def __init__(self, inner: StorageBackend) -> None:
        self.inner = inner
        self.name = inner.name
        self.parallel_writes = inner.parallel_writes
        self.transactions = 0
        self.commits = 0
        self.reads = 0
        self.written: list[tuple[str, list[Any]]] = []
        self._faults: deque[_Fault] = deque()
        self._away: PersistenceError | None = None
        self._queries: PersistenceError | None = None
        self._rejects: Callable[[Any], bool] | None = None
        self._gate = asyncio.Event()
        self._gate.set()
        self._at_gate = asyncio.Event()
        self._holds_answer = False
        self._answer = asyncio.Event()

    # ---------------------------------------------------------------------------------------------------------- faults

    def fail_next(self, error: Exception, *, times: int = 1, when: When = When.WRITE) -> None:
        """The next `times` transactions that reach the point `when` fail there with `error`, each once."""
        self._faults.extend([_Fault(error, when)] * times)

    def go_away(self, error: PersistenceError) -> None:
        """Every call fails with `error` until `come_back`."""
        self._away = error

    def come_back(self) -> None:
        """Work again."""
        self._away = None
        self._queries = None
        self._faults.clear()

    def reject(self, predicate: Callable[[Any], bool] | None) -> None:
        """A write that holds a record for which `predicate` is true raises DataRejected; None ends it."""
        self._rejects = predicate

    def fail_queries(self, error: PersistenceError | None) -> None:
        """Queries raise `error`, but for those of records whose keys are given. None ends it."""
        self._queries = error

    def hold(self) -> None:
        """Writes wait at a gate, within their transaction, until `release`."""
        self._gate.clear()
        self._at_gate.clear()

    def hold_next_answer(self) -> None:
        """The caller of the next transaction that is stored hears of it after `release`; others go on meanwhile."""
        self._holds_answer = True
        self._answer.clear()
        self._at_gate.clear()

    @property
    def is_holding(self) -> bool:
        """Whether a write, or an answer, waits at the gate."""
        return self._at_gate.is_set()

    async def held(self) -> None:
        """Return when a write, or an answer, waits at the gate."""
        await self._at_gate.wait()

    def release(self) -> None:
        """Open the gate, and let the answer go."""
        self._gate.set()
        self._answer.set()
        self._holds_answer = False

    # ------------------------------------------------------------------------------------------------------- interface

    async def open(self) -> None:
        """See `StorageBackend.open`."""
        self._check_there()
        await self.inner.open()

    async def migrate(self) -> None:
        """See `StorageBackend.migrate`."""
        self._check_there()
        await self.inner.migrate()

    async def close(self) -> None:
        """See `StorageBackend.close`."""
        await self.inner.close()

    async def health_check(self) -> BackendHealth:
        """The inner backend's health, unhealthy while it is away."""
        health = await self.inner.health_check()
        if self._away is None:
            return health
        return BackendHealth(healthy=False, engine=health.engine, version=health.version, detail=str(self._away))

    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        """See `Reader.read`."""
        self._check_read()
        return await self.inner.read(collection, keys)

    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        """See `Reader.select`."""
        self._check_query(collection, query.where)
        return await self.inner.select(collection, fields, query)

    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        """See `Reader.count`."""
        self._check_query(collection, where)
        return await self.inner.count(collection, where, at_most=at_most)

    async def aggregate(
        self,
        collection: Collection[R],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        """See `Reader.aggregate`."""
        self._check_query(collection, where)
        return await self.inner.aggregate(collection, group_by=group_by, measure=measure, where=where)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See `StorageBackend.transaction`."""
        self._check_there()
        self.transactions += 1
        self._strike(When.BEGIN)
        async with self.inner.transaction() as transaction:
            yield _FaultyTransaction(self, transaction)
            self._check_there()
            self._strike(When.BEFORE_COMMIT)
        self.commits += 1
        if self._holds_answer:
            self._holds_answer = False
            self._at_gate.set()
            await self._answer.wait()
        self._strike(When.AFTER_COMMIT)

    async def before_write(self, records: Sequence[Any]) -> None:
        """What a write meets before it reaches the inner backend."""
        if not self._gate.is_set():
            self._at_gate.set()
            await self._gate.wait()
        self._check_there()
        self._strike(When.WRITE)
        if self._rejects is not None and any(self._rejects(record) for record in records):
            raise DataRejected("a record that the test has refused", number=-1)

    def _strike(self, when: When) -> None:
        if self._faults and self._faults[0].when is when:
            raise self._faults.popleft().error

    def _check_there(self) -> None:
        if self._away is not None:
            raise self._away

    def _check_query(self, collection: Collection[Any], where: Sequence[Condition]) -> None:
        self._check_read()
        by_key = any(isinstance(each, (Equals, OneOf)) and each.field == collection.key for each in where)
        if self._queries is not None and not by_key:
            raise self._queries

    def _check_read(self) -> None:
        self._check_there()
        self.reads += 1


class _FaultyTransaction(Transaction):
    def __init__(self, backend: FaultyBackend, inner: Transaction) -> None:
        self._backend = backend
        self._inner = inner

    async def lock(self, names: Iterable[str], *, exclusively: bool = False) -> None:
        await self._inner.lock(names, exclusively=exclusively)

    async def write(self, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        await self._backend.before_write(records)
        result = await self._inner.write(collection, records)
        self._backend.written.append((collection.name, list(records)))
        return result

    async def delete(self, collection: Collection[R], where: Sequence[Condition]) -> int:
        return await self._inner.delete(collection, where)

    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        return await self._inner.read(collection, keys)

    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        return await self._inner.select(collection, fields, query)

    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        return await self._inner.count(collection, where, at_most=at_most)

    async def aggregate(
        self,
        collection: Collection[R],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        return await self._inner.aggregate(collection, group_by=group_by, measure=measure, where=where)

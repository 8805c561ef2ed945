"""The interface of a storage backend: everything that the rest of the service asks of a database.

A backend holds collections of immutable records. Its writes merge: what is stored after `write` is
`collection.merge(stored, arriving)` for each record, so that repeating a write changes nothing and the order of writes does
not matter. A plugin implements the abstract methods and passes the suite in `persistence_service.testing.conformance`.

Errors: only those of `persistence_service.errors` leave a backend. `StorageUnavailable` means that the same call may succeed
later; after one from `commit` the outcome is unknown, and repeating the transaction is safe. `DataRejected` means that some
record of the call can never be stored; `StorageSetupError` that a person must act. `BackendClosed` before `open` and after
`close`. Cancelling a call is safe at any moment: a cancelled transaction stores everything or nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from persistence_service.storage.collections import Collection
from persistence_service.storage.query import Condition, Group, Measurement, Query

R = TypeVar("R", bound=msgspec.Struct)


class RejectionReason(StrEnum):
    """Why a record was not stored although the write succeeded."""

    UNKNOWN_PARENT = "unknown_parent"
    FIXED_FIELD_CHANGED = "fixed_field_changed"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One record that a write left out: its place in the write's sequence, and why."""

    index: int
    reason: RejectionReason


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a write: `stored` records are merged into the backend, the others are in `rejected`, by index."""

    stored: int
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """Whether the backend can be written, the engine and version that answered, and in words what is wrong if not."""

    healthy: bool
    engine: str
    version: str
    detail: str = ""


class Reader(ABC):
    """Reads. Within a transaction they see its own writes, elsewhere what is committed."""

    @abstractmethod
    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        """The records of those `keys` that exist, in no particular order; any number of keys, repeated ones count once."""

    @abstractmethod
    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        """One page, in the query's completed order: of each record the values of `fields`, derived ones among them.

        What a page was ordered by and what it gives are of one moment, so that a page can be continued behind its last row.

        Raises:
            QueryTimeout: it ran into the backend's time limit and was ended.
        """

    async def query(self, collection: Collection[R], query: Query) -> list[R]:
        """`select` of whole records."""
        return [collection.record(*row) for row in await self.select(collection, collection.fields, query)]

    @abstractmethod
    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        """How many records match; with `at_most` counting stops there, so the cost is bounded.

        Raises:
            QueryTimeout: it ran into the backend's time limit and was ended.
        """

    @abstractmethod
    async def aggregate(
        self,
        collection: Collection[R],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        """One group for each combination of `group_by` values that occurs, in no particular order.

        Raises:
            QueryTimeout: it ran into the backend's time limit and was ended.
        """


class Transaction(Reader):
    """Reads and writes that become visible together, or not at all.

    What a transaction has read by key (`read`) stays so until its end, a key that was not there included: who would change it
    waits, or one of the two ends with StorageUnavailable and may be repeated. Nothing more is promised about what its other
    reads have seen, so what is decided on is read by key first.
    """

    @abstractmethod
    async def lock(self, names: Iterable[str], *, exclusively: bool = False) -> None:
        """Hold `names`, of the caller's choosing, until the transaction's end: alone, or together with all who don't hold them so.

        Waits for those in whose way it is. What is read from then on, and was not before, is at least as new as what they left.
        Other names may be held by it too. Those who wait to hold one alone get their turn, however many hold it together.

        Raises:
            TransactionConflict: it waited too long, or they waited for each other.
        """

    @abstractmethod
    async def write(self, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """Merge `records`, in order; several of one key are allowed.

        A record whose parent is not stored, or that would change a fixed field, is left out and reported in the result.

        Raises:
            DataRejected: a record can never be stored; the transaction is at its end and stores nothing.
        """

    @abstractmethod
    async def delete(self, collection: Collection[R], where: Sequence[Condition]) -> int:
        """Delete the matching records and all their children; returns how many of `collection` went."""


class StorageBackend(Reader):
    """A place for collections. Calls may run at the same time, from one event loop.

    Life: constructed without I/O, `open`, use, `close`. `close` may be called twice; an opened backend can't be opened again.
    """

    name: str
    parallel_writes: int = 1
    """So many transactions at once, which write other records each, are quicker than one after the other."""

    @abstractmethod
    async def open(self) -> None:
        """Make ready for use, without changing the schema.

        Raises:
            StorageUnavailable: can't be reached now; `open` may be tried again.
            StorageSetupError: reached, and a person must act first.
            SchemaTooNew: a later version of the code has migrated it.
        """

    @abstractmethod
    async def migrate(self) -> None:
        """Bring the schema up to this code's version; does nothing when it is. Instances may do so at the same time.

        Raises:
            SchemaTooNew: a later version of the code was here.
        """

    @abstractmethod
    async def close(self) -> None:
        """Wait for running calls or end them, then let go of everything."""

    @abstractmethod
    async def health_check(self) -> BackendHealth:
        """Whether it can be written now, told within about a second; never raises but for cancellation.

        One that is busy with writes of its own is healthy.
        """

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction over the collections of this backend: commits at the block's end, rolls back on any exception."""

    async def write(self, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """`Transaction.write` in a transaction of its own."""
        async with self.transaction() as transaction:
            return await transaction.write(collection, records)

    async def delete(self, collection: Collection[R], where: Sequence[Condition]) -> int:
        """`Transaction.delete` in a transaction of its own."""
        async with self.transaction() as transaction:
            return await transaction.delete(collection, where)

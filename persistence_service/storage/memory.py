"""The memory backend: the plainest reading of the storage interface, and the reference that the others are tested against."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cmp_to_key
from math import isfinite
from typing import Any, TypeVar, assert_never

import msgspec
from msgspec.structs import astuple

from persistence_service.errors import BackendClosed, DataRejected, UnknownCollection
from persistence_service.storage.backend import (
    BackendHealth,
    Reader,
    Rejection,
    RejectionReason,
    StorageBackend,
    Transaction,
    WriteResult,
)
from persistence_service.storage.collections import ALL_COLLECTIONS, Collection
from persistence_service.storage.powers import CollectionSize, SizeReporter, Sizes
from persistence_service.storage.query import (
    Aggregate,
    AnyOf,
    Between,
    Condition,
    Contains,
    Equals,
    Group,
    HasChild,
    Measurement,
    OneOf,
    Query,
    Sort,
)

R = TypeVar("R", bound=msgspec.Struct)

Records = Mapping[str, Mapping[str, Any]]
"""Every record: collection → key → record. Never changed in place once it is committed."""

_INT64 = range(-(2**63), 2**63)


class MemoryBackend(StorageBackend, SizeReporter):
    """Keeps collections in dictionaries, and loses them when it is closed."""

    name = "memory"

    def __init__(self, collections: Sequence[Collection[Any]] = ALL_COLLECTIONS) -> None:
        self._collections = {collection.name: collection for collection in collections}
        self._records: Records = {collection.name: {} for collection in collections}
        self._writing = asyncio.Lock()
        self._open = False
        self._ended = False

    async def open(self) -> None:
        """See `StorageBackend.open`."""
        if self._open or self._ended:
            raise BackendClosed("the backend was opened before")
        self._open = True

    async def migrate(self) -> None:
        """Does nothing: there is no schema."""
        self._check_open()

    async def close(self) -> None:
        """Forget everything."""
        self._open = False
        self._ended = True
        self._records = {}

    async def health_check(self) -> BackendHealth:
        """Healthy as long as it is open."""
        return BackendHealth(self._open, "memory", "", "" if self._open else "the backend is not open")

    async def sizes(self) -> Sizes:
        """See `SizeReporter.sizes`: nothing is on a disk, and the rows are counted exactly."""
        records = self._committed().records
        return Sizes(0, collections={name: CollectionSize(rows=len(held)) for name, held in records.items()})

    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        """See `Reader.read`."""
        return await self._committed().read(collection, keys)

    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        """See `Reader.select`."""
        return await self._committed().select(collection, fields, query)

    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        """See `Reader.count`."""
        return await self._committed().count(collection, where, at_most=at_most)

    async def aggregate(
        self,
        collection: Collection[R],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        """See `Reader.aggregate`."""
        return await self._committed().aggregate(collection, group_by=group_by, measure=measure, where=where)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See `StorageBackend.transaction`: one at a time, on a copy that replaces the original at the end."""
        self._check_open()
        async with self._writing:
            self._check_open()
            transaction = _MemoryTransaction(self._records, self._collections)
            try:
                yield transaction
                transaction.check_usable()
                self._check_open()
                self._records = transaction.records
            finally:
                transaction.ended = True

    def _committed(self) -> _MemoryReader:
        self._check_open()
        return _MemoryReader(self._records, self._collections)

    def _check_open(self) -> None:
        if not self._open:
            raise BackendClosed("the backend is not open")


class _MemoryReader(Reader):
    def __init__(self, records: Records, collections: Mapping[str, Collection[Any]]) -> None:
        self.records = records
        self.collections = collections

    async def read(self, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        held = self._held(collection)
        return [held[key] for key in dict.fromkeys(keys) if key in held]

    async def select(self, collection: Collection[R], fields: Sequence[str], query: Query) -> list[tuple[Any, ...]]:
        order = query.total_order(collection.key)
        compare = _comparison(order)
        ordered = cmp_to_key(compare)
        matching = self._matching(collection, query.where)
        rows: list[tuple[tuple[Any, ...], R]] = [
            (self._values(collection, record, [term.field for term in order]), record) for record in matching
        ]
        if query.after is not None:
            after = tuple(query.after)
            rows = [row for row in rows if compare(row[0], after) > 0]
        rows.sort(key=lambda row: ordered(row[0]))
        page = rows[query.offset : query.offset + query.limit]
        return [self._values(collection, record, fields) for _, record in page]

    async def count(
        self, collection: Collection[R], where: Sequence[Condition] = (), *, at_most: int | None = None
    ) -> int:
        found = len(self._matching(collection, where))
        return found if at_most is None else min(found, at_most)

    async def aggregate(
        self,
        collection: Collection[R],
        *,
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition] = (),
    ) -> list[Group]:
        groups: dict[tuple[Any, ...], list[R]] = defaultdict(list)
        for record in self._matching(collection, where):
            groups[tuple(self._value(collection, record, field) for field in group_by)].append(record)
        return [
            Group(keys, tuple(self._figure(collection, records, measurement) for measurement in measure))
            for keys, records in groups.items()
        ]

    def _held(self, collection: Collection[R]) -> Mapping[str, R]:
        try:
            return self.records[collection.name]
        except KeyError:
            raise UnknownCollection(collection.name, list(self.records)) from None

    def _children(self, collection: Collection[R], key: str) -> Iterable[R]:
        parent = collection.parent
        assert parent is not None, f"{collection.name} has no parent"  # noqa: S101  # a mistake in a description of collections
        return (child for child in self._held(collection).values() if getattr(child, parent.field) == key)

    def _matching(self, collection: Collection[R], where: Sequence[Condition]) -> list[R]:
        held = self._held(collection).values()
        return [record for record in held if all(self._holds(collection, record, condition) for condition in where)]

    def _values(self, collection: Collection[R], record: R, fields: Sequence[str]) -> tuple[Any, ...]:
        return tuple(self._value(collection, record, field) for field in fields)

    def _value(self, collection: Collection[R], record: R, field: str) -> Any:  # noqa: ANN401  # whatever the field holds
        derived = collection.derived.get(field)
        if derived is None:
            return getattr(record, field)
        children = self._children(self.collections[derived.child_collection], collection.key_of(record))
        return max([getattr(record, derived.field), *(getattr(child, derived.child_field) for child in children)])

    def _holds(self, collection: Collection[R], record: R, condition: Condition) -> bool:
        match condition:
            case Equals(field, value):
                return bool(self._value(collection, record, field) == value)
            case OneOf(field, values):
                return self._value(collection, record, field) in values
            case Between(field, low, high):
                value = self._value(collection, record, field)
                return value is not None and (low is None or low <= value) and (high is None or value <= high)
            case Contains(field, text):
                value = self._value(collection, record, field)
                return value is not None and text in value
            case AnyOf(conditions):
                return any(self._holds(collection, record, each) for each in conditions)
            case HasChild(child, where):
                children = self._children(child, collection.key_of(record))
                return any(all(self._holds(child, one, each) for each in where) for one in children)
            case _:
                assert_never(condition)

    def _figure(self, collection: Collection[R], records: Sequence[R], measurement: Measurement) -> Any:  # noqa: ANN401  # number or time
        if not measurement.field:
            return len(records)
        values = [self._value(collection, record, measurement.field) for record in records]
        values = [value for value in values if value is not None]
        if measurement.aggregate is Aggregate.COUNT:
            return len(values)
        if not values:
            return None
        match measurement.aggregate:
            case Aggregate.NEWEST:
                return max(values)
            case Aggregate.OLDEST:
                return min(values)
            case Aggregate.MEAN:
                return sum(values) / len(values)
            case Aggregate.SUM:
                return sum(values)
            case _:
                assert_never(measurement.aggregate)


class _MemoryTransaction(_MemoryReader, Transaction):
    """Reads and writes a copy; the collections that it changes are copied whole."""

    def __init__(self, records: Records, collections: Mapping[str, Collection[Any]]) -> None:
        super().__init__(dict(records), collections)
        self.records: dict[str, Mapping[str, Any]]
        self.ended = False
        self._rejected: DataRejected | None = None

    def check_usable(self) -> None:
        """Raises what ended the transaction, if something did."""
        if self.ended:
            raise BackendClosed("the transaction is at its end")
        if self._rejected is not None:
            raise self._rejected

    async def lock(self, names: Iterable[str], *, exclusively: bool = False) -> None:  # noqa: ARG002  # the interface's
        """See `Transaction.lock`: there is one transaction at a time, which holds everything."""
        self.check_usable()

    async def write(self, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """See `Transaction.write`."""
        self.check_usable()
        held = dict(self._held(collection))
        rejected: list[Rejection] = []
        for index, record in enumerate(records):
            key = collection.key_of(record)
            kept = held.get(key)
            if kept is not None and collection.fixed_of(kept) != collection.fixed_of(record):
                rejected.append(Rejection(index, RejectionReason.FIXED_FIELD_CHANGED))
            elif not self._has_parent(collection, record):
                rejected.append(Rejection(index, RejectionReason.UNKNOWN_PARENT))
            else:
                self._check_storable(record)
                held[key] = record if kept is None else collection.merge(kept, record)
        self.records[collection.name] = held
        return WriteResult(len(records) - len(rejected), tuple(rejected))

    async def delete(self, collection: Collection[R], where: Sequence[Condition]) -> int:
        """See `Transaction.delete`."""
        self.check_usable()
        gone = {collection.key_of(record) for record in self._matching(collection, where)}
        self._remove(collection, gone)
        return len(gone)

    def _remove(self, collection: Collection[Any], keys: set[str]) -> None:
        for child in self.collections.values():
            parent = child.parent
            if parent is not None and parent.collection.name == collection.name:
                children = self.records[child.name].items()
                self._remove(child, {key for key, record in children if getattr(record, parent.field) in keys})
        kept = self.records[collection.name].items()
        self.records[collection.name] = {key: record for key, record in kept if key not in keys}

    def _has_parent(self, collection: Collection[R], record: R) -> bool:
        parent = collection.parent
        return parent is None or getattr(record, parent.field) in self._held(parent.collection)

    def _check_storable(self, record: msgspec.Struct) -> None:
        """What no database takes is refused here too, so that tests on this backend find it."""
        for field, value in zip(record.__struct_fields__, astuple(record), strict=True):
            match value:
                case str() if not value.isascii():
                    storable = not any("\ud800" <= character <= "\udfff" for character in value)
                case int():
                    storable = value in _INT64
                case float():
                    storable = isfinite(value)
                case _:
                    storable = True
            if not storable:
                self._rejected = DataRejected("a value that no database can hold", column=field)
                raise self._rejected


def _comparison(order: Sequence[Sort]) -> Callable[[tuple[Any, ...], tuple[Any, ...]], int]:
    """Compares the values of `order`'s terms: negative when the first come first."""

    def compare(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
        for mine, theirs, term in zip(one, other, order, strict=True):
            if mine != theirs:
                return -1 if (mine < theirs) is not term.descending else 1
        return 0

    return compare

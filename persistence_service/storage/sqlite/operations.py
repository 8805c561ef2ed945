"""What a backend does on one connection: reads, writes with their rejections, deletes with the children."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Text, UnaryExpression, func, literal, or_, select
from sqlalchemy.sql.operators import custom_op

from persistence_service.storage.backend import Rejection, WriteResult
from persistence_service.storage.collections import Collection
from persistence_service.storage.query import Condition, Group, Measurement, OneOf, Query, Value
from persistence_service.storage.sql.rejections import kept, rejections
from persistence_service.storage.sql.tables import Schema
from persistence_service.storage.sql.translate import Translator
from persistence_service.storage.sqlite.connection import SqliteConnection
from persistence_service.storage.sqlite.upsert import Upsert

R = TypeVar("R", bound=msgspec.Struct)

_MANY = 64  # values that are listed one by one; more go as one JSON array


class SqliteTranslator(Translator):
    """The translation for SQLite."""

    def _all(self, collection: Collection[Any], where: Sequence[Condition]) -> list[ColumnElement[bool]]:
        translated = super()._all(collection, where)
        by_key = [isinstance(condition, OneOf) and condition.field == collection.key for condition in where]
        if not any(by_key):
            return translated
        # SQLite takes a list of keys for longer than what shares another value, a whole session: behind a plus it can't.
        return [each if is_key else _unindexed(each) for each, is_key in zip(translated, by_key, strict=True)]

    def _one_of(self, column: ColumnElement[Any], values: Sequence[Value]) -> ColumnElement[bool]:
        texts = {value for value in values if isinstance(value, str) and "\0" not in value}
        if len(texts) <= _MANY:
            return super()._one_of(column, values)
        # The number of parameters is bounded, that of an array's elements is not. SQLite's JSON can't hold U+0000.
        array = func.json_each(literal(json.dumps(sorted(texts)), Text)).table_valued("value")
        listed = column.in_(select(array.c.value))
        others = [value for value in values if value not in texts]
        return or_(listed, super()._one_of(column, others)) if others else listed

    def _greatest(self, *columns: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.max(*columns, type_=columns[0].type)


def _unindexed(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition as one that no index is looked into for."""
    return UnaryExpression(condition.self_group(), operator=custom_op("+"), type_=condition.type)


class Operations:
    """The operations of a backend, each on a connection that it is given."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._translator = SqliteTranslator(schema)
        self._upserts = {name: Upsert(schema, collection) for name, collection in schema.collections.items()}

    def read(self, connection: SqliteConnection, collection: Collection[R], keys: Sequence[str]) -> list[R]:
        """See `Reader.read`."""
        return _records(collection, connection.rows(self._translator.by_keys(collection, keys)))

    def select(
        self, connection: SqliteConnection, collection: Collection[Any], fields: Sequence[str], query: Query
    ) -> list[tuple[Any, ...]]:
        """See `Reader.select`."""
        return [tuple(row) for row in connection.rows(self._translator.page(collection, fields, query))]

    def count(
        self, connection: SqliteConnection, collection: Collection[Any], where: Sequence[Condition], at_most: int | None
    ) -> int:
        """See `Reader.count`."""
        (row,) = connection.rows(self._translator.count(collection, where, at_most))
        count: int = row[0]
        return count

    def aggregate(
        self,
        connection: SqliteConnection,
        collection: Collection[Any],
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition],
    ) -> list[Group]:
        """See `Reader.aggregate`."""
        rows = connection.rows(self._translator.aggregate(collection, group_by, measure, where))
        return [Group(tuple(row[: len(group_by)]), tuple(row[len(group_by) :])) for row in rows]

    def write(self, connection: SqliteConnection, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """See `Transaction.write`."""
        connection.check_in_transaction()
        table = self._schema.table(collection)
        rejected = self._rejections(connection, collection, records)
        records = kept(records, rejected)
        self._upserts[table.name].write(connection.driver, records)
        return WriteResult(len(records), tuple(rejected))

    def delete(self, connection: SqliteConnection, collection: Collection[Any], where: Sequence[Condition]) -> int:
        """See `Transaction.delete`."""
        connection.check_in_transaction()
        children = self._schema.children(collection)
        if not children:
            return connection.changed(self._translator.delete(collection, where))
        # The conditions may be about the children, so the keys are read before any of these goes.
        chosen = [row[0] for row in connection.rows(self._translator.keys(collection, where))]
        for child in children:
            if child.parent is not None:
                self.delete(connection, child, [OneOf(child.parent.field, chosen)])
        return connection.changed(self._translator.delete(collection, [OneOf(collection.key, chosen)]))

    def _rejections(
        self, connection: SqliteConnection, collection: Collection[R], records: Sequence[R]
    ) -> list[Rejection]:
        parent = collection.parent
        if parent is None and not collection.fixed:
            return []
        parents: set[str] = set()
        if parent is not None:
            named = {getattr(record, parent.field) for record in records}
            parents = {row[0] for row in self._fields(connection, parent.collection, named, ())}
        fixed: dict[str, tuple[Any, ...]] = {}
        if collection.fixed:
            keys = {collection.key_of(record) for record in records}
            fixed = {row[0]: tuple(row[1:]) for row in self._fields(connection, collection, keys, collection.fixed)}
        return rejections(collection, records, parents, fixed)

    def _fields(
        self, connection: SqliteConnection, collection: Collection[Any], keys: Iterable[str], fields: Sequence[str]
    ) -> list[Any]:
        """Key and `fields` of those `keys` that exist."""
        return connection.rows(self._translator.by_keys(collection, list(keys), (collection.key, *fields)))


def _records(collection: Collection[R], rows: Iterable[Sequence[Any]]) -> list[R]:
    return [collection.record(*row) for row in rows]

"""What a backend asks, on a connection that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Select
from sqlalchemy.types import TypeDecorator

from persistence_service.storage.collections import Collection
from persistence_service.storage.mysql.connection import Answer, MysqlConnection
from persistence_service.storage.mysql.dialect import DIALECT, quoted
from persistence_service.storage.mysql.literals import escape_for, literal
from persistence_service.storage.mysql.translate import MysqlTranslator, sql_text
from persistence_service.storage.query import Aggregate, Condition, Group, Measurement, Query
from persistence_service.storage.sql.tables import Schema
from persistence_service.storage.sql.translate import is_storable

R = TypeVar("R", bound=msgspec.Struct)

Convert = Callable[[Any], Any]

_KEYS_AT_ONCE = 500


class Queries:
    """Reads, each on a connection that it is given. The server ends one after its limit, and we give up after `give_up_s`."""

    def __init__(self, schema: Schema, give_up_s: float) -> None:
        self._schema = schema
        self._give_up_s = give_up_s
        self._translator = MysqlTranslator(schema)

    async def read(
        self, connection: MysqlConnection, collection: Collection[R], keys: Sequence[str], lock: str = ""
    ) -> list[R]:
        """See `Reader.read`."""
        rows = await self.by_keys(connection, collection, keys, collection.fields, lock)
        return [collection.record(*row) for row in rows]

    async def by_keys(
        self,
        connection: MysqlConnection,
        collection: Collection[Any],
        keys: Iterable[str],
        fields: Sequence[str],
        lock: str = "",
    ) -> list[tuple[Any, ...]]:
        """The `fields` of those `keys` that exist; with `lock` ("FOR UPDATE"), absent keys stay absent too.

        Made without SQLAlchemy, since each write does it. By the primary key always: of a small table a server would rather
        read all rows, and lock them. In order, so that two of them don't wait for each other.
        """
        self._schema.table(collection)
        head = f"{', '.join(map(quoted, fields))} FROM {quoted(collection.name)} FORCE INDEX (PRIMARY)"
        wanted = sorted({key for key in keys if is_storable(key)})
        escape = escape_for(connection)
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(wanted), _KEYS_AT_ONCE):
            listed = ", ".join([literal(key, escape) for key in wanted[start : start + _KEYS_AT_ONCE]])
            statement = f"SELECT {head} WHERE {quoted(collection.key)} IN ({listed}) {lock}"
            answer = await (connection.run(statement) if lock else self._limited(connection, statement))
            rows += self._converted(answer, [self._conversion(collection, field) for field in fields])
        return rows

    async def select(
        self, connection: MysqlConnection, collection: Collection[Any], fields: Sequence[str], query: Query
    ) -> list[tuple[Any, ...]]:
        """See `Reader.select`."""
        answer = await self._ask(connection, self._translator.page(collection, fields, query))
        return self._converted(answer, [self._conversion(collection, field) for field in fields])

    async def count(
        self, connection: MysqlConnection, collection: Collection[Any], where: Sequence[Condition], at_most: int | None
    ) -> int:
        """See `Reader.count`."""
        answer = await self._ask(connection, self._translator.count(collection, where, at_most))
        count: int = answer.rows[0][0]
        return count

    async def aggregate(
        self,
        connection: MysqlConnection,
        collection: Collection[Any],
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition],
    ) -> list[Group]:
        """See `Reader.aggregate`."""
        answer = await self._ask(connection, self._translator.aggregate(collection, group_by, measure, where))
        conversions = [self._conversion(collection, field) for field in group_by]
        conversions += [self._conversion_of_figure(collection, measurement) for measurement in measure]
        rows = self._converted(answer, conversions)
        return [Group(tuple(row[: len(group_by)]), tuple(row[len(group_by) :])) for row in rows]

    async def _ask(self, connection: MysqlConnection, statement: Select[Any]) -> Answer:
        return await self._limited(connection, sql_text(statement, escape_for(connection)))

    async def _limited(self, connection: MysqlConnection, statement: str) -> Answer:
        limited = connection.facts.limited_select.format(statement=statement.removeprefix("SELECT "))
        return await connection.run(limited, limit_s=self._give_up_s)

    def _conversion(self, collection: Collection[Any], field: str) -> Convert | None:
        """From what the driver gives to the field's value, None if that is the same."""
        derived = collection.derived.get(field)
        column_type = self._schema.table(collection).c[field if derived is None else derived.field].type
        return column_type.result_processor(DIALECT, None) if isinstance(column_type, TypeDecorator) else None

    def _conversion_of_figure(self, collection: Collection[Any], measurement: Measurement) -> Convert | None:
        is_a_value = measurement.aggregate in {Aggregate.NEWEST, Aggregate.OLDEST}
        return self._conversion(collection, measurement.field) if is_a_value else None

    def _converted(self, answer: Answer, conversions: Sequence[Convert | None]) -> list[tuple[Any, ...]]:
        if not answer.rows or not any(conversions):
            return list(answer.rows)
        columns = zip(*answer.rows, strict=True)
        return list(
            zip(
                *(map(each, column) if each else column for each, column in zip(conversions, columns, strict=True)),
                strict=True,
            )
        )

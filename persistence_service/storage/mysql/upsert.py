"""The bulk upsert: records merged into a table by one statement of many rows.

`ON DUPLICATE KEY UPDATE` assigns from left to right, and an assignment sees what those before it have changed. So which record
wins is decided first, and noted in the column `arriving_wins` (see `schema.ARRIVING_WINS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import astuple
from pymysql.constants import ER
from sqlalchemy import ColumnElement, Table, and_, func, literal_column, null

from persistence_service.errors import DataRejected
from persistence_service.storage.collections import Collection
from persistence_service.storage.mysql.dialect import DIALECT, quoted
from persistence_service.storage.mysql.literals import Escape, column_literals
from persistence_service.storage.mysql.schema import ARRIVING_WINS
from persistence_service.storage.sql.merging import Columns, changes, changes_with_one_part, stamps, wins
from persistence_service.storage.sql.tables import Schema

R = TypeVar("R", bound=msgspec.Struct)

_ALIAS = "incoming"
_PACKET_MARGIN = 1024  # for what the protocol puts around a statement
_NOT_UNICODE = "a text that is not Unicode: it has half of a surrogate pair"


class Upsert(Generic[R]):
    """Statements that merge records into the table of a collection, in order; equal to `collection.merge` for each.

    With `row_alias` in the form that MySQL wants, else in the one that MariaDB knows.
    """

    def __init__(self, schema: Schema, collection: Collection[R]) -> None:
        table = schema.table(collection)
        self._fields = collection.fields
        self._literals = [column_literals(table.c[field].type) for field in self._fields]
        names = ", ".join(quoted(field) for field in self._fields)
        self._head = f"INSERT INTO {quoted(table.name)} ({names}) VALUES ("
        self._tails = {row_alias: _tail(collection, table, row_alias=row_alias) for row_alias in (True, False)}

    def statements(
        self, records: Sequence[R], escape: Escape, *, max_packet_bytes: int, row_alias: bool
    ) -> Iterator[bytes]:
        """One statement, or as many as it takes for none to be larger than a packet may be.

        Raises:
            DataRejected: a value can't be written, or a record is too large; the error names its column, or its size.
        """
        if not records:
            return
        columns = list(zip(*map(astuple, records), strict=True))
        rows = "), (".join(map(", ".join, zip(*self._written(columns, escape), strict=True)))
        statement = self._encoded(f"{self._head}{rows}{self._tails[row_alias]}", columns)
        if len(statement) + _PACKET_MARGIN <= max_packet_bytes:
            yield statement
        elif len(records) == 1:
            raise DataRejected(
                f"the record takes {len(statement)} bytes in a statement, which the server's max_allowed_packet of "
                f"{max_packet_bytes} bytes does not let through",
                number=ER.NET_PACKET_TOO_LARGE,  # as the server would say
            )
        else:
            half = len(records) // 2
            for part in (records[:half], records[half:]):
                yield from self.statements(part, escape, max_packet_bytes=max_packet_bytes, row_alias=row_alias)

    def _written(self, columns: Sequence[Sequence[Any]], escape: Escape) -> Iterator[Sequence[str]]:
        for field, values, literals in zip(self._fields, columns, self._literals, strict=True):
            try:
                yield literals(values, escape)
            except DataRejected as exc:
                raise DataRejected(str(exc), column=field) from exc

    def _encoded(self, statement: str, columns: Sequence[Sequence[Any]]) -> bytes:
        try:
            return statement.encode()
        except UnicodeEncodeError as exc:
            faulty = (field for field, values in zip(self._fields, columns, strict=True) if not _is_unicode(values))
            raise DataRejected(_NOT_UNICODE, column=next(faulty, None)) from exc


def _is_unicode(values: Sequence[Any]) -> bool:
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _tail(collection: Collection[Any], table: Table, *, row_alias: bool) -> str:
    """What stands behind the rows."""
    arriving: Columns = {
        field: literal_column(
            f"{_ALIAS}.{quoted(field)}" if row_alias else f"VALUES({quoted(field)})", table.c[field].type
        )
        for field in collection.fields
    }
    steps = ", ".join(f"{quoted(name)} = {_sql(value)}" for name, value in _assignments(collection, table, arriving))
    return f"){f' AS {_ALIAS}' if row_alias else ''} ON DUPLICATE KEY UPDATE {steps}"


def _assignments(
    collection: Collection[Any], table: Table, arriving: Columns
) -> Iterator[tuple[str, ColumnElement[Any]]]:
    """The assignments in their order; a row that ends as it was is not written at all."""
    rule = collection.rule
    given = {field for part in rule.parts for field in part.fields}
    asked = {term.field for part in rule.parts for term in part.order if term.field not in part.fields}
    assert not given & asked, f"a part of {collection.name} is ordered by another's fields"  # noqa: S101  # a mistake in a description of collections
    kept: Columns = {field: table.c[field] for field in collection.fields}
    stamp = {field: func.greatest(kept[field], arriving[field]) for field in stamps(kept)}

    def nullable(field: str) -> bool:
        return bool(table.c[field].nullable)

    def chosen(condition: ColumnElement[Any], field: str, value: ColumnElement[Any]) -> tuple[str, ColumnElement[Any]]:
        return field, func.if_(condition, value, kept[field])

    alone = changes_with_one_part(rule)
    if not alone:  # it takes every condition, so nothing may be changed before
        changed = changes(rule, arriving, kept, nullable)
        yield from (chosen(changed, field, value) for field, value in stamp.items())
    for part in rule.parts:
        condition = wins(part, arriving, kept, nullable)
        if collection.fixed:
            same = and_(*(arriving[field] == kept[field] for field in collection.fixed))
            condition = func.if_(same, condition, null())  # NULL, which the column refuses, ends the statement
        yield ARRIVING_WINS, condition
        yield from (chosen(table.c[ARRIVING_WINS], field, arriving[field]) for field in part.fields)
    if alone:
        yield from (chosen(table.c[ARRIVING_WINS], field, value) for field, value in stamp.items())
    yield from ((field, func.greatest(kept[field], arriving[field])) for field in rule.largest)
    if rule.parts:
        # Still NULL if it was: beside a trigger of BEFORE the server looks only at what is there in the end.
        yield ARRIVING_WINS, table.c[ARRIVING_WINS] * literal_column("0")
    elif not rule.largest:
        yield collection.key, kept[collection.key]


def _sql(expression: ColumnElement[Any]) -> str:
    return str(expression.compile(dialect=DIALECT)).replace("%%", "%")

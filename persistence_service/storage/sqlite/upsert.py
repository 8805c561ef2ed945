"""The bulk upsert: records merged into a table by few statements of many rows each.

A statement for many rows, rather than `executemany`, because sqlite3 gives up the interpreter's lock once a statement: a
thread that wants it back for every row waits for the event loop every time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, func
from sqlalchemy.dialects.sqlite import dialect, insert

from persistence_service.storage.collections import Collection
from persistence_service.storage.sql.merging import assignments, changes
from persistence_service.storage.sql.rows import RowWriter
from persistence_service.storage.sql.tables import Schema

R = TypeVar("R", bound=msgspec.Struct)

_SIZES = (256, 32, 4, 1)  # rows of a statement: few different ones, so that SQLite compiles each only once
_MAX_PARAMETERS = 32_766  # SQLite's default bound


class Upsert(Generic[R]):
    """Merges records into the table of a collection, in order; equal to `collection.merge` for each."""

    def __init__(self, schema: Schema, collection: Collection[R]) -> None:
        table = schema.table(collection)
        self._values = RowWriter(collection, table, dialect()).values
        self._head, self._row, self._tail = _statement(schema, collection)
        self._sizes = [size for size in _SIZES if size * len(table.columns) <= _MAX_PARAMETERS]
        self._statements = {size: self._sized(size) for size in self._sizes}

    def write(self, driver: sqlite3.Connection, records: Sequence[R]) -> None:
        """Merge `records`; part of them may be written when an error is raised.

        Raises:
            DataRejected: a value can't be written.
        """
        place = 0
        for size in self._sizes:
            while len(records) - place >= size:
                rows = map(self._values, records[place : place + size])
                driver.execute(self._statements[size], list(chain.from_iterable(rows)))
                place += size

    def _sized(self, size: int) -> str:
        return self._head + ", ".join([self._row] * size) + self._tail


def _statement(schema: Schema, collection: Collection[Any]) -> tuple[str, str, str]:
    """The upsert of one row: what is before the row, the row, what is behind it."""
    table = schema.table(collection)
    statement = insert(table)
    arriving, kept = dict(statement.excluded.items()), dict(table.c.items())

    def nullable(field: str) -> bool:
        return bool(table.c[field].nullable)

    values = assignments(collection.rule, arriving, kept, nullable, _greatest)
    if values:
        changed = changes(collection.rule, arriving, kept, nullable)
        statement = statement.on_conflict_do_update(index_elements=[collection.key], set_=values, where=changed)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=[collection.key])
    row = f"({', '.join('?' for _ in table.columns)})"
    head, _, tail = str(statement.compile(dialect=dialect())).partition(row)
    return head, row, tail


def _greatest(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.max(one, other)

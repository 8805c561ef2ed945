"""Queries in the SQL of MySQL and MariaDB, and the index that each is to be read by.

The optimisers of both servers guess how many rows they meet before a page is full, and guess wrong: for a session's tasks by
time they may walk all tasks. Each page names its index, where there is one that bounds what is read or has its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal, literal_column, or_, select
from sqlalchemy.schema import Column

from persistence_service.storage.collections import Collection
from persistence_service.storage.mysql.dialect import DIALECT, quoted
from persistence_service.storage.mysql.literals import Escape
from persistence_service.storage.mysql.literals import literal as written
from persistence_service.storage.query import Condition, Equals, OneOf, Query, Sort, Value
from persistence_service.storage.sql.tables import INDEXES
from persistence_service.storage.sql.translate import Translator, behind_by_terms

_LIST = 500  # values of one list: MariaDB makes a table of a list of 1,000
_CASES = 8  # values of a list about children that are looked for one by one


class MysqlTranslator(Translator):
    """The translation for MySQL and MariaDB."""

    def page(self, collection: Collection[Any], fields: Sequence[str], query: Query) -> Select[Any]:
        """The `fields` of one page, in order, read by the index that suits it."""
        return self._by_index(
            super().page(collection, fields, query),
            collection,
            indexes_for(collection, query.where, query.total_order(collection.key)),
        )

    def keys(self, collection: Collection[Any], where: Sequence[Condition]) -> Select[Any]:
        """The keys of the matching records."""
        return self._by_index(super().keys(collection, where), collection, indexes_for(collection, where))

    def deletion(self, collection: Collection[Any], where: Sequence[Condition], escape: Escape) -> str:
        """Deletes the matching records, without their children. In the form for several tables, which takes an index."""
        _, _, source = sql_text(self.keys(collection, where), escape).partition("\nFROM ")
        return f"DELETE {quoted(collection.name)} FROM {source}"

    def _by_index(self, statement: Select[Any], collection: Collection[Any], indexes: Sequence[str]) -> Select[Any]:
        if not indexes:
            return statement
        return statement.with_hint(self._schema.table(collection), f"FORCE INDEX ({', '.join(indexes)})")

    def _has_child(
        self, collection: Collection[Any], child: Collection[Any], where: Sequence[Condition]
    ) -> ColumnElement[bool]:
        # With a list the servers read all children and compare; with one value each is one look into the index.
        for place, condition in enumerate(where):
            if isinstance(condition, OneOf) and 0 < len(condition.values) <= _CASES:
                others = (*where[:place], *where[place + 1 :])
                cases = (Equals(condition.field, value) for value in condition.values)
                return or_(*(self._has_child(collection, child, (case, *others)) for case in cases))
        return super()._has_child(collection, child, where)

    def _newest_child(
        self, child: Collection[Any], column: ColumnElement[Any], *where: ColumnElement[bool]
    ) -> Select[Any]:
        # max() of a dependent subquery reads all that matches; the first of an order is one look into the index. MySQL sees that
        # the index has the order only if it begins with the parent, MariaDB only if it does not name the status.
        assert child.parent is not None, f"{child.name} has no parent"  # noqa: S101  # a mistake in a description of collections
        parent = self._schema.table(child).c[child.parent.field]
        return select(column).where(*where).order_by(parent.desc(), column.desc()).limit(literal_column("1"))

    def _one_of(self, column: ColumnElement[Any], values: Sequence[Value]) -> ColumnElement[bool]:
        if len(values) <= _LIST:
            return super()._one_of(column, values)
        distinct = list(dict.fromkeys(values))
        parts = (distinct[start : start + _LIST] for start in range(0, len(distinct), _LIST))
        return or_(*(super(MysqlTranslator, self)._one_of(column, part) for part in parts))

    def _behind(
        self, columns: Sequence[ColumnElement[Any]], order: Sequence[Sort], after: Sequence[Value]
    ) -> ColumnElement[bool]:
        if not all(isinstance(column, Column) for column in columns):
            return super()._behind(columns, order, after)  # no index has it, so it may as well be made once
        # A comparison of rows is no range to the servers' optimisers, this is; and the first term alone bounds it.
        values = [literal(value, type_=column.type) for column, value in zip(columns, after, strict=True)]
        behind = behind_by_terms(columns, order, values)
        if len(columns) < 2:  # with one term there is nothing more to say
            return behind
        first, value = columns[0], values[0]
        return and_(first <= value if order[0].descending else first >= value, behind)

    def _mean(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.avg(column + literal_column("0e0"))  # of whole numbers it would be a decimal of four digits


def indexes_for(collection: Collection[Any], where: Sequence[Condition], order: Sequence[Sort] = ()) -> tuple[str, ...]:
    """The indexes to choose from; none if the choice is the optimiser's.

    First what leads to the key; then an index that bounds what is read to the rows of an id (a session's, a batch's), one
    that has the order before those that have not; then one that has the order, to be walked until the page is full.
    """
    if any(isinstance(condition, Equals | OneOf) and condition.field == collection.key for condition in where):
        return ("PRIMARY",)
    fixed = {condition.field for condition in where if isinstance(condition, Equals)}
    listed = {condition.field for condition in where if isinstance(condition, OneOf)}
    indexes = {**INDEXES.get(collection.name, {}), "PRIMARY": (collection.key,)}
    bounding = tuple(name for name, fields in indexes.items() if _bounds(fields, fixed | listed))
    if not order:
        return bounding
    among = bounding or indexes
    prefixes = {name: _fixed_before_order(collection, indexes[name], fixed, order) for name in among}
    in_order = {name: prefix for name, prefix in prefixes.items() if prefix is not None}
    if not in_order:
        return bounding
    best = max(in_order, key=lambda name: in_order[name])
    # What leads closer may be better, though it has to be sorted: the few failed tasks of a large session. How many these
    # are, both servers look up in the index before they choose.
    closer = (name for name in bounding if _given(indexes[name], fixed | listed) > in_order[best])
    return (best, *(name for name in closer if name != best))


def _bounds(fields: Sequence[str], given: set[str]) -> bool:
    """Whether an index of `fields` leads to the rows of an id."""
    return any(field.endswith("_id") for field in fields[: _given(fields, given)])


def _given(fields: Sequence[str], given: set[str]) -> int:
    """How many fields of an index are given before the first that is not."""
    return next((place for place, field in enumerate(fields) if field not in given), len(fields))


def _fixed_before_order(
    collection: Collection[Any], fields: Sequence[str], fixed: set[str], order: Sequence[Sort]
) -> int | None:
    """How many fields of an index are fixed before it goes on in the `order`; None if it does not."""
    if len({term.descending for term in order}) > 1:
        return None
    prefix = _given(fields, fixed)
    following = [*fields[prefix:], *([collection.key] if collection.key not in fields else [])]
    wanted = [term.field for term in order if term.field not in fixed]
    return prefix if following[: len(wanted)] == wanted else None


def sql_text(statement: Any, escape: Escape) -> str:  # noqa: ANN401  # whatever SQLAlchemy can compile
    """The statement with its values in it."""
    state = statement.compile(dialect=DIALECT).construct_expanded_state()
    values = tuple(written(value, escape) for value in state.positional_parameters)
    sql: str = state.statement
    return sql % values

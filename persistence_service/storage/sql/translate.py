"""Queries as SQLAlchemy expressions. What differs between databases is in the methods that a subclass may override."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from sqlalchemy import (
    ColumnElement,
    Delete,
    Select,
    and_,
    delete,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from persistence_service.models.status import Status
from persistence_service.storage.collections import Collection, NewestOf
from persistence_service.storage.query import (
    Aggregate,
    AnyOf,
    Between,
    Condition,
    Contains,
    Equals,
    HasChild,
    Measurement,
    OneOf,
    Query,
    Sort,
    Value,
)
from persistence_service.storage.sql.tables import Schema


class Translator:
    """Translates conditions, queries and aggregates over the tables of `schema`."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def page(self, collection: Collection[Any], fields: Sequence[str], query: Query) -> Select[Any]:
        """The `fields` of one page, in order."""
        order = query.total_order(collection.key)
        given = {field: self._column(collection, field).label(field) for field in fields}
        statement = select(*(given[field] for field in fields)).where(*self._all(collection, query.where))
        columns = [self._column(collection, term.field) for term in order]
        if query.after is not None:
            statement = statement.where(self._behind(*_open_terms(query.where, columns, order, query.after)))
        # By the name of what is given, where it is: a derived value is then made once a row.
        by = [given.get(term.field, column) for column, term in zip(columns, order, strict=True)]
        statement = statement.order_by(
            *(column.desc() if term.descending else column for column, term in zip(by, order, strict=True))
        )
        return statement.limit(query.limit).offset(query.offset or None)

    def by_keys(self, collection: Collection[Any], keys: Sequence[str], fields: Sequence[str] = ()) -> Select[Any]:
        """The records of those `keys` that exist, or only the `fields` of them."""
        table = self._schema.table(collection)
        statement: Select[Any] = select(*(table.c[field] for field in fields)) if fields else select(table)
        return statement.where(self._one_of(table.c[collection.key], keys))

    def keys(self, collection: Collection[Any], where: Sequence[Condition]) -> Select[Any]:
        """The keys of the matching records."""
        return select(self._schema.table(collection).c[collection.key]).where(*self._all(collection, where))

    def count(self, collection: Collection[Any], where: Sequence[Condition], at_most: int | None) -> Select[Any]:
        """How many records match."""
        table = self._schema.table(collection)
        conditions = self._all(collection, where)
        if at_most is None:
            return select(func.count()).select_from(table).where(*conditions)
        some = select(literal(1)).select_from(table).where(*conditions).limit(at_most).subquery()
        return select(func.count()).select_from(some)

    def aggregate(
        self,
        collection: Collection[Any],
        group_by: Sequence[str],
        measure: Sequence[Measurement],
        where: Sequence[Condition],
    ) -> Select[Any]:
        """A row for each group: its keys, then its figures."""
        keys = [self._column(collection, field) for field in group_by]
        figures = [self._figure(collection, measurement) for measurement in measure]
        statement = select(*keys, *figures).select_from(self._schema.table(collection))
        # Without keys SQL makes one group even of nothing.
        return statement.where(*self._all(collection, where)).group_by(*keys).having(func.count() > 0)

    def delete(self, collection: Collection[Any], where: Sequence[Condition]) -> Delete:
        """Deletes the matching records, without their children."""
        return delete(self._schema.table(collection)).where(*self._all(collection, where))

    def _all(self, collection: Collection[Any], where: Sequence[Condition]) -> list[ColumnElement[bool]]:
        return [self._condition(collection, condition) for condition in where]

    def _condition(self, collection: Collection[Any], condition: Condition) -> ColumnElement[bool]:
        match condition:
            case Equals(field, value):
                return self._column(collection, field) == value if is_storable(value) else false()
            case OneOf(field, values):
                return self._one_of(self._column(collection, field), values)
            case Between(field, low, high):
                column = self._column(collection, field)
                bounds = [column >= low if low is not None else None, column <= high if high is not None else None]
                return and_(column.is_not(None), *(bound for bound in bounds if bound is not None))
            case Contains(field, text):
                return self._contains(self._column(collection, field), text) if is_storable(text) else false()
            case AnyOf(conditions):
                return or_(false(), *self._all(collection, conditions))
            case HasChild(child, where):
                return self._has_child(collection, child, where)
            case _:
                assert_never(condition)

    def _column(self, collection: Collection[Any], field: str) -> ColumnElement[Any]:
        derived = collection.derived.get(field)
        return self._schema.table(collection).c[field] if derived is None else self._newest(collection, derived)

    def _newest(self, collection: Collection[Any], newest: NewestOf) -> ColumnElement[Any]:
        own = self._schema.table(collection).c[newest.field]
        child = self._schema.collections[newest.child_collection]
        column = self._schema.table(child).c[newest.child_field]
        # The index of children leads with parent and status: by status each newest is one look into it, however many there are.
        states = (
            [self._schema.table(child).c.status == status for status in Status]
            if "status" in child.record.__struct_fields__
            else [true()]
        )
        of_it = self._is_child(child, collection)
        newest_of_children = [
            self._newest_child(child, column, of_it, state).correlate(own.table).scalar_subquery() for state in states
        ]
        return self._greatest(own, *(func.coalesce(each, own, type_=own.type) for each in newest_of_children))

    def _has_child(
        self, collection: Collection[Any], child: Collection[Any], where: Sequence[Condition]
    ) -> ColumnElement[bool]:
        children: Select[Any] = select(literal_column("1")).select_from(self._schema.table(child))
        return children.where(self._is_child(child, collection), *self._all(child, where)).exists()

    def _is_child(self, child: Collection[Any], parent: Collection[Any]) -> ColumnElement[bool]:
        assert child.parent is not None, f"{child.name} has no parent"  # noqa: S101  # a mistake in a description of collections
        return self._schema.table(child).c[child.parent.field] == self._schema.table(parent).c[parent.key]

    def _figure(self, collection: Collection[Any], measurement: Measurement) -> ColumnElement[Any]:
        if not measurement.field:
            return func.count()
        column = self._column(collection, measurement.field)
        match measurement.aggregate:
            case Aggregate.COUNT:
                return func.count(column)
            case Aggregate.NEWEST:
                return func.max(column)
            case Aggregate.OLDEST:
                return func.min(column)
            case Aggregate.MEAN:
                return self._mean(column)
            case Aggregate.SUM:
                return func.sum(column)
            case _:
                assert_never(measurement.aggregate)

    # ------------------------------------------------------------------------------------- what databases do differently

    def _one_of(self, column: ColumnElement[Any], values: Sequence[Value]) -> ColumnElement[bool]:
        listed = column.in_([value for value in values if value is not None and is_storable(value)])
        return or_(listed, column.is_(None)) if None in values else listed

    def _behind(
        self, columns: Sequence[ColumnElement[Any]], order: Sequence[Sort], after: Sequence[Value]
    ) -> ColumnElement[bool]:
        """Whether a row comes behind the one whose values of the order are `after`."""
        values = [literal(value, type_=column.type) for column, value in zip(columns, after, strict=True)]
        directions = {term.descending for term in order}
        if len(directions) != 1:
            return behind_by_terms(columns, order, values)
        # One comparison of rows is one range of an index.
        row, bound = tuple_(*columns), tuple_(*values)
        return row < bound if directions == {True} else row > bound

    def _newest_child(
        self,
        child: Collection[Any],  # noqa: ARG002  # for subclasses
        column: ColumnElement[Any],
        *where: ColumnElement[bool],
    ) -> Select[Any]:
        return select(func.max(column)).where(*where)

    def _mean(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.avg(column)

    def _contains(self, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
        return func.instr(column, text) > 0

    def _greatest(self, *columns: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.greatest(*columns, type_=columns[0].type)


def is_storable(value: Value) -> bool:
    """Whether a row can hold `value`: no text of a database has half of a surrogate pair, so nothing equals one."""
    if isinstance(value, str) and not value.isascii():
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return True


def _open_terms(
    where: Sequence[Condition], columns: Sequence[ColumnElement[Any]], order: Sequence[Sort], after: Sequence[Value]
) -> tuple[list[ColumnElement[Any]], list[Sort], list[Value]]:
    """Those terms that a condition has not fixed to the bound's own value.

    With a fixed one in the comparison of rows, SQLite takes a range that ends with the index, and sorts it.
    """
    fixed = {condition.field: condition.value for condition in where if isinstance(condition, Equals)}
    terms = [
        (column, term, value)
        for column, term, value in zip(columns, order, after, strict=True)
        if term.field not in fixed or fixed[term.field] != value
    ]
    return [column for column, _, _ in terms], [term for _, term, _ in terms], [value for _, _, value in terms]


def behind_by_terms(
    columns: Sequence[ColumnElement[Any]], order: Sequence[Sort], values: Sequence[ColumnElement[Any]]
) -> ColumnElement[bool]:
    """Whether a row comes behind `values`, told by comparisons of single columns."""
    behind: ColumnElement[bool] = false()
    for column, value, term in reversed(list(zip(columns, values, order, strict=True))):
        behind = or_(column < value if term.descending else column > value, and_(column == value, behind))
    return behind

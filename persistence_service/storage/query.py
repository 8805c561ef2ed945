"""What can be asked of a backend: conditions, orders, pages and groups, as plain values.

A condition names fields of a collection's record, or one of its derived fields. A backend must answer every combination,
fast or slow; which ones are fast is a matter of its indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persistence_service.storage.collections import Collection

Value = str | int | float | bytes | datetime | None


@dataclass(frozen=True, slots=True)
class Equals:
    """The field has exactly this value; texts are compared code point by code point."""

    field: str
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field has one of these values; none of them matches nothing."""

    field: str
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class Between:
    """`low` ≤ field ≤ `high`; a bound of None is open."""

    field: str
    low: Value = None
    high: Value = None


@dataclass(frozen=True, slots=True)
class Contains:
    """The text field contains exactly this text: no wild cards, case counts."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these conditions holds."""

    conditions: Sequence[Condition]


@dataclass(frozen=True, slots=True)
class HasChild:
    """The record has at least one child in `collection` (its `parent` names this collection) for which all of `where` holds."""

    collection: Collection[Any]
    where: Sequence[Condition]


Condition = Equals | OneOf | Between | Contains | AnyOf | HasChild


@dataclass(frozen=True, slots=True)
class Sort:
    """One term of an order. Fields that are sorted by are never None."""

    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A page of the records for which all of `where` holds.

    `order` is completed by the collection's key, in the direction of its last term, so that it is total. `after` continues
    behind a record: its values of the completed order (keyset pagination). `offset` skips records and costs as many.
    """

    where: Sequence[Condition] = ()
    order: Sequence[Sort] = ()
    after: Sequence[Value] | None = None
    offset: int = 0
    limit: int = 100

    def total_order(self, key: str) -> tuple[Sort, ...]:
        """`order` completed by `key`."""
        order = tuple(self.order)
        if any(term.field == key for term in order):
            return order
        return (*order, Sort(key, order[-1].descending if order else False))


class Aggregate(Enum):
    """How a group's values become one."""

    COUNT = "count"
    NEWEST = "newest"
    OLDEST = "oldest"
    MEAN = "mean"
    SUM = "sum"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure of a group; None where the group has no value. `COUNT` without a field counts records, with one its values."""

    aggregate: Aggregate
    field: str = ""


COUNT = Measurement(Aggregate.COUNT)


@dataclass(frozen=True, slots=True)
class Group:
    """One group: the values of the fields grouped by, and its figures, both in the order asked for."""

    keys: tuple[Any, ...]
    figures: tuple[Any, ...] = field(default=())

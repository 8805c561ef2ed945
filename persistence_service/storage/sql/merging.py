"""The merge rule as SQL: `models.merge` in the words of an upsert. The two must agree exactly, and a test compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, literal_column, or_, true, tuple_

from persistence_service.models.merge import Measure, MergeRule, Part
from persistence_service.models.status import Status

Columns = Mapping[str, ColumnElement[Any]]
Nullable = Callable[[str], bool]
Greatest = Callable[[ColumnElement[Any], ColumnElement[Any]], ColumnElement[Any]]


def wins(part: Part, arriving: Columns, kept: Columns, nullable: Nullable) -> ColumnElement[bool]:
    """Whether the arriving record gives the fields of `part`: its order is higher, compared from left to right. Never NULL."""
    if not part.order:
        return true()
    if not any(nullable(term.field) for term in part.order):
        return tuple_(*_measures(arriving, part)) > tuple_(*_measures(kept, part))
    higher: ColumnElement[bool] | None = None
    for mine, theirs in reversed(list(zip(_measures(arriving, part), _measures(kept, part), strict=True))):
        # A comparison with NULL is NULL; None is below everything.
        above = or_(mine > theirs, and_(mine.is_not(None), theirs.is_(None)))
        higher = above if higher is None else or_(above, and_(mine.is_not_distinct_from(theirs), higher))
    return func.coalesce(higher, false())


def changes(rule: MergeRule[Any], arriving: Columns, kept: Columns, nullable: Nullable) -> ColumnElement[bool]:
    """Whether the arriving record changes the row at all; otherwise the row that is stored stays."""
    won = [wins(part, arriving, kept, nullable) for part in rule.parts]
    return or_(false(), *won, *(arriving[field] > kept[field] for field in rule.largest))


def changes_with_one_part(rule: MergeRule[Any]) -> bool:
    """Whether one part is all that can change: when a row changes, that part does, and no field need ask for itself."""
    return len(rule.parts) == 1 and not rule.largest


def assignments(
    rule: MergeRule[Any], arriving: Columns, kept: Columns, nullable: Nullable, greatest: Greatest
) -> dict[str, ColumnElement[Any]]:
    """What an upsert assigns to each field of a stored row, for a row that `changes`.

    The assignments read the row as it was before any of them. Without any the row that is stored stays.
    """
    values: dict[str, ColumnElement[Any]] = {}
    alone = changes_with_one_part(rule)
    for part in rule.parts:
        condition = wins(part, arriving, kept, nullable)
        for field in part.fields:
            values[field] = arriving[field] if alone else case((condition, arriving[field]), else_=kept[field])
    values |= {field: greatest(kept[field], arriving[field]) for field in (*rule.largest, *stamps(kept))}
    return values


def stamps(kept: Columns) -> tuple[str, ...]:
    """The fields that go forward whenever a row changes."""
    return ("updated_at",) if "updated_at" in kept else ()


def _measures(row: Columns, part: Part) -> list[ColumnElement[Any]]:
    return [_measured(row[term.field], term.measure) for term in part.order]


def _measured(column: ColumnElement[Any], measure: Measure) -> ColumnElement[Any]:
    match measure:
        case Measure.VALUE:
            return column
        case Measure.IS_COMPLETED:
            return column == _literal(Status.COMPLETED)
        case Measure.RANK:
            return case(*((column == _literal(status), literal_column(str(status.rank))) for status in Status))


def _literal(status: Status) -> ColumnElement[str]:
    """The word itself: an upsert's parameters are its rows alone."""
    return literal_column(f"'{status.value}'")

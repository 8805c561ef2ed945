"""The merge rule as SQL: `models.merge` in the words of an upsert. The two must agree exactly, and a test compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, literal_column, or_, true, tuple_

from persistence_service.models.merge import Measure, MergeRule, Part
from persistence_service.models.status import Status

Columns = Mapping[str, ColumnElement[Any]]


def wins(part: Part, arriving: Columns, kept: Columns, nullable: Callable[[str], bool]) -> ColumnElement[bool]:
    """Whether the arriving record gives the fields of `part`: its order is higher, compared from left to right."""
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


def assignments(
    rule: MergeRule[Any],
    arriving: Columns,
    kept: Columns,
    nullable: Callable[[str], bool],
    greatest: Callable[[ColumnElement[Any], ColumnElement[Any]], ColumnElement[Any]],
) -> tuple[dict[str, ColumnElement[Any]], ColumnElement[bool]]:
    """What an upsert assigns to each field of a stored row, and whether it changes the row at all.

    The assignments read the row as it was before any of them. Without any the row that is stored stays.
    """
    values: dict[str, ColumnElement[Any]] = {}
    changes: list[ColumnElement[bool]] = []
    # When a row changes and one part is all that can change, that part does: no need to ask for each field.
    alone = len(rule.parts) == 1 and not rule.largest
    for part in rule.parts:
        condition = wins(part, arriving, kept, nullable)
        changes.append(condition)
        for field in part.fields:
            values[field] = arriving[field] if alone else case((condition, arriving[field]), else_=kept[field])
    for field in rule.largest:
        changes.append(arriving[field] > kept[field])
        values[field] = greatest(kept[field], arriving[field])
    if "updated_at" in kept:
        values["updated_at"] = greatest(kept["updated_at"], arriving["updated_at"])
    return values, or_(false(), *changes)


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

"""Column types: how a record's values are written in a database.

Each type converts by one function a direction, which SQLAlchemy uses for queries and the bulk writes use directly.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from sqlalchemy import BLOB, REAL, Dialect, Integer, LargeBinary, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from persistence_service.errors import DataRejected
from persistence_service.models.status import Status

Convert = Callable[[Any], Any]

_STATUSES: dict[str, Status] = {status.value: status for status in Status}


class UtcTime(TypeDecorator[datetime]):
    """A time as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC: of fixed width, so that texts sort as times do."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """From the time to its text."""
        return _time_text

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """From the text to the time."""
        return _time


class StatusText(TypeDecorator[Status]):
    """A status as its word."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """From the status to its word."""
        return _plain_text

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """From the word to the status."""
        return _STATUSES.__getitem__


class FiniteFloat(TypeDecorator[float]):
    """A number, refused if it is not finite: a database would store NaN as NULL, or not at all."""

    impl = REAL
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """The number itself."""
        return _finite

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """The number itself."""


_BY_PYTHON_TYPE: dict[type, TypeEngine[Any]] = {
    str: Text(),
    int: Integer(),
    float: FiniteFloat(),
    bytes: LargeBinary().with_variant(BLOB(), "sqlite"),
    datetime: UtcTime(),
    Status: StatusText(),
}


def column_type(python_type: type) -> TypeEngine[Any]:
    """The column type for the values of a record's field."""
    return _BY_PYTHON_TYPE[python_type]


def _time_text(value: datetime | None) -> str | None:
    if value is None:
        return None
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return value.isoformat(" ", "microseconds")[:26]


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value + "+00:00")


def _plain_text(value: str | None) -> str | None:
    return None if value is None else str(value)


def _finite(value: float | None) -> float | None:
    if value is not None and not isfinite(value):
        raise DataRejected("a number that is not finite")
    return value

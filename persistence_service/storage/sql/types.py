"""Column types: how a record's values are written in a database.

Each type converts by one function a direction, which SQLAlchemy uses for queries and the bulk writes use directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from sqlalchemy import BLOB, REAL, Dialect, Integer, LargeBinary, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from persistence_service.errors import DataRejected
from persistence_service.models.limits import MAX_NAME, MAX_PATH, MAX_PROVIDER, MAX_SESSION_ID, MAX_TASK_ID
from persistence_service.models.status import Status

Convert = Callable[[Any], Any]

_STATUSES: dict[str, Status] = {status.value: status for status in Status}

# In MySQL a column that is a key, or in an index, needs a bound; the others are as wide as the contract says.
_KEY_WIDTH = 255
_WIDTHS: Mapping[str, int] = {
    "session_id": MAX_SESSION_ID,
    "task_id": MAX_TASK_ID,
    "batch_id": MAX_TASK_ID,
    "letter_id": 64,
    "part_id": 96,
    "filename": MAX_NAME,
    "sheet_name": MAX_NAME,
    "column_name": MAX_NAME,
    "file_path": MAX_PATH,
    "llm_provider": MAX_PROVIDER,
    "collection": 64,
    "record_key": 255,
    "reason": 64,
    "error_column": 255,
}
_LARGE_NUMBERS = {"duration_ms", "record_bytes", "error_number"}
_DIGEST_WIDTH = 32
_STATUS_WIDTH = 16


class UtcTime(TypeDecorator[datetime]):
    """A time as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC: of fixed width, so that texts sort as times do.

    MySQL keeps it as DATETIME(6), and drivers that leave it alone give that text.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the column."""
        return dialect.type_descriptor(mysql.DATETIME(fsp=6) if dialect.name == "mysql" else self.impl_instance)

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """From the time to its text."""
        return time_text

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """From the text to the time."""
        return _time


class StatusText(TypeDecorator[Status]):
    """A status as its word."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the column."""
        return dialect.type_descriptor(mysql.VARCHAR(_STATUS_WIDTH) if dialect.name == "mysql" else self.impl_instance)

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

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the column."""
        return dialect.type_descriptor(mysql.DOUBLE() if dialect.name == "mysql" else self.impl_instance)

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002  # the signature is SQLAlchemy's
        """The number itself."""
        return _finite

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """The number itself."""


_BY_PYTHON_TYPE: dict[type, TypeEngine[Any]] = {
    float: FiniteFloat(),
    datetime: UtcTime(),
    Status: StatusText(),
}


def column_type(python_type: type, field: str, *, is_key: bool = False) -> TypeEngine[Any]:
    """The column type for the values of a record's `field`; `is_key` if rows are found by it alone."""
    if python_type is str:
        width = _WIDTHS.get(field, _KEY_WIDTH if is_key else None)
        return Text().with_variant(mysql.MEDIUMTEXT() if width is None else mysql.VARCHAR(width), "mysql")
    if python_type is int:
        return Integer().with_variant(mysql.BIGINT() if field in _LARGE_NUMBERS else mysql.INTEGER(), "mysql")
    if python_type is bytes:
        short = field == "digest" or field.endswith("_digest")
        plain = LargeBinary().with_variant(BLOB(), "sqlite")
        return plain.with_variant(mysql.VARBINARY(_DIGEST_WIDTH) if short else mysql.MEDIUMBLOB(), "mysql")
    return _BY_PYTHON_TYPE[python_type]


def time_text(value: datetime | None) -> str | None:
    """`YYYY-MM-DD HH:MM:SS.ffffff` in UTC."""
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

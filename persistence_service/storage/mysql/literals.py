"""Values as they stand in a statement.

The driver escapes a text character by character, which for a chunk of tasks takes longer than all the rest of making its
statement. Here a whole column is escaped at once, by the same rules; a test compares the two under every SQL mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from math import isfinite, isinf, isnan
from typing import Any

import msgspec
from sqlalchemy import Integer, LargeBinary
from sqlalchemy.types import TypeEngine

from persistence_service.errors import DataRejected
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.sql.types import FiniteFloat, StatusText, UtcTime, time_text

Escape = Callable[[str], str]
"""Makes of a text what stands between single quotes. Of several texts at once too: it looks at each character alone."""

_SEPARATOR = "\x1e"
_INT64 = range(-(2**63), 2**63)
_LARGEST = "1.7976931348623157e308"

# In this order: the backslashes of the others are not to be doubled.
_ESCAPES = (
    ("\\", "\\\\"),
    ("\0", "\\0"),
    ("\n", "\\n"),
    ("\r", "\\r"),
    ("\x1a", "\\Z"),
    ('"', '\\"'),
    ("'", "\\'"),
)


def escape_for(connection: MysqlConnection) -> Escape:
    """How texts are escaped in the connection's session: its SQL mode decides whether a backslash does."""
    return _with_backslashes if connection.escape_text("\\") == "\\\\" else _doubled


def literal(value: Any, escape: Escape) -> str:  # noqa: ANN401  # any value of a condition
    """One value. A number that is not finite becomes what compares as it does, as far as SQL can."""
    match value:
        case None:
            return "NULL"
        case str():
            return f"'{escape(value)}'"
        case float():
            return _number(value)
        case int():
            return str(int(value))
        case bytes():
            return _bytes(value)
        case datetime():
            return f"'{time_text(value)}'"
    raise TypeError(f"{type(value).__name__} is no value of a condition")


def column_literals(column_type: TypeEngine[Any]) -> Callable[[Sequence[Any], Escape], Sequence[str]]:
    """How the values of a column of that type are written, all at once.

    What it gives raises DataRejected for a value that no column can hold.
    """
    match column_type:
        case UtcTime():
            return _times
        case FiniteFloat():
            return _floats
        case Integer():
            return _integers
        case LargeBinary():
            return _all_bytes
        case StatusText():
            return _words
        case _:
            return _texts


def _with_backslashes(text: str) -> str:
    for character, escaped in _ESCAPES:
        if character in text:
            text = text.replace(character, escaped)
    return text


def _doubled(text: str) -> str:
    return text.replace("'", "''")


def _texts(values: Sequence[str | None], escape: Escape) -> Sequence[str]:
    present = [value for value in values if value is not None]
    together = _SEPARATOR.join(present)
    escaped = escape(together)
    if escaped is together or escaped == together:
        texts = present
    else:
        texts = escaped.split(_SEPARATOR)
        if len(texts) != len(present):  # a text has the separator in it
            texts = [escape(value) for value in present]
    return _quoted(texts, values)


def _quoted(present: Sequence[str], values: Sequence[object]) -> Sequence[str]:
    """The texts of those `values` that are not None, in quotes and in their places."""
    if len(present) == len(values):
        return [f"'{text}'" for text in present]
    following = iter(present)
    return ["NULL" if value is None else f"'{next(following)}'" for value in values]


def _words(values: Sequence[str | None], escape: Escape) -> Sequence[str]:
    return _texts([None if value is None else str(value) for value in values], escape)


def _times(values: Sequence[datetime | None], _: Escape) -> Sequence[str]:
    present = [value for value in values if value is not None]
    # Times are a quarter of a task's fields, and in JSON they are made in a tenth of the time: `["2026-01-31T12:00:00Z","…Z"]`.
    together = msgspec.json.encode(present).decode()
    if together.count("Z") == len(present) > 0:
        texts = together[2:-3].replace("T", " ").split('Z","')
    else:  # one is not in UTC
        texts = [time_text(value) or "" for value in present]
    return _quoted(texts, values)


def _integers(values: Sequence[int | None], _: Escape) -> Sequence[str]:
    for value in values:
        if value is not None and value not in _INT64:
            raise DataRejected("a number that no column can hold")
    return ["NULL" if value is None else str(value) for value in values]


def _floats(values: Sequence[float | None], _: Escape) -> Sequence[str]:
    for value in values:
        if value is not None and not isfinite(value):
            raise DataRejected("a number that is not finite")
    return ["NULL" if value is None else _exact(repr(value)) for value in values]


def _all_bytes(values: Sequence[bytes | None], _: Escape) -> Sequence[str]:
    return ["NULL" if value is None else _bytes(value) for value in values]


def _bytes(value: bytes) -> str:
    return f"x'{value.hex()}'"


def _number(value: float) -> str:
    if isnan(value):
        return "NULL"  # nothing equals it either
    return repr(value).replace("inf", _LARGEST) if isinf(value) else _exact(repr(value))


def _exact(number: str) -> str:
    """With an exponent it is the float itself; without one it would be a decimal number, to be converted."""
    return number if "e" in number else f"{number}e0"

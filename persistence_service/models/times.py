"""Points in time: aware, UTC, microseconds, years 1000 to 9999."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MIN_YEAR = 1000
# RFC 3339, 5.6, with the blank that its note allows in place of the T, and without an offset too. `fromisoformat` alone reads
# much more: week dates, `+0530`, `+05:30:15`, `00.Z`, and `24:00` from Python 3.14 on.
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?"
    r"(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?",
    re.ASCII,
).fullmatch
_ALLOWED = "an RFC 3339 time between the years 1000 and 9999, such as 2026-01-31T12:00:00.000000Z"
_LEAP_SECOND = _ALLOWED + "; a leap second (:60) can't be kept, send :59 or the second after it"


def parse_time(text: str) -> datetime:
    """The UTC time that an RFC 3339 text names; UTC is assumed without an offset, digits finer than 1 µs are cut.

    Raises:
        ValueError: not such a text, or outside of the years 1000 to 9999 in UTC. The message says what is allowed.
    """
    if _RFC_3339(text) is None:
        raise ValueError(_ALLOWED)
    if text[17:19] == "60":
        raise ValueError(_LEAP_SECOND)
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is not UTC:  # which it is for nearly all
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # a day that is not in the calendar, or a year that is not in the range
        raise ValueError(_ALLOWED) from None
    if moment.year < _MIN_YEAR:
        raise ValueError(_ALLOWED)
    return moment


def from_micros(micros: int) -> datetime:
    """The UTC time `micros` µs after 1970-01-01T00:00:00Z; the inverse of `to_micros`."""
    return EPOCH + timedelta(microseconds=micros)


def to_micros(moment: datetime) -> int:
    """Whole µs from 1970-01-01T00:00:00Z to `moment`, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def format_time(moment: datetime) -> str:
    """`moment` as RFC 3339 with all six digits of its microseconds and `Z`, so that texts sort as times do."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"

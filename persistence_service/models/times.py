"""Points in time: aware, UTC, microseconds, years 1000 to 9999."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MIN_YEAR = 1000
_SHORTEST = len("2026-01-31T00:00:00")
_ALLOWED = "an RFC 3339 time between the years 1000 and 9999, such as 2026-01-31T12:00:00.000000Z"


def parse_time(text: str) -> datetime:
    """The UTC time that an RFC 3339 text names; UTC is assumed without an offset, digits finer than 1 µs are cut.

    Raises:
        ValueError: not such a text, or outside of the years 1000 to 9999 in UTC. The message says what is allowed.
    """
    # fromisoformat also reads other ISO 8601 forms (week dates, basic format); these four places rule them out.
    if (
        len(text) < _SHORTEST
        or text[4] + text[7] + text[13] + text[16] != "--::"
        or "," in text
        or text[10] not in "Tt "
    ):
        raise ValueError(_ALLOWED)
    try:
        moment = datetime.fromisoformat(text.upper())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
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

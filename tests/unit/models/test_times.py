"""Times: RFC 3339 in, UTC with microseconds out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.models.times import format_time, from_micros, parse_time, to_micros

moments = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), timezones=st.just(UTC))  # noqa: DTZ001  # bounds of a strategy are naive


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31t12:00:00z", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31 12:00:00", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T12:00:00-00:00", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500000Z"),
        ("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.123456Z"),
        ("2026-01-31T12:00:00.1234569Z", "2026-01-31T12:00:00.123456Z"),
        ("2026-01-31T12:00:00.999999999+05:30", "2026-01-31T06:30:00.999999Z"),
        ("2026-01-31T12:00:00+23:59", "2026-01-30T12:01:00.000000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
        ("1000-01-01T00:00:00Z", "1000-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_time_is_read_as_utc_with_its_finer_digits_cut(text: str, expected: str) -> None:
    assert format_time(parse_time(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-31",
        "2026-01-31T12:00Z",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "2026-031T12:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-31T24:00:00Z",
        "2016-12-31T23:59:60Z",
        "2026-01-31T12:00:00+0530",
        "2026-01-31T12:00:00+05",
        "2026-01-31T12:00:00+05:30:15",
        "2026-01-31T12:00:00+05:30:15.5",
        "2026-01-31T12:00:00+05:60",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00.",
        "2026-01-31T12:00:00. Z",
        "2026-01-31T12:00:00 Z",
        "2026-01-31T12:00:00Z\n",
        "2026-01-31T12:60:00Z",
        "2026-01-31T12:00:61Z",
        "2026-13-01T00:00:00Z",
        "2026-00-10T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-01-31T12:00:00\u221205:30",
        "2026-01-31T12:00:00." + "5" * 100 + "x",
        "2026-01-31T12:00:00,5Z",
        "2026-01-31T12:00:00Z ",
        " 2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00ZZ",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31x12:00:00Z",
        "２０２６-01-31T12:00:00Z",
        "0999-12-31T23:59:59Z",
        "1000-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
        "-026-01-31T12:00:00Z",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339 time between the years 1000 and 9999"):
        parse_time(text)


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60Z", "2016-12-31T15:59:60.5-08:00"])
def test_a_leap_second_is_refused_by_name_since_no_database_can_hold_it(text: str) -> None:
    with pytest.raises(ValueError, match="a leap second"):
        parse_time(text)


@given(moment=moments)
def test_a_time_survives_its_text_and_its_microseconds(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment
    assert from_micros(to_micros(moment)) == moment


@given(one=moments, other=moments)
def test_texts_sort_as_times_do(one: datetime, other: datetime) -> None:
    assert (format_time(one) < format_time(other)) == (one < other)

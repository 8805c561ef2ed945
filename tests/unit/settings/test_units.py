"""Sizes and durations: what is read, what is refused, and that writing and reading agree."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.settings import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("30s", 30.0),
        ("500ms", 0.5),
        ("5m", 300.0),
        ("2h", 7_200.0),
        ("1d", 86_400.0),
        ("1.5h", 5_400.0),
        (" 30 s ", 30.0),
        ("30", 30.0),
        ("0.1", 0.1),
        ("0", 0.0),
        (30, 30.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_reads_in_every_form(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1s",
        "1M",
        "1S",
        "1w",
        "1h30m",
        "1e3",
        "١s",
        ".5s",
        "9" * 399,
        "9" * 500,
        True,
        None,
        [],
        math.nan,
        math.inf,
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(value)


@pytest.mark.parametrize(
    "text, size",
    [
        ("64MiB", 64 * 2**20),
        ("64MB", 64 * 10**6),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("4gib", 4 * 2**30),
        ("2TB", 2 * 10**12),
        ("1TiB", 2**40),
        ("1.5KiB", 1536),
        ("7B", 7),
        (" 1048576 ", 2**20),
        (42, 42),
    ],
)
def test_a_size_reads_in_every_form(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["", "big", "-1", "1M", "1 PiB", "0.5B", "1.0001KiB", True, None, 1.5, "9" * 500])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_size(value)


@given(st.integers(min_value=0, max_value=2**63))
def test_a_written_size_reads_back_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.floats(min_value=0, max_value=1e12))
def test_a_written_duration_reads_back_the_same(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_units_of_time_keep_their_order(number: int, unit: str) -> None:
    factors = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    assert parse_duration(f"{number}{unit}") == number * factors[unit] / 1_000


@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "0s"),
        (0.5, "500ms"),
        (30.0, "30s"),
        (90.0, "90s"),
        (3_600.0, "1h"),
        (604_800.0, "7d"),
        (0.0001, "0.0001s"),
    ],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("size, text", [(0, "0"), (1000, "1000"), (1024, "1KiB"), (3 * 2**20, "3MiB"), (2**40, "1TiB")])
def test_a_size_is_written_in_its_largest_whole_unit(size: int, text: str) -> None:
    assert format_size(size) == text

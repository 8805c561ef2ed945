"""How long the client waits between attempts."""

from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.client.retry import Backoff, retry_after_s
from tests.unit.client.network import WALL_US

NOON = "Sat, 31 Jan 2026 12:00:00 GMT"  # WALL_US
TEN_PAST_ONE = "Sat, 31 Jan 2026 13:00:10 GMT"


@given(st.integers(1, 2000), st.integers())
def test_waits_are_between_half_and_all_of_a_bound_that_doubles(failures: int, seed: int) -> None:
    bound = min(10.0, 0.1 * 2.0 ** min(failures - 1, 100))
    assert bound / 2 <= Backoff().delay_s(failures, None, Random(seed)) <= bound


@given(st.integers(1, 2000), st.floats(0, 300), st.integers())
def test_no_wait_is_shorter_than_the_service_asked_for(failures: int, asked_s: float, seed: int) -> None:
    assert asked_s <= Backoff().delay_s(failures, asked_s, Random(seed)) <= max(1.1 * asked_s, 10.0)


def test_clients_that_were_told_the_same_time_do_not_come_back_together() -> None:
    assert len({Backoff().delay_s(1, 5.0, Random(seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize(
    "headers,expected",
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 12 "}, 12.0),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "Sat, 31 Jan 2026 12:00:10 GMT"}, 10.0),
        ({"Retry-After": "Sat Jan 31 12:00:10 2026"}, 10.0),
        ({"Retry-After": "Sat, 31 Jan 2026 11:59:00 GMT"}, 0.0),
        ({"Retry-After": "Sat, 31 Jan 2099 11:59:00 GMT"}, 300.0),
        ({"Retry-After": "Sat, 31 Foo 2026 12:00:10 GMT"}, None),
        ({"Retry-After": TEN_PAST_ONE, "Date": "Sat, 31 Jan 2026 13:00:00 GMT"}, 10.0),
        ({"Retry-After": TEN_PAST_ONE, "Date": "unknown"}, 300.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers: dict[str, str], expected: float | None) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert retry_after_s(httpx.Headers(encoded), WALL_US) == expected

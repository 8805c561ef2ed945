"""Event times increase whatever the wall clock does."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from persistence_service.client.timing import EventClock
from persistence_service.models.times import format_time, from_micros, parse_time, to_micros
from tests.unit.client.network import WALL_US

# Jumps of up to a century either way, and standing still.
WALLS = st.lists(st.integers(WALL_US - 3 * 10**15, WALL_US + 3 * 10**15) | st.just(WALL_US), min_size=2, max_size=50)


@given(WALLS)
def test_event_times_strictly_increase_under_a_wall_clock_that_jumps(walls: list[int]) -> None:
    wall = iter(walls)
    clock = EventClock(lambda: next(wall))
    texts = [clock.next() for _ in walls]
    moments = [to_micros(parse_time(text)) for text in texts]
    assert all(earlier < later for earlier, later in pairwise(moments))
    assert texts == sorted(texts)
    assert all(moment >= wall for moment, wall in zip(moments, walls, strict=True))


def test_an_event_time_is_the_wall_clocks_as_long_as_that_goes_on() -> None:
    walls = iter([WALL_US, WALL_US + 5])
    clock = EventClock(lambda: next(walls))
    assert [clock.next(), clock.next()] == [format_time(from_micros(WALL_US)), format_time(from_micros(WALL_US + 5))]

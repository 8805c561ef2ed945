"""Time as the buffer and the flusher use it: injected, so that tests move it instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Timing(Protocol):
    """The clocks of a process, and waiting."""

    def wall_us(self) -> int:
        """µs since 1970 UTC by the wall clock, which may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds by a clock that never goes back."""
        ...

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> bool:
        """Wait until `event` is set (True) or `timeout_s` have passed (False); None waits for ever."""
        ...


class SystemTiming:
    """The machine's own clocks."""

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        return True


class Clock(Protocol):
    """Stamps for records without an event time; see `EventClock`."""

    @property
    def high_water_us(self) -> int:
        """The newest stamp given."""
        ...

    def reserve(self, count: int) -> int:
        """The first of `count` (≥ 1) consecutive stamps, 1 µs apart."""
        ...

    def pass_over(self, stamp_us: int) -> None:
        """Give none up to `stamp_us` from now on."""
        ...


class EventClock:
    """Stamps for records without an event time: µs since 1970 UTC that never go back and never repeat.

    A hybrid of the wall clock and a counter: each stamp is the larger of the wall clock and the last stamp + 1 µs. Its
    high-water mark lives in the journal, so that it holds over restarts and jumps of the wall clock too.
    """

    def __init__(self, timing: Timing, high_water_us: int) -> None:
        self._timing = timing
        self._last = high_water_us

    @property
    def high_water_us(self) -> int:
        """The newest stamp given."""
        return self._last

    def reserve(self, count: int) -> int:
        """The first of `count` (≥ 1) consecutive stamps, 1 µs apart."""
        first = max(self._timing.wall_us(), self._last + 1)
        self._last = first + count - 1
        return first

    def pass_over(self, stamp_us: int) -> None:
        """Give none up to `stamp_us` from now on."""
        self._last = max(self._last, stamp_us)

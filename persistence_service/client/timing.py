"""Time as the client uses it: injected, so that tests move it instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from persistence_service.models.times import format_time, from_micros


class Timing(Protocol):
    """The clocks of a process, and waiting."""

    def wall_us(self) -> int:
        """µs since 1970 UTC by the wall clock, which may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds by a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""
        ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is ended with TimeoutError after so long; None never ends it."""
        ...


class SystemTiming:
    """The machine's own clocks."""

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(seconds)


class EventClock:
    """Event times that strictly increase, however the wall clock jumps: each is max(wall clock, last + 1 µs)."""

    def __init__(self, wall_us: Callable[[], int]) -> None:
        self._wall_us = wall_us
        self._last_us = 0

    def go_past(self, time_us: int) -> None:
        """All further event times are later than `time_us`."""
        self._last_us = max(self._last_us, time_us)

    def next(self) -> str:
        """The next event time, as records hold it; as texts they increase too."""
        self._last_us = max(self._wall_us(), self._last_us + 1)
        return format_time(from_micros(self._last_us))

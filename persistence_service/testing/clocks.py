"""Clocks that tests move by hand, so that none of them sleeps."""

from __future__ import annotations

import asyncio

from persistence_service.buffer.timing import SystemTiming


class JumpingTiming(SystemTiming):
    """The machine's clocks, but that its wall clock is wrong by `offset_us`, which may change at any moment.

    `wrong_answers` counts how often it was asked and said something wrong.
    """

    def __init__(self) -> None:
        self.offset_us = 0
        self.wrong_answers = 0

    def wall_us(self) -> int:
        offset_us = self.offset_us
        self.wrong_answers += offset_us != 0
        return super().wall_us() + offset_us


class ManualTiming:
    """A `buffer.timing.Timing` that stands still until `advance`.

    Both clocks advance together; `set_wall` lets the wall clock alone jump, back as well. Waits end when their event is set,
    or when time has been advanced to their deadline.
    """

    def __init__(self, *, wall_us: int = 1_769_860_800_000_000, monotonic_s: float = 1000.0) -> None:
        self._wall_us = wall_us
        self._monotonic_s = monotonic_s
        self._deadlines: dict[asyncio.Event, float] = {}
        self._sleeping = 0

    def wall_us(self) -> int:
        """µs since 1970 UTC."""
        return self._wall_us

    def monotonic(self) -> float:
        """Seconds."""
        return self._monotonic_s

    def set_wall(self, wall_us: int) -> None:
        """Let the wall clock jump."""
        self._wall_us = wall_us

    def advance(self, seconds: float) -> None:
        """Let time pass; the waits whose deadline it reaches end when the event loop runs next."""
        self._wall_us += round(seconds * 1_000_000)
        self._monotonic_s += seconds
        for reached, deadline in self._deadlines.items():
            if deadline <= self._monotonic_s:
                reached.set()

    @property
    def seconds_to_deadlines(self) -> list[float]:
        """How far ahead the deadline of each wait is that has one, soonest first."""
        return sorted(deadline - self._monotonic_s for deadline in self._deadlines.values())

    @property
    def sleeping(self) -> int:
        """How many wait now, with a deadline or without."""
        return self._sleeping

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> bool:
        """See `Timing.wait`."""
        if event.is_set():
            return True
        if timeout_s is not None and timeout_s <= 0:
            return False
        reached = asyncio.Event()
        if timeout_s is not None:
            self._deadlines[reached] = self._monotonic_s + timeout_s
        happened = asyncio.ensure_future(event.wait())
        waits = (happened, asyncio.ensure_future(reached.wait()))
        self._sleeping += 1
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return happened.done()
        finally:
            self._sleeping -= 1
            self._deadlines.pop(reached, None)
            for wait in waits:
                wait.cancel()

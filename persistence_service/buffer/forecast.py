"""How long the journal's room lasts, by how fast it filled lately."""

from __future__ import annotations

from collections import deque
from typing import Final

_SAMPLE_S: Final = 5.0
_LATELY_S: Final = 30.0
_WINDOW_S: Final = 300.0


class Forecast:
    """The growth of a size, carried on.

    As long as the database takes what comes, the size goes up and down by whole segments: then the last five minutes count.
    In an outage it only grows, and what was before the outage says nothing: then the time since its beginning counts, at
    most five minutes, or the last half minute if that was faster. So a load that grows is seen within half a minute; of one
    that falls the estimate is too early, never too late, and right after five minutes.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._in_outage = False

    def note(self, now_s: float, used: int, *, in_outage: bool) -> None:
        """The size at a monotonic time; more often than every five seconds is not looked at."""
        samples = self._samples
        if in_outage and not self._in_outage:
            samples.clear()
        self._in_outage = in_outage
        if not samples or now_s - samples[-1][0] >= _SAMPLE_S:
            samples.append((now_s, used))
            while samples[0][0] < now_s - _WINDOW_S:
                samples.popleft()

    def seconds_until(self, limit: int, now_s: float, used: int) -> float | None:
        """Until `limit` is reached if it goes on like this, None when it does not grow; 0 when it is reached."""
        if used >= limit:
            return 0.0
        if not self._samples or now_s - self._samples[0][0] < _SAMPLE_S:
            return None
        starts = [self._samples[0]]
        if self._in_outage:
            starts += [sample for sample in self._samples if sample[0] <= now_s - _LATELY_S][-1:]
        rate = max((used - before) / (now_s - since_s) for since_s, before in starts)
        return (limit - used) / rate if rate > 0 else None

"""How long the journal's room lasts, by how fast it filled lately."""

from __future__ import annotations

from collections import deque
from typing import Final

_SAMPLE_S: Final = 5.0
_WINDOW_S: Final = 300.0


class Forecast:
    """The growth of a size over the last five minutes, carried on."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, used: int) -> None:
        """The size at a monotonic time; more often than every five seconds is not looked at."""
        samples = self._samples
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
        since_s, before = self._samples[0]
        grown = used - before
        return (limit - used) * (now_s - since_s) / grown if grown > 0 else None

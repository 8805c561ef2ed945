"""Exponential backoff with jitter, for one party that retries for ever.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (its "equal jitter").
"""

from __future__ import annotations

from random import Random


class Backoff:
    """Delays between attempts: random between half and all of a bound that doubles from `first_s` to `longest_s`.

    The state outlives a change in the kind of failure; only a success resets it.
    """

    def __init__(self, *, first_s: float = 0.1, longest_s: float = 30.0, random: Random | None = None) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._random = random or Random()  # noqa: S311  # jitter, not a secret
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failed attempts since the last success."""
        return self._failures

    def next_delay_s(self) -> float:
        """Count a failure; seconds to wait before the next attempt."""
        bound = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return bound * (0.5 + 0.5 * self._random.random())

    def reset(self) -> None:
        """Count a success."""
        self._failures = 0

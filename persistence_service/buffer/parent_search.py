"""Asking others for the sessions of orphans: several workers are one service, and a session may wait with another of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from persistence_service.buffer.timing import Timing

_log = structlog.get_logger(__name__)
_PAUSE_S: Final = 1.0

FindParents = Callable[[Sequence[str]], Awaitable[bool]]
"""Lets others store those of these sessions that they have; returns whether all could be asked, and have stored them."""


class ParentSearch:
    """Asks in the background, so that no flush waits for it: one of the others may be waiting for that flush.

    Orphans whose numbers are not above `covers` are known to all. After a search `is_in_vain` that holds for none of those
    that came since. Without `ask` there is nobody to be asked, and nobody is waited for.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._task: asyncio.Task[None] | None = None
        self._asked: frozenset[str] = frozenset()
        self._number = 0
        self._is_complete = False
        self._ended_s = float("-inf")
        self._covers = 0
        self.ask: FindParents | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.has_ended = False
        self.is_in_vain = False

    @property
    def covers(self) -> float:
        """Up to which number it is known that no other has the session of an orphan."""
        return float("inf") if self.ask is None else self._covers

    @property
    def is_running(self) -> bool:
        """Whether others are being asked."""
        return self._task is not None

    @property
    def pause_s(self) -> float:
        """Seconds until all may be asked again."""
        return max(0.0, self._ended_s + _PAUSE_S - self._timing.monotonic())

    def begin(self, parents: Sequence[str], *, number: int, is_urgent: bool) -> None:
        """Ask for these, of orphans up to `number`, unless that is being done or was done a moment ago.

        What is not urgent is asked once for each of them, and not too often: the others must write for it.
        """
        if self.ask is None or not parents or self.is_running or self.has_ended:
            return
        if self.pause_s and (self.is_in_vain or not is_urgent):
            return
        if not is_urgent and self._asked.issuperset(parents):
            return
        self._asked = frozenset(parents)
        self._number = number
        self._task = asyncio.create_task(self._run(self.ask, parents), name="parent-search")

    async def _run(self, ask: FindParents, parents: Sequence[str]) -> None:
        try:
            self._is_complete = await ask(parents)
        except Exception:  # noqa: BLE001  # a supervision point: who could not be asked is asked again
            self._is_complete = False
            _log.exception("parents.not_asked_for")
        self._task = None
        self._ended_s = self._timing.monotonic()
        self.has_ended = True
        self.on_end()

    def conclude(self, *, looked: bool) -> None:
        """What the others have stored was `looked` for since the search has ended, or could not be."""
        self.has_ended = False
        self.is_in_vain = not (looked and self._is_complete)
        if self.is_in_vain:
            self._asked = frozenset()
        else:
            self._covers = self._number

    def stop(self) -> None:
        """Ask nobody any more."""
        self.ask = None
        if self._task is not None:
            self._task.cancel()

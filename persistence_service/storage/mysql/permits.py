"""A bounded number of users at a time, served in the order they came."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Permits:
    """`count` permits. Whoever waits gets one in turn; one who gives up or is cancelled costs the others nothing.

    For one event loop. (asyncio.Semaphore loses wake-ups of cancelled waiters in some of the Pythons we support.)
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Take a permit, at once if one is free and nobody waits."""
        if self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release()  # it was handed over in the very moment of the cancellation
            else:
                with suppress(ValueError):  # passed over already
                    self._waiters.remove(turn)
            raise

    def take(self) -> bool:
        """Take a permit if one is free; nobody is overtaken."""
        if not self._free or self._waiters:
            return False
        self._free -= 1
        return True

    def release(self) -> None:
        """Give a permit back: to who waits longest, else for the next to come."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():  # else it was cancelled
                turn.set_result(None)
                return
        self._free += 1

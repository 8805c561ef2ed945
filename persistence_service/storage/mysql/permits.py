"""A bounded number of users at a time, served in the order they came."""

from __future__ import annotations

import asyncio
from collections import deque


class Permits:
    """`count` permits. Whoever waits gets one in turn; one who gives up or is cancelled costs the others nothing.

    For one event loop. (asyncio.Semaphore loses wake-ups of cancelled waiters in some of the Pythons we support.)
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        return self._free

    async def acquire(self) -> None:
        """Take a permit, at once if one is free and nobody waits."""
        if self._free and not self._waiters:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release()  # it was handed over in the very moment of the cancellation
            else:
                self._waiters.remove(turn)
            raise

    def release(self) -> None:
        """Give a permit back: to who waits longest, else for the next to come."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

"""Repeating transactions that were undone in favour of others: that says nothing about the backend, nor about the records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import random
from typing import Final, TypeVar

from persistence_service.errors import TransactionConflict

T = TypeVar("T")

_ATTEMPTS: Final = 6
_LONGEST_S: Final = 10.0
"""No attempt begins later than this: a conflict may be told only when a wait for a lock is over, which takes seconds."""
_FIRST_PAUSE_S: Final = 0.01


async def repeating_conflicts(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives. It is one whole transaction, and is done again, a few times at most, when another was in its way.

    Between attempts is a short pause of random length, so that those who met do not meet again.

    Raises:
        TransactionConflict: it happened again and again.
    """
    loop = asyncio.get_running_loop()
    latest = loop.time() + _LONGEST_S
    for attempt in range(1, _ATTEMPTS):
        try:
            return await work()
        except TransactionConflict:
            pause_s = _FIRST_PAUSE_S * 2**attempt * random()  # noqa: S311  # jitter, not a secret
            if loop.time() + pause_s >= latest:
                raise
        await asyncio.sleep(pause_s)
    return await work()

"""Work that is done in the background, again and again, whatever goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.timing import Timing
from persistence_service.errors import PersistenceError

_log = structlog.get_logger(__name__)


async def repeat(
    work: Callable[[], Awaitable[None]],
    *,
    name: str,
    every_s: float,
    timing: Timing,
    backoff: Backoff,
    wanted: asyncio.Event | None = None,
) -> None:
    """Do `work` now, every `every_s` seconds, and at once when it is `wanted`, until this is cancelled.

    After a failure it is tried again with the pauses of `backoff`. A failure that lasts is told once.
    """
    wanted = wanted or asyncio.Event()
    is_failing = False
    while True:
        wanted.clear()
        wait_s = every_s
        try:
            await work()
            is_failing = False
            backoff.reset()
        except PersistenceError as exc:
            if not is_failing:
                _log.warning(f"{name}.failing", error=exc.code, detail=str(exc))
            is_failing = True
            wait_s = backoff.next_delay_s()
        except Exception:  # noqa: BLE001  # a supervision point: nothing may end the work for good
            _log.exception(f"{name}.unexpected_error")
            wait_s = backoff.next_delay_s()
        await timing.wait(wanted, wait_s)

"""Background work goes on whatever goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.backoff import Backoff
from persistence_service.errors import StorageUnavailable
from persistence_service.services.background import repeat
from persistence_service.testing.clocks import ManualTiming
from tests.unit.buffer.harness import let_all_run

AWAY = StorageUnavailable("gone", number=2006)


class Work:
    """Fails as the script says, None being a success, and then succeeds."""

    def __init__(self, *script: Exception | None) -> None:
        self._script: Iterator[Exception | None] = iter(script)
        self.done = 0

    async def __call__(self) -> None:
        self.done += 1
        error = next(self._script, None)
        if error is not None:
            raise error


async def run_for(
    timing: ManualTiming, work: Work, steps: list[float], wanted: asyncio.Event | None = None
) -> list[int]:
    """How often it was done after each of `steps`, in seconds; 0 asks for it."""
    done = []
    running = asyncio.create_task(
        repeat(work, name="work", every_s=300, timing=timing, backoff=Backoff(first_s=1), wanted=wanted)
    )
    for step in steps:
        await let_all_run()
        if step:
            timing.advance(step)
        elif wanted is not None:
            wanted.set()
        await let_all_run()
        done.append(work.done)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return done


async def test_it_is_done_at_once_and_after_each_interval() -> None:
    assert await run_for(ManualTiming(), Work(), [299, 1.1, 299, 1.1]) == [1, 2, 2, 3]


async def test_it_is_done_at_once_when_it_is_wanted() -> None:
    assert await run_for(ManualTiming(), Work(), [0, 1, 0], asyncio.Event()) == [2, 2, 3]


@pytest.mark.parametrize("error", [AWAY, RuntimeError("a mistake")])
async def test_after_a_failure_it_is_tried_again_soon_and_then_in_peace(error: Exception) -> None:
    assert await run_for(ManualTiming(), Work(error, error), [1.1, 2.1, 299, 1.1]) == [2, 3, 3, 4]


async def test_after_a_success_the_pauses_begin_anew() -> None:
    assert await run_for(ManualTiming(), Work(AWAY, AWAY, None, AWAY), [1.1, 2.1, 300.1, 1.1]) == [2, 3, 4, 5]


async def test_a_failure_that_lasts_is_told_once_and_a_mistake_each_time() -> None:
    with capture_logs() as logged:
        await run_for(ManualTiming(), Work(AWAY, AWAY, RuntimeError("a mistake"), AWAY), [31.0] * 5)
    assert [event["event"] for event in logged] == ["work.failing", "work.unexpected_error"]

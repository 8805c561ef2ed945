"""Permits are handed over in order, and none is lost whoever gives up when."""

import asyncio

import pytest

from persistence_service.storage.mysql.permits import Permits


def _all_free(permits: Permits, count: int) -> bool:
    taken = [permits.take() for _ in range(count + 1)]
    return taken == [True] * count + [False]


async def test_no_more_than_there_are_and_none_before_those_who_wait() -> None:
    permits = Permits(1)
    assert permits.take()
    assert not permits.take()
    waiter = asyncio.create_task(permits.acquire())
    await asyncio.sleep(0)
    permits.release()
    assert not permits.take(), "it belongs to the waiter, who has yet to run"
    await waiter
    permits.release()
    assert _all_free(permits, 1)


async def test_in_the_order_of_asking() -> None:
    permits = Permits(1)
    assert permits.take()
    order: list[int] = []

    async def ask(number: int) -> None:
        await permits.acquire()
        order.append(number)
        permits.release()

    waiting = [asyncio.create_task(ask(number)) for number in range(4)]
    await asyncio.sleep(0)
    permits.release()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3]
    assert _all_free(permits, 1)


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_a_cancelled_waiter_costs_nothing_even_in_the_moment_of_its_turn(is_handed_over: bool) -> None:
    permits = Permits(1)
    assert permits.take()
    first, second = asyncio.create_task(permits.acquire()), asyncio.create_task(permits.acquire())
    await asyncio.sleep(0)
    if is_handed_over:
        permits.release()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    if not is_handed_over:
        permits.release()
    async with asyncio.timeout(60):
        await second
    permits.release()
    assert _all_free(permits, 1)


async def test_all_waiters_cancelled_leave_the_permits_to_others() -> None:
    permits = Permits(2)
    assert permits.take()
    assert permits.take()
    waiting = [asyncio.create_task(permits.acquire()) for _ in range(5)]
    await asyncio.sleep(0)
    permits.release()
    for waiter in waiting:
        waiter.cancel()
    permits.release()
    await asyncio.wait(waiting)
    assert all(waiter.cancelled() for waiter in waiting)
    assert _all_free(permits, 2)

"""What happens to a service within: its journal's disk fails, and its wall clock is wrong."""

from __future__ import annotations

import asyncio
import errno
import math
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from persistence_service.torture.faults import Fault, Subject
from persistence_service.torture.orders import (
    Fail,
    Figures,
    Look,
    Order,
    Orders,
    SetClock,
    ShortenWrites,
    SlowDown,
)

_PATIENCE_S: Final = 8.0
"""How long a strike waits for a service that starts, and then for it to call what fails."""
_LONGEST_S: Final = 1.0
_POLL_S: Final = 0.05
_MINUTE_S: Final = 60.0
_AHEAD_S: Final = 3 * 86_400.0
_BEHIND_S: Final = (
    0.9 * 86_400.0
)  # a batch from further in the future than limits.max_clock_skew is refused, as it should be

SETTINGS: Final[Mapping[str, object]] = {"limits.max_clock_skew": "1d"}
"""What a service has to be told for `clock_faults`, whose clients have the right time all the while."""


def disk_faults(orders: Orders, subject: Subject | None = None) -> list[Fault]:
    """Of the disk on which the journal is. Each has `hits`: how many system calls it spoilt.

    A `subject` that starts is left alone: without a journal it rightly ends.
    """
    kinds: list[tuple[str, str, Callable[[Random], Sequence[Order]]]] = [
        ("disk: writes fail", "writev", _broken_writes),
        ("disk: full", "writev", _full),
        ("disk: short writes", "short writes", lambda random: [ShortenWrites(random.randint(1, 2000))]),
        ("disk: fsync fails", "sync", _broken_sync),
        ("disk: fsync is slow", "sync", lambda random: [SlowDown("sync", random.uniform(0.05, 0.8))]),
        ("disk: no new files", "create", _after_broken_sync("create")),
        ("disk: directory's fsync fails", "sync_directory", _after_broken_sync("sync_directory")),
        ("disk: nothing can be removed", "unlink", _after_broken_sync("unlink")),
    ]
    return [DiskFault(name, operation, draw, orders, subject) for name, operation, draw in kinds]


def clock_faults(orders: Orders, subject: Subject | None = None) -> list[Fault]:
    """Of the wall clock of a service with `SETTINGS`. Each has `hits`: how often the service was told a wrong time."""
    return [
        ClockJump("clock: ahead", _AHEAD_S, orders, subject),
        ClockJump("clock: behind", -_BEHIND_S, orders, subject),
    ]


class DiskFault:
    """Some system calls of the journal go wrong for a moment; `operation` is the one that tells whether it was felt."""

    def __init__(
        self,
        name: str,
        operation: str,
        draw: Callable[[Random], Sequence[Order]],
        orders: Orders,
        subject: Subject | None = None,
    ) -> None:
        self.name = name
        self._operation = operation
        self._draw = draw
        self._subject = subject
        self._orders = orders
        self.hits = 0

    async def strike(self, random: Random) -> None:
        wanted, lasts_s = self._draw(random), random.uniform(0, _LONGEST_S)
        await _until_ready(self._subject)
        before = self._struck(await self._orders.give(Look()))
        try:
            for order in wanted:
                await self._give(order)
            await self._felt(before)
            await asyncio.sleep(lasts_s)
        finally:
            after = self._struck(await self._orders.heal())
        self.hits += after - before if after >= before else after  # it is another process, which counts anew

    async def _give(self, order: Order) -> None:
        if self._subject is None or self._subject.is_ready:
            await self._orders.give(order)

    async def _felt(self, before: int) -> None:
        """Wait until the service has called what goes wrong, but not for ever."""
        ends_at = time.monotonic() + _PATIENCE_S
        while self._struck(await self._orders.give(Look())) == before:
            if time.monotonic() > ends_at:
                return
            await asyncio.sleep(_POLL_S)

    def _struck(self, figures: Figures | None) -> int:
        return figures.struck.get(self._operation, 0) if figures is not None else 0


class ClockJump:
    """The wall clock jumps by minutes to days, at most by `farthest_s`, and back after a moment: so it jumps both ways."""

    def __init__(self, name: str, farthest_s: float, orders: Orders, subject: Subject | None = None) -> None:
        self.name = name
        self._farthest_s = farthest_s
        self._orders = orders
        self._subject = subject
        self.hits = 0

    async def strike(self, random: Random) -> None:
        far_s = math.exp(random.uniform(math.log(_MINUTE_S), math.log(abs(self._farthest_s))))
        offset_s = math.copysign(far_s, self._farthest_s)
        await _until_ready(self._subject)
        before = await self._orders.give(SetClock(offset_s))
        try:
            await asyncio.sleep(random.uniform(0.2, _LONGEST_S))
        finally:
            after = await self._orders.heal()
        if before is not None and after is not None:
            self.hits += max(0, after.wrong_times - before.wrong_times)


async def _until_ready(subject: Subject | None) -> None:
    """Wait for one that starts, but not for ever."""
    ends_at = time.monotonic() + _PATIENCE_S
    while subject is not None and not subject.is_ready:
        if time.monotonic() > ends_at:
            return
        await asyncio.sleep(_POLL_S)


def _broken_writes(random: Random) -> list[Order]:
    """Some fail, or all, after a part was written."""
    return [
        ShortenWrites(random.randint(1, 2000)),
        Fail("writev", errno.EIO, after=random.randint(0, 3), times=random.choice([1, 3, None])),
    ]


def _full(random: Random) -> list[Order]:
    """What there is room for is written, then nothing more, until there is room again."""
    return [
        Fail("create", errno.ENOSPC),
        ShortenWrites(random.randint(1, 2000)),
        Fail("writev", errno.ENOSPC, after=random.randint(0, 10)),
    ]


def _broken_sync(random: Random) -> list[Order]:
    return [Fail("sync", errno.EIO, after=random.randint(0, 5), times=random.choice([1, 2, None]))]


def _after_broken_sync(operation: str) -> Callable[[Random], list[Order]]:
    """After a failed fsync the journal wants a new file in place of the old one, and then this goes wrong."""
    return lambda random: [
        Fail(operation, random.choice([errno.EIO, errno.ENOSPC]), times=random.choice([1, 2, None])),
        Fail("sync", errno.EIO, times=1),
    ]

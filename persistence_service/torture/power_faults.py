"""The machine loses power: its processes end, and of the journal only that is left which is on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

from persistence_service.torture.faults import Subject
from persistence_service.torture.orders import Orders, SlowDown, notes_beside
from persistence_service.torture.unsynced import Lost, is_unsafe, lose_power

_LONGEST_LOOK_OUT_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.01
_BEHIND_S: Final = 0.3
_LONGEST_AFTER_S: Final = 0.15
_MOST_IN_A_ROW: Final = 4


class PowerLost:
    """Most times while the disk is behind, so that whoever has answered too early has told so of much that is lost."""

    name = "machine: power loss"

    def __init__(self, subject: Subject, orders: Orders, journal: Path) -> None:
        """`orders` reach the processes, which note what is on disk of their files in `journal`."""
        self._subject = subject
        self._orders = orders
        self._notes = [notes_beside(path) for path in orders.paths]
        self._journal = journal
        self.lost: list[Lost] = []
        """What each took that took anything."""

    @property
    def hits(self) -> int:
        """How often there was something to lose."""
        return len(self.lost)

    async def strike(self, random: Random) -> None:
        for _ in range(random.randint(2, _MOST_IN_A_ROW)):
            await self._lose_power(random)

    async def _lose_power(self, random: Random) -> None:
        if random.random() < 0.8:
            await self._orders.give(SlowDown("sync", _BEHIND_S))  # until this process ends, which is soon
            await self._something_is_unsafe()
            # All that came during the first fsync waits for the second one then.
            await asyncio.sleep(_BEHIND_S + random.uniform(0, _LONGEST_AFTER_S))
        await self._subject.kill()
        self.lost += [lost for notes in self._notes if (lost := lose_power(notes, self._journal)) is not None]
        await self._subject.start()

    async def _something_is_unsafe(self) -> None:
        """But it is not waited for for ever."""
        ends_at = monotonic() + _LONGEST_LOOK_OUT_S
        while not any(map(is_unsafe, self._notes)):
            if monotonic() > ends_at:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

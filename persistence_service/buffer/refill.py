"""Reading back what waits in the journal alone, in order and in stretches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from persistence_service.buffer.intake import Intake
from persistence_service.buffer.room import Room
from persistence_service.buffer.spill import SpilledBatch, SpillQueue
from persistence_service.errors import JournalError
from persistence_service.journal.journal import Journal

_STRETCH_BYTES = 2 * 1024 * 1024
_STRETCH_BATCHES = 2_000


class Refill:
    """Merges the oldest waiting batches into memory when half of that is empty. One call at a time."""

    def __init__(self, *, journal: Journal, spill: SpillQueue, intakes: Mapping[int, Intake[Any]], room: Room) -> None:
        self._journal = journal
        self._spill = spill
        self._intakes = intakes
        self._room = room

    async def run(self) -> None:
        """Fill memory up to its half, or with all that waits, unless refused records have filled what there is for them.

        Raises:
            JournalUnavailable: it can't be read now; nothing is lost.
        """
        while self._spill and self._room.is_half_empty and not self._room.is_full_aside:
            await self._stretch()

    async def _stretch(self) -> None:
        batches = list(self._next())
        payloads = await self._journal.read_many([batch.position for batch in batches])
        merge_back(self._spill, batches, payloads, intakes=self._intakes, journal=self._journal)

    def _next(self) -> Iterator[SpilledBatch]:
        records = size = 0
        for batch in self._spill.first(_STRETCH_BATCHES):
            records += batch.items
            size += batch.position.length
            if records > batch.items and (size > _STRETCH_BYTES or self._room.would_overflow(records, size)):
                return
            yield batch


def merge_back(
    queue: SpillQueue,
    batches: Sequence[SpilledBatch],
    payloads: Sequence[bytes | JournalError],
    *,
    intakes: Mapping[int, Intake[Any]],
    journal: Journal,
) -> None:
    """Let the oldest batches of `queue`, which were read, wait in memory; those that can't be read any more are lost."""
    for batch, payload in zip(batches, payloads, strict=True):
        if isinstance(payload, bytes):
            intake = intakes[batch.kind]
            intake.merge(intake.decode(payload), intake.sizes(payload), batch)
        else:
            journal.give_up(batch.position, batch.items)
        queue.drop_first()

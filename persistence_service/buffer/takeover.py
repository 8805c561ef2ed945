"""Batches of another journal, kept in this one from now on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from persistence_service.buffer.intake import KIND_STAMP, Intake
from persistence_service.journal.journal import Journal
from persistence_service.journal.segment import Position, Replayed


class TakeOver:
    """Appends the batches of a journal that has lost its worker to `journal`, and takes them in like batches of its own."""

    def __init__(self, *, journal: Journal, intakes: Mapping[int, Intake[Any]]) -> None:
        self._journal = journal
        self._intakes = intakes

    async def keep_mark(self, high_water_us: int) -> None:
        """Later runs give no stamp up to this one either.

        Raises:
            JournalFull, JournalUnavailable, BufferFull: it can't be kept now.
        """
        if high_water_us > self._journal.high_water_us:
            await asyncio.shield(
                self._journal.append(
                    KIND_STAMP,
                    b"",
                    items=0,
                    accepted_at_us=high_water_us,
                    high_water_us=high_water_us,
                    beyond_bounds=True,
                )
            )

    async def take(self, batches: Sequence[Replayed]) -> list[Replayed]:
        """Return when the batches are on disk here and taken in; gives those that this version can't read.

        Raises:
            JournalFull, JournalUnavailable, BufferFull: some are not. Bring all of them again, which is harmless.
        """
        unreadable = []
        taken = []
        for batch in batches:
            if batch.kind == KIND_STAMP:
                continue
            records = self._decoded(batch)
            if not records:
                unreadable.append(batch)
                continue
            taken.append(asyncio.ensure_future(self._take(batch, records)))
        outcomes = await asyncio.gather(*taken, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return unreadable

    def _decoded(self, batch: Replayed) -> list[Any]:
        intake = self._intakes.get(batch.kind)
        try:
            return intake.decode(batch.payload) if intake else []
        except msgspec.MsgspecError:
            return []

    async def _take(self, batch: Replayed, records: list[Any]) -> None:
        intake = self._intakes[batch.kind]
        written = self._journal.append(
            batch.kind,
            batch.payload,
            items=len(records),
            accepted_at_us=batch.accepted_at_us,
            high_water_us=0,
            beyond_bounds=True,  # its room is given back where it was
        )

        def take_in(done: asyncio.Future[Position]) -> None:
            if done.exception() is None:
                sizes = intake.sizes(batch.payload)
                intake.take_in(records, sizes, done.result(), accepted_us=batch.accepted_at_us)

        written.add_done_callback(take_in)
        await asyncio.shield(written)

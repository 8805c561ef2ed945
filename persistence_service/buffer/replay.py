"""What the last run left in the journal, merged in the background while new batches are accepted already."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.intake import Intake
from persistence_service.buffer.room import Room
from persistence_service.buffer.timing import Timing
from persistence_service.errors import Replaying
from persistence_service.journal.journal import Journal
from persistence_service.journal.segment import Replayed

_log = structlog.get_logger(__name__)
_LOOK_AGAIN_S = 1.0


class JournalReplay:
    """Merges every record that was in the journal at its opening. `run` is its one task, and ends when that is done."""

    def __init__(self, *, journal: Journal, intakes: Sequence[Intake[Any]], room: Room, timing: Timing) -> None:
        self._journal = journal
        self._intakes = {intake.kind: intake for intake in intakes}
        self._room = room
        self._timing = timing
        self._step = asyncio.Event()
        self._failing = False
        self._unreadable: set[int] = set()
        self.is_running = True

    @property
    def unreadable(self) -> int:
        """Journaled batches that this version can't read; they keep their place in the journal."""
        return len(self._unreadable)

    async def run(self) -> None:
        """Merge as fast as there is room. What can't be read now is tried again until it can."""
        backoff = Backoff()
        while self.is_running:
            try:
                async with aclosing(self._journal.replay()) as batches:  # so that a next attempt may begin at once
                    async for batch in batches:
                        await self._merge(batch)
                self.is_running = False
            except Exception as exc:  # noqa: BLE001  # the supervision point of replay: whoever waits for its end must be told
                if not self._failing:
                    _log.error("replay.failing", exc_info=exc, now="it is tried again")
                self._failing = True
                self._step.set()
                await self._timing.wait(asyncio.Event(), backoff.next_delay_s())
        self._failing = False
        self._step.set()
        _log.info("replay.finished", unreadable=self.unreadable)

    async def _merge(self, batch: Replayed) -> None:
        intake = self._intakes.get(batch.kind)
        try:
            records = intake.decode(batch.payload) if intake else []
        except msgspec.MsgspecError:
            records = []
        if intake is None or not records:
            _log.error("replay.unreadable", sequence=batch.position.sequence, kind=batch.kind, items=batch.items)
            self._unreadable.add(batch.position.sequence)
            return
        await self._room.wait_for(len(records), len(batch.payload))
        intake.merge(records, intake.sizes(batch.payload), batch.position)
        self._step.set()
        await asyncio.sleep(0)  # a stretch of the journal comes at once: others have their turn after each batch

    async def step(self) -> None:
        """Return when more was merged since the last step, or all is, or a moment has passed.

        Raises:
            Replaying: the disk does not let the journal be read now.
        """
        if self.is_running and not self._failing:
            await self._timing.wait(self._step, _LOOK_AGAIN_S)
        self._step.clear()
        if self._failing:
            raise Replaying("the journal of the last run can't be read now; it is tried again", retry_after_s=5)

    def require_done(self) -> None:
        """Raises Replaying while an id that was not found may still be in the last run's journal."""
        if self.is_running:
            raise Replaying("the journal of the last run is still being read; ask again in a moment", retry_after_s=1)

"""What the last run left in the journal, taken in in the background while new batches are accepted already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec
import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.intake import KIND_STAMP, Intake
from persistence_service.buffer.timing import Timing
from persistence_service.errors import Replaying
from persistence_service.journal.journal import Journal
from persistence_service.journal.segment import Position, Replayed

_log = structlog.get_logger(__name__)


class JournalReplay:
    """Takes in every record that was in the journal at its opening; `run` is its one task, and ends when that is done.

    `unmerged` counts batches that a mistake of ours kept out; `is_failing` while it can't go on, and tries again. It is as fast
    as the disk: what has no room in memory is indexed by its keys and waits where it is.
    """

    def __init__(self, *, journal: Journal, intakes: Mapping[int, Intake[Any]], timing: Timing) -> None:
        self._journal = journal
        self._intakes = intakes
        self._timing = timing
        self._news = asyncio.Event()
        self.is_failing = False
        self._unreadable: set[int] = set()
        self._taken: Position | None = None
        self.is_running = True
        self.unmerged = 0

    @property
    def unreadable(self) -> int:
        """Journaled batches that this version can't read; they keep their place in the journal."""
        return len(self._unreadable)

    async def run(self) -> None:
        """Take all of it in. What can't be read now is tried again until it can."""
        backoff = Backoff()
        while self.is_running:
            try:
                async with aclosing(self._journal.replay()) as batches:  # so that a next attempt may begin at once
                    async for batch in batches:
                        self._take_in(batch)
                        await asyncio.sleep(0)  # a stretch of the journal comes at once: others have their turn
                self.is_running = False
            except Exception as exc:  # noqa: BLE001  # the supervision point of replay: whoever waits for its end must be told
                if not self.is_failing:
                    _log.error("replay.failing", exc_info=exc, now="it is tried again")
                self.is_failing = True
                self._news.set()
                await self._timing.wait(asyncio.Event(), backoff.next_delay_s())
        self.is_failing = False
        self._news.set()
        _log.info("replay.finished", unreadable=self.unreadable)

    def _take_in(self, batch: Replayed) -> None:
        if batch.kind == KIND_STAMP:
            return
        if self._is_taken(batch.position):
            self._journal.release(batch.position.segment, batch.items)
            return
        self._taken = batch.position
        try:
            self._merge(batch)
        except Exception as exc:  # noqa: BLE001  # the supervision point of merging: the others go on
            self.unmerged += 1
            now = "its batch stays in the journal for the next start"
            _log.error("batch.not_merged", sequence=batch.position.sequence, now=now, exc_info=exc)

    def _is_taken(self, position: Position) -> bool:
        """Whether it comes once more, because a failing disk had its segment begun anew.

        Nothing follows from another segment's sequences: they were given out again if it was missing for a while.
        """
        taken = self._taken
        return taken is not None and position.segment is taken.segment and position.sequence <= taken.sequence

    def _merge(self, batch: Replayed) -> None:
        intake = self._intakes.get(batch.kind)
        try:
            records = intake.decode(batch.payload) if intake else []
        except msgspec.MsgspecError:
            records = []
        if intake is None or not records:
            _log.error("replay.unreadable", sequence=batch.position.sequence, kind=batch.kind, items=batch.items)
            self._unreadable.add(batch.position.sequence)
            return
        intake.take_in(records, intake.sizes(batch.payload), batch.position, accepted_us=batch.accepted_at_us)

    async def done(self) -> None:
        """Return when all of it is taken in.

        Raises:
            Replaying: the disk does not let the journal be read now.
        """
        while self.is_running:
            if self.is_failing:
                raise Replaying("the journal of the last run can't be read now; it is tried again", retry_after_s=5)
            self._news.clear()
            await self._news.wait()

    def require_done(self) -> None:
        """Raises Replaying while an id that was not found may still be in the last run's journal."""
        if self.is_running:
            raise Replaying("the journal of the last run is still being read; ask again in a moment", retry_after_s=1)

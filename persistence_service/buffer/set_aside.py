"""Refused records that can't be dead letters now, or not so fast: they wait in the journal alone, tried now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from persistence_service.buffer.entries import Place, Tickets
from persistence_service.buffer.intake import Intake
from persistence_service.buffer.refill import merge_back
from persistence_service.buffer.room import Room
from persistence_service.buffer.slices import SLICE_BYTES, slices
from persistence_service.buffer.spill import SpilledBatch, SpillQueue
from persistence_service.buffer.timing import Timing
from persistence_service.journal.journal import Journal
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.times import to_micros

RETRY_S: Final = 60.0
_GROUP: Final = 100
_CROWDED: Final = 0.5
_WORTH_WHILE: Final = 0.125
_MOVED_AT_ONCE: Final = 100


class SetAside:
    """Keeps in the journal alone what was refused and is no dead letter, in groups.

    Appended there anew, the records hold no old segment any more. Some groups are tried every minute, and the next ones at
    once when nothing was set aside again, or when the sessions may have come that orphans among them wait for.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        intakes: Mapping[int, Intake[Any]],
        spill: SpillQueue,
        room: Room,
        tickets: Tickets,
        timing: Timing,
    ) -> None:
        self._journal = journal
        self._intakes = intakes
        self._spill = spill
        self._room = room
        self._tickets = tickets
        self._timing = timing
        self._tried_s = timing.monotonic()
        self._appended = 0
        self._appended_before = 0
        self._last_orphan = self._last_refused = 0
        self.queue = SpillQueue()

    @property
    def due_in_s(self) -> float | None:
        """Seconds until some should be tried, None when there are none."""
        if not self.queue:
            return None
        went_well = self._appended == self._appended_before
        return 0.0 if went_well else self._tried_s + RETRY_S - self._timing.monotonic()

    @property
    def is_urgent(self) -> bool:
        """Whether refused records take memory or hold segments that others need."""
        return self._room.is_full_aside or self._is_journal_crowded

    @property
    def has_refused(self) -> bool:
        """Whether there may be some among the groups that would be dead letters if these could be made."""
        return self._begins_before(self._last_refused)

    def hasten(self) -> None:
        """Sessions may be found that were not before: if there may be orphans among the groups, try the next one now."""
        if self._begins_before(self._last_orphan):
            self._appended_before = self._appended

    def _begins_before(self, ticket: int) -> bool:
        oldest = self.queue.oldest
        return oldest is not None and oldest.ticket <= ticket

    def _note(self, *, orphans: bool, refused: bool) -> None:
        """What is in the group that was appended last."""
        if orphans:
            self._last_orphan = self._tickets.last
        if refused:
            self._last_refused = self._tickets.last

    async def take_over(self, reason: DeadLetterReason | None = None) -> None:
        """Move what is still refused, or only what is for that `reason`, to the end of the journal.

        Raises:
            JournalFull, JournalUnavailable: it can't be written now; what is left stays in memory.
        """
        for intake in self._intakes.values():
            chosen = [each for each in intake.buffer.all_refused() if reason in (None, each.reason)]
            for group in slices(chosen, lambda each: each.entry.size, max_items=_GROUP):
                records = [refused.entry.record for refused in group]
                await self._append(intake, records, min(refused.entry.arrived_s for refused in group))
                self._appended += len(group)
                for refused in group:
                    intake.buffer.let_go(refused, Place.WAITING)
                has_orphans = any(refused.reason is DeadLetterReason.UNKNOWN_SESSION for refused in group)
                self._note(orphans=has_orphans, refused=reason is None)

    async def _append(self, intake: Intake[Any], records: list[Any], arrived_s: float) -> None:
        payload, _ = intake.encode(records)
        ticket = self._tickets.next()
        position = await asyncio.shield(
            self._journal.append(
                intake.kind,
                payload,
                items=len(records),
                accepted_at_us=min(to_micros(record.created_at) for record in records),
                high_water_us=0,
                beyond_bounds=True,
            )
        )
        batch = SpilledBatch(intake.kind, ticket, position, len(records), arrived_s)
        self.queue.append(batch, [intake.buffer.collection.key_of(record) for record in records], records)

    async def draw_together(self) -> None:
        """Append groups anew, oldest first, while they hold most of a crowded journal for the sake of little.

        That costs room in the journal only for a moment, and helps or is not done. A crash meanwhile leaves a group twice,
        which is harmless.

        Raises:
            JournalFull, JournalUnavailable: it can't be read or written now; what is left stays where it is.
        """
        for _ in range(_MOVED_AT_ONCE):
            if not (self._is_journal_crowded and self._is_scattered):
                return
            batches, has_orphans, has_refused = self._oldest(), self._begins_before(self._last_orphan), self.has_refused
            payloads = await self._journal.read_many([batch.position for batch in batches])
            for kind, intake in self._intakes.items():
                found = [p for b, p in zip(batches, payloads, strict=True) if b.kind == kind and isinstance(p, bytes)]
                if records := [record for payload in found for record in intake.decode(payload)]:
                    await self._append(intake, records, min(batch.arrived_s for batch in batches))
                    self._note(orphans=has_orphans, refused=has_refused)
            for batch, payload in zip(batches, payloads, strict=True):
                if isinstance(payload, bytes):
                    self._journal.release(batch.position.segment, batch.items)
                else:
                    self._journal.give_up(batch.position, batch.items)
                self.queue.drop_first()

    @property
    def _is_journal_crowded(self) -> bool:
        return self._journal.service_bytes > self._journal.max_bytes * _CROWDED

    @property
    def _is_scattered(self) -> bool:
        """Whether the groups, one after the other, would hold less of the journal, by so much that it is worth while."""
        sizes = [segment.size for segment in self.queue.segments]
        needed = self.queue.size_bytes + 2 * max(sizes, default=0)  # the first and the last segment are others' too
        return sum(sizes) - needed > self._journal.max_bytes * _WORTH_WHILE

    async def try_again(self) -> None:
        """Let the oldest groups wait for a chunk once more, behind all others, unless these are too many.

        Raises:
            JournalUnavailable: they can't be read now.
        """
        if self._is_crowded():
            return
        batches = self._oldest()
        payloads = await self._journal.read_many([batch.position for batch in batches])
        if self._is_crowded():
            return
        self._tried_s = self._timing.monotonic()
        self._appended_before = self._appended
        again = [replace(batch, ticket=self._tickets.next()) for batch in batches]
        merge_back(self.queue, again, payloads, intakes=self._intakes, journal=self._journal)

    def _oldest(self) -> list[SpilledBatch]:
        """The oldest groups, as many as one could hold, one at least."""
        chosen: list[SpilledBatch] = []
        records = size = 0
        for batch in self.queue.first(_GROUP):
            records += batch.items
            size += batch.position.length
            if chosen and (records > _GROUP or size > SLICE_BYTES):
                break
            chosen.append(batch)
        return chosen

    def _is_crowded(self) -> bool:
        """Whether what is new waits on disk, or fills the memory."""
        return bool(self._spill) or not self._room.is_half_empty

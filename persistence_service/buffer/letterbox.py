"""From refused records to dead letters: bounded in rate, so that a mistake of set-up does not empty the buffer into them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import structlog

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.chunk_writer import CONVINCING
from persistence_service.buffer.dead_letters import Letter, new_letter, write_letters
from persistence_service.buffer.entries import Place, Refused
from persistence_service.buffer.letter_files import LetterFiles
from persistence_service.buffer.slices import slices
from persistence_service.buffer.timing import Timing
from persistence_service.errors import DataRejected, StorageUnavailable, UnclassifiedStorageError
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.times import from_micros
from persistence_service.observability.logging import OncePer
from persistence_service.observability.metrics import Metrics
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SETTLED_LETTERS
from persistence_service.storage.conflicts import repeating_conflicts

_log = structlog.get_logger(__name__)
_WINDOW_S: Final = 60.0
_AT_ONCE: Final = 200
_COMPRESSED_AT_ONCE: Final = 64 * 1024
"""Bytes of records that are compressed in the event loop without anybody noticing."""
_TOLD_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Due:
    """A refused record that is to be a dead letter."""

    buffer: RecordBuffer[Any]
    refused: Refused[Any]

    def letter(self, now: datetime) -> Letter:
        refused = self.refused
        return new_letter(
            self.buffer.collection,
            refused.entry.record,
            reason=refused.reason,
            detail=refused.detail,
            number=refused.number,
            column=refused.column,
            now=now,
        )


@dataclass(frozen=True, slots=True)
class _Outgoing:
    due: _Due
    letter: Letter


@dataclass(slots=True)
class _Attempt:
    """How far a delivery has come: letters stored in the backend, and those it refused, before any was, for unknown reasons."""

    stored: int = 0
    suspects: list[tuple[_Outgoing, UnclassifiedStorageError]] = field(default_factory=list)


class Letterbox:
    """Makes dead letters of what the buffers refused: at most `max_per_minute` that the database did not take.

    Orphans and conflicts are not counted. Over the rate it stops, alarms, and leaves the rest where it is. `total` counts
    the dead letters it made. One that the backend refuses for a reason of an unknown number becomes a file only if others
    were stored meanwhile; else that is a matter of set-up.
    """

    def __init__(
        self,
        *,
        buffers: Sequence[RecordBuffer[Any]],
        backend: StorageBackend,
        files: LetterFiles,
        max_per_minute: int,
        timing: Timing,
        metrics: Metrics,
    ) -> None:
        self._buffers = buffers
        self._backend = backend
        self._files = files
        self._max_per_minute = max_per_minute
        self._timing = timing
        self._metrics = metrics
        self._made: deque[float] = deque()
        self._told = OncePer(_TOLD_EVERY_S, timing.monotonic)
        self.is_stopped = False
        self.total = 0
        self._backwards = False

    async def deliver(self) -> None:
        """Make dead letters as far as the rate allows.

        Raises:
            StorageUnavailable, StorageSetupError, UnclassifiedStorageError: letters can't be kept now; the records whose
                letters are not kept stay where they are.
        """
        attempt = _Attempt()
        try:
            for some in slices(self._choose(), lambda due: due.refused.entry.size, max_items=_AT_ONCE):
                await self._keep(await self._unsettled(await self._written_out(some)), attempt)
            if attempt.suspects and not attempt.stored:
                raise attempt.suspects[0][1]
        except UnclassifiedStorageError:
            self._backwards = not self._backwards  # many that fail at one end don't hide good ones at the other
            raise
        for outgoing, _ in attempt.suspects:
            await self._keep_in_file(outgoing)

    def allowance(self) -> int:
        """How many more of the counted ones may be made within this minute."""
        now = self._timing.monotonic()
        while self._made and self._made[0] <= now - _WINDOW_S:
            self._made.popleft()
        return max(0, self._max_per_minute - len(self._made))

    def _choose(self) -> list[_Due]:
        for buffer in self._buffers:
            buffer.drop_deleted_refused()
        due = [_Due(buffer, refused) for buffer in self._buffers for refused in buffer.all_refused()]
        counted = [each for each in due if each.refused.reason is DeadLetterReason.DATA_REJECTED]
        others = [each for each in due if each.refused.reason is not DeadLetterReason.DATA_REJECTED]
        allowance = self.allowance()
        self._note_rate(is_over=len(counted) > allowance)
        chosen = others + counted[:allowance]
        return chosen[::-1] if self._backwards else chosen

    def _note_rate(self, *, is_over: bool) -> None:
        if is_over and not self.is_stopped:
            self.is_stopped = True
            _log.error(
                "dead_letters.stopped",
                max_per_minute=self._max_per_minute,
                now="what the database refuses waits in the journal and is tried again slowly; look for one cause of all",
            )

    def resume(self) -> None:
        """Nothing that it stopped at is left anywhere."""
        if self.is_stopped:
            self.is_stopped = False
            _log.info("dead_letters.resumed")

    async def _written_out(self, some: Sequence[_Due]) -> list[_Outgoing]:
        now = from_micros(self._timing.wall_us())

        def write_out() -> list[_Outgoing]:
            return [_Outgoing(due, due.letter(now)) for due in some]

        if sum(due.refused.entry.size for due in some) <= _COMPRESSED_AT_ONCE:
            return write_out()
        return await asyncio.to_thread(write_out)

    async def _unsettled(self, outgoing: Sequence[_Outgoing]) -> list[_Outgoing]:
        """Those that are to become dead letters; what a person has settled before, and came once more, is let go of."""
        ids = [each.letter.letter.letter_id for each in outgoing]
        settled = {letter.letter_id for letter in await self._backend.read(SETTLED_LETTERS, ids)}
        for each in outgoing:
            if each.letter.letter.letter_id in settled:
                each.due.buffer.let_go(each.due.refused, Place.DEAD_LETTER)
        return [each for each in outgoing if each.letter.letter.letter_id not in settled]

    async def _keep(self, outgoing: Sequence[_Outgoing], attempt: _Attempt) -> None:
        """Keep them in the backend, or alone in a file what it can't hold; halved until that is alone."""
        if not outgoing:
            return
        try:
            await repeating_conflicts(lambda: self._store(outgoing))
        except (DataRejected, UnclassifiedStorageError) as exc:
            if len(outgoing) > 1:
                middle = len(outgoing) // 2
                await self._keep(outgoing[:middle], attempt)
                await self._keep(outgoing[middle:], attempt)
            elif isinstance(exc, DataRejected) or attempt.stored:
                await self._keep_in_file(outgoing[0])
            else:
                attempt.suspects.append((outgoing[0], exc))
                if len(attempt.suspects) >= CONVINCING:
                    raise
            return
        attempt.stored += len(outgoing)
        for each in outgoing:
            self._bury(each.due)

    async def _store(self, outgoing: Sequence[_Outgoing]) -> None:
        async with self._backend.transaction() as transaction:
            await write_letters(transaction, [each.letter for each in outgoing])

    async def _keep_in_file(self, outgoing: _Outgoing) -> None:
        try:
            await asyncio.to_thread(self._files.write, outgoing.letter)
        except OSError as exc:
            raise StorageUnavailable(f"a dead letter can't be written beside the journal: {exc.strerror}") from exc
        self._bury(outgoing.due)

    def _bury(self, due: _Due) -> None:
        buffer, refused = due.buffer, due.refused
        self.total += 1
        buffer.let_go(refused, Place.DEAD_LETTER)
        if refused.reason is DeadLetterReason.DATA_REJECTED:
            self._made.append(self._timing.monotonic())
        collection, reason = buffer.collection.name, refused.reason.value
        self._metrics.dead_lettered(collection, reason)
        if records := self._told.occurred(f"{collection} {refused.detail}"):
            _log.warning(
                "record.dead_lettered", collection=collection, reason=reason, detail=refused.detail, records=records
            )

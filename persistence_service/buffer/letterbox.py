"""From refused records to dead letters: bounded in rate, so that a mistake of set-up does not empty the buffer into them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from persistence_service.buffer.buffer import Place, RecordBuffer, Refused
from persistence_service.buffer.dead_letters import Letter, new_letter, write_letters
from persistence_service.buffer.letter_files import LetterFiles
from persistence_service.buffer.timing import Timing
from persistence_service.errors import DataRejected, StorageUnavailable, UnclassifiedStorageError
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.times import from_micros
from persistence_service.observability.logging import OncePer
from persistence_service.observability.metrics import Metrics
from persistence_service.storage.backend import StorageBackend

_log = structlog.get_logger(__name__)
_WINDOW_S: Final = 60.0
_AT_ONCE: Final = 200
_TOLD_EVERY_S: Final = 10.0


class Letterbox:
    """Makes dead letters of what the buffers refused: at most `max_per_minute` that the database did not take.

    Orphans and conflicts are not counted. Over the rate it stops, alarms, and leaves the rest where it is. `total` counts
    the dead letters it made, and `on_letters` is told of them.
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
        self.on_letters: Callable[[], None] = lambda: None

    async def deliver(self) -> int:
        """Make dead letters as far as the rate allows; returns how many.

        Raises:
            StorageUnavailable, StorageSetupError: the letters can't be kept now; the records stay where they are.
        """
        delivered = 0
        self._note_rate()
        for buffer in self._buffers:
            chosen = self._choose(buffer)
            for start in range(0, len(chosen), _AT_ONCE):
                some = chosen[start : start + _AT_ONCE]
                now = from_micros(self._timing.wall_us())
                letters = [
                    new_letter(
                        buffer.collection,
                        refused.entry.record,
                        reason=refused.reason,
                        detail=refused.detail,
                        number=refused.number,
                        column=refused.column,
                        now=now,
                    )
                    for refused in some
                ]
                await self._keep(letters)
                for refused in some:
                    self._bury(buffer, refused)
                delivered += len(some)
        if delivered:
            self.total += delivered
            self.on_letters()
        return delivered

    def allowance(self) -> int:
        """How many more of the counted ones may be made within this minute."""
        now = self._timing.monotonic()
        while self._made and self._made[0] <= now - _WINDOW_S:
            self._made.popleft()
        return max(0, self._max_per_minute - len(self._made))

    def _choose(self, buffer: RecordBuffer[Any]) -> list[Refused[Any]]:
        refused = buffer.all_refused()
        counted = [each for each in refused if each.reason is DeadLetterReason.DATA_REJECTED]
        others = [each for each in refused if each.reason is not DeadLetterReason.DATA_REJECTED]
        return others + counted[: self.allowance()]

    def _note_rate(self) -> None:
        refused = [each for buffer in self._buffers for each in buffer.all_refused()]
        over = sum(each.reason is DeadLetterReason.DATA_REJECTED for each in refused) > self.allowance()
        if over and not self.is_stopped:
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

    async def _keep(self, letters: Sequence[Letter]) -> None:
        try:
            async with self._backend.transaction() as transaction:
                await write_letters(transaction, letters)
        except (DataRejected, UnclassifiedStorageError):
            if len(letters) == 1:
                await self._keep_in_file(letters[0])
                return
            for letter in letters:
                await self._keep([letter])

    async def _keep_in_file(self, letter: Letter) -> None:
        try:
            await asyncio.to_thread(self._files.write, letter)
        except OSError as exc:
            raise StorageUnavailable(f"a dead letter can't be written beside the journal: {exc.strerror}") from exc

    def _bury(self, buffer: RecordBuffer[Any], refused: Refused[Any]) -> None:
        buffer.let_go(refused, Place.DEAD_LETTER)
        if refused.reason is DeadLetterReason.DATA_REJECTED:
            self._made.append(self._timing.monotonic())
        collection, reason = buffer.collection.name, refused.reason.value
        self._metrics.dead_lettered(collection, reason)
        if records := self._told.occurred(f"{collection} {refused.detail}"):
            _log.warning(
                "record.dead_lettered", collection=collection, reason=reason, detail=refused.detail, records=records
            )

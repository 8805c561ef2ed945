"""How many dead letters there are and how old the oldest is: counted in the background, and alarmed on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from persistence_service.buffer.letter_files import LetterFiles
from persistence_service.buffer.timing import Timing
from persistence_service.errors import DeadLetterDamaged
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.times import to_micros
from persistence_service.storage.backend import Reader
from persistence_service.storage.collections import DEAD_LETTERS
from persistence_service.storage.query import COUNT, Query, Sort

_log = structlog.get_logger(__name__)

DAMAGED: Final = "damaged"
"""The reason under which files are counted that can't be read."""
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class _InFile:
    """A letter in a file, as it was when it was first seen; `since` is None if it can't be read."""

    reason: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class _Counted:
    by_reason: Mapping[str, int] = field(default_factory=dict)
    oldest: datetime | None = None


class LetterCensus:
    """The dead letters of the database and of the files beside the journal, as they were when `take` last counted them.

    Everything but `take` asks nobody. One that lies in both places, after a crash, is counted twice.
    """

    def __init__(self, *, backend: Reader, files: LetterFiles, timing: Timing, alarm_age_s: float) -> None:
        """From `alarm_age_s` on the oldest letter is alarmed on; 0 is never."""
        self._backend = backend
        self._files = files
        self._timing = timing
        self._alarm_age_s = alarm_age_s
        self._in_files: dict[str, _InFile] = {}
        self._counted = _Counted()
        self._is_told = False

    async def take(self) -> float:
        """Count; returns the seconds for which the backend was at work. A file is read once, however often it is counted.

        Raises:
            Unavailable, StorageError: the backend did not answer; the figures stay as they were.
        """
        begun = self._timing.monotonic()
        groups = await self._backend.aggregate(DEAD_LETTERS, group_by=("reason",), measure=(COUNT,))
        rows = await self._backend.select(DEAD_LETTERS, ("created_at",), Query(order=(Sort("created_at"),), limit=1))
        busy_s = self._timing.monotonic() - begun
        self._in_files = await asyncio.to_thread(self._look_at_files, self._in_files)
        by_reason = Counter({group.keys[0]: group.figures[0] for group in groups})
        by_reason.update(each.reason for each in self._in_files.values())
        since = [row[0] for row in rows] + [each.since for each in self._in_files.values() if each.since]
        self._counted = _Counted(by_reason, min(since, default=None))
        self._tell()
        return busy_s

    def by_reason(self) -> dict[str, int]:
        """How many there are of each reason, 0 included."""
        found = self._counted.by_reason
        return {reason: found.get(reason, 0) for reason in (*DeadLetterReason, DAMAGED)}

    def oldest_age_s(self) -> float:
        """Since the oldest became one, 0 when there is none."""
        oldest = self._counted.oldest
        return 0.0 if oldest is None else max(0.0, (self._timing.wall_us() - to_micros(oldest)) / 1_000_000)

    def alarm(self) -> str:
        """What a person has to do, since one waits for too long; empty if none does."""
        age_s = self.oldest_age_s()
        if not self._alarm_age_s or age_s < self._alarm_age_s:
            return ""
        total = sum(self._counted.by_reason.values())
        return (
            f"dead letters wait for a person: {total}, the oldest for {age_s / _HOUR_S:.1f} h (buffer.dead_letter_alarm); look at "
            "GET /dead-letters, mend the cause, then replay or discard them"
        )

    def _tell(self) -> None:
        alarm = self.alarm()
        if alarm and not self._is_told:
            _log.warning("dead_letters.old", detail=alarm, **self.by_reason())
        elif self._is_told and not alarm:
            _log.info("dead_letters.dealt_with", **self.by_reason())
        self._is_told = bool(alarm)

    def _look_at_files(self, known: Mapping[str, _InFile]) -> dict[str, _InFile]:
        found = {letter_id: known.get(letter_id) or self._read(letter_id) for letter_id in self._files.ids()}
        return {letter_id: each for letter_id, each in found.items() if each is not None}

    def _read(self, letter_id: str) -> _InFile | None:
        try:
            found = self._files.read(letter_id)
        except DeadLetterDamaged:
            return _InFile(DAMAGED, None)
        return None if found is None else _InFile(found.letter.reason, found.letter.created_at)

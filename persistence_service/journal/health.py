"""How the writer is doing, and when it tries again after a failure."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import Final

import structlog

from persistence_service.errors import JournalFull, JournalUnavailable, Unavailable
from persistence_service.observability.logging import OncePer

log = structlog.get_logger(__name__)

_LEAST_BYTES: Final = 64 * 1024
_TOLD_EVERY_S: Final = 60.0
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True)
class WriterState:
    """Counters and conditions; changed by the writing thread, read by anyone."""

    appended_records: int = 0
    appended_bytes: int = 0
    groups: int = 0
    fsyncs: int = 0
    fsync_seconds_total: float = 0.0
    failing: str | None = None
    full: bool = False
    volume_room: int | None = None
    """Bytes that may be written before the volume has less than the free room to be left on it."""


def is_no_room(error: OSError) -> bool:
    return error.errno in _NO_ROOM


def full_error() -> JournalFull:
    return JournalFull(
        "the journal's volume is full, or has less free room than journal.min_free; free some, or wait until records are stored"
    )


class WriterHealth:
    """Notes failures, logs their beginning and end once, and paces attempts between a first and a longest pause."""

    def __init__(self, state: WriterState, *, min_free: int, retry_s: tuple[float, float]) -> None:
        self._state = state
        self._min_free = min_free
        self._first_pause_s, self._longest_pause_s = retry_s
        self._pause_s = self._first_pause_s
        self.retry_at = 0.0
        self.rotation_fails = False
        self.wanted_bytes = _LEAST_BYTES
        self._told = OncePer(_TOLD_EVERY_S)

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self.retry_at

    @property
    def is_in_trouble(self) -> bool:
        return self._state.full or self._state.failing is not None

    def failed(self, error: OSError) -> None:
        if self._state.failing is None:
            log.error("journal_failing", error=str(error))
        self._state.failing = errno.errorcode.get(error.errno or 0, "OSError")

    def works(self) -> None:
        """The disk did what it was asked to; pauses stay as they are until a record has been accepted too."""
        if self._state.failing is not None and not self.rotation_fails:
            log.info("journal_recovered")
            self._state.failing = None

    def accepted(self) -> None:
        self.works()
        if not self.rotation_fails:
            self._pause_s = self._first_pause_s

    def rotation_failed(self, error: OSError) -> None:
        """The old segment goes on; what it accepts is no sign that a new one can be made."""
        self.rotation_fails = True
        self.failed(error)
        self.postpone()

    def began_segment(self) -> None:
        self.rotation_fails = False
        self.works()

    def postpone(self) -> None:
        """The next attempt comes after a pause, and the pause after that is longer; one that is set already stays."""
        if not self.is_due:
            return
        self.retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, self._longest_pause_s)

    def abandoned(self) -> None:
        """A segment failed: the first time the next attempt is made at once, then with pauses."""
        is_first = self._pause_s <= self._first_pause_s
        self.postpone()
        if is_first:
            self.retry_at = 0.0

    def room_for(self, size: int, free: int) -> bool:
        """Whether `size` bytes leave `min_free` of the `free` bytes; what was refused is `wanted_bytes` of room from then on."""
        fits = free - size >= self._min_free
        self._state.volume_room = max(0, free - self._min_free - (size if fits else 0))
        if not fits:
            self.wanted_bytes = max(_LEAST_BYTES, size)
        if fits == self._state.full:
            self._state.full = not fits
            event = "journal_has_room_again" if fits else "journal_full"
            if times := self._told.occurred(event):
                log.warning(event, min_free=self._min_free, free=free, times=times)
        return fits

    def error(self) -> Unavailable:
        """What a request is told that cannot be written now."""
        if self._state.failing in {errno.errorcode[number] for number in _NO_ROOM}:
            return full_error()
        return JournalUnavailable("the journal cannot be written; the disk of its directory fails")

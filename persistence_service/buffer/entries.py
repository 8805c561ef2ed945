"""What a buffer holds: entries, where they may be instead, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from persistence_service.journal.segment import Segment
from persistence_service.models.dead_letter import DeadLetterReason

R = TypeVar("R", bound=msgspec.Struct)


class Tickets:
    """Numbers arrivals, over all buffers of a service."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """One more than the last."""
        self.last += 1
        return self.last


class UnstoredReason(StrEnum):
    """Why a record that is safe in the journal is not in the backend yet."""

    STORAGE_UNAVAILABLE = "storage_unavailable"
    UNKNOWN_SESSION = "unknown_session"


class Place(StrEnum):
    """Where a record that is not stored is: it waits, it is among the dead letters, or it was deleted before it came."""

    WAITING = "waiting"
    DEAD_LETTER = "dead_letter"
    DROPPED = "dropped"


SESSION_DELETED = "session_deleted"
"""Why a record is dropped."""


@dataclass(slots=True)
class Entry(Generic[R]):
    """One key's merged record, and what it stands for.

    `ticket` numbers its first arrival, `arrived_s` is the monotonic time of it; `size` is in bytes of the journal's form;
    `holds` are items per journal segment; `watched` are the tickets of batches in it whose senders wait for storage.
    """

    record: R
    ticket: int
    arrived_s: float
    size: int
    holds: tuple[tuple[Segment, int], ...]
    watched: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused(Generic[R]):
    """An entry that can't be stored, with our words for it and the database's error number and column, if it told any."""

    entry: Entry[R]
    reason: DeadLetterReason
    detail: str
    number: int | None = None
    column: str | None = None

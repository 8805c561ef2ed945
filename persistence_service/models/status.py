"""The states of sessions and tasks."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """State of a session or a task, declared in ascending rank: the rank breaks ties of event time."""

    PENDING = "pending"
    PROCESSING = "processing"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"

    @property
    def rank(self) -> int:
        """Place in the order pending < processing < failed < cancelled < completed, from 0."""
        return RANK[self]


RANK: dict[str, int] = {status: rank for rank, status in enumerate(Status)}
UNFINISHED: tuple[Status, ...] = (Status.PENDING, Status.PROCESSING)

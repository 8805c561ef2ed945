"""What was acknowledged and is in no answer, so that no answer is taken for the whole truth."""

from __future__ import annotations

from persistence_service.buffer.manager import BufferManager
from persistence_service.journal.journal import Journal


def what_is_missing(buffer: BufferManager, journal: Journal) -> list[str]:
    """In words, what this service has acknowledged and can't show; empty if there is nothing."""
    missing = []
    unreadable = buffer.stats().unreadable
    if unreadable:
        missing.append(
            f"journaled batches that only another version can read: {unreadable}; start the one that wrote them"
        )
    lost = journal.stats().lost_ranges
    if lost:
        missing.append(f"damaged ranges of the journal, lost: {lost}; /health and the log tell which")
    return missing

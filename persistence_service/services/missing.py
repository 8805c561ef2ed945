"""What was acknowledged and is in no answer, so that no answer is taken for the whole truth."""

from __future__ import annotations

from persistence_service.buffer.manager import BufferManager
from persistence_service.journal.journal import Journal

_NAMED = 3


def what_is_missing(buffer: BufferManager, journal: Journal) -> list[str]:
    """In words, what this worker has acknowledged and can't show; empty if there is nothing."""
    missing = []
    buffered = buffer.stats()
    if buffered.replay_failing:
        missing.append(
            "the rest of the last run's journal, which can't be read now and is tried again: look at its disk"
        )
    if buffered.unreadable:
        missing.append(
            f"journaled batches that only another version can read: {buffered.unreadable}; start the one that wrote them"
        )
    stats = journal.stats()
    if stats.lost_ranges:
        ranges = "; ".join(map(str, stats.losses[:_NAMED]))
        missing.append(f"damaged ranges of the journal, lost: {stats.lost_ranges} ({ranges})")
    if stats.quarantined_files:
        missing.append(
            f"what earlier runs found damaged in the journal: {stats.quarantined_files} files in its quarantine; remove them "
            "when they are dealt with, and restart"
        )
    return missing

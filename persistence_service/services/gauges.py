"""What the metrics show of the parts of a worker, read when they are scraped."""

from __future__ import annotations

from math import inf

from persistence_service.buffer.manager import BufferManager
from persistence_service.journal.journal import Journal
from persistence_service.observability.metrics import Metrics
from persistence_service.services.letter_census import LetterCensus


def watch_buffer(metrics: Metrics, buffer: BufferManager) -> None:
    """Show what waits in the buffer."""
    metrics.watch_buffer("sessions", lambda: buffer.stats().sessions_count)
    metrics.watch_buffer("tasks", lambda: buffer.stats().tasks_count)
    metrics.watch("buffer_bytes", "Bytes of records in memory", lambda: buffer.stats().size_bytes)
    metrics.watch("spilled_records", "Records that wait in the journal alone", lambda: buffer.stats().spilled_records)
    metrics.watch("orphans", "Tasks that wait for their session", lambda: buffer.stats().waiting_for_session)
    metrics.watch("set_aside", "Refused records beyond the dead-letter rate", lambda: buffer.stats().set_aside)
    metrics.watch(
        "dead_lettering_stopped",
        "1 while refused records wait in the journal instead of becoming dead letters",
        lambda: buffer.stats().dead_lettering_stopped,
    )
    metrics.watch("oldest_unstored_seconds", "Age of the oldest unstored record", buffer.oldest_unstored_age_s)
    metrics.watch(
        "journal_full_in_seconds",
        "Until the journal has no room, if it fills like lately; +Inf while it does not fill",
        lambda: inf if (left_s := buffer.seconds_until_journal_full()) is None else left_s,
    )
    metrics.watch_total("records_merged", "Records merged away in the buffer", lambda: buffer.stats().merged)
    metrics.watch_total(
        "batches_unmerged", "Journaled batches that a mistake kept out", lambda: buffer.stats().unmerged
    )


def watch_journal(metrics: Metrics, journal: Journal) -> None:
    """Show how the journal is."""
    metrics.watch("journal_bytes", "Bytes of the journal's segments", lambda: journal.stats().bytes)
    metrics.watch("journal_segments", "Segments of the journal", lambda: journal.stats().segments)
    metrics.watch("journal_unstored_items", "Journaled records not yet stored", lambda: journal.stats().unstored_items)
    metrics.watch("journal_full", "1 while the journal has no room", lambda: journal.stats().full)
    metrics.watch(
        "journal_failing", "1 while the journal can't be written", lambda: journal.stats().failing is not None
    )
    metrics.watch_total("journal_losses", "Ranges that could not be read", lambda: journal.stats().lost_ranges)
    metrics.watch_total("journal_fsyncs", "Fsyncs of the journal", lambda: journal.stats().fsyncs)
    metrics.watch_total("journal_fsync_seconds", "Time they took", lambda: journal.stats().fsync_seconds_total)


def watch_letters(metrics: Metrics, letters: LetterCensus) -> None:
    """Show what waits for a person."""
    metrics.watch_by("dead_letters_waiting", "Dead letters that wait for a person", "reason", letters.by_reason)
    metrics.watch("oldest_dead_letter_seconds", "Age of the oldest dead letter", letters.oldest_age_s)

"""Health: whether batches are kept, whether the database is there, and what waits for a person."""

from __future__ import annotations

from collections.abc import Callable

from persistence_service import __version__
from persistence_service.buffer.manager import BufferManager
from persistence_service.journal.journal import Journal
from persistence_service.models.answers import BufferView, Health, JournalView
from persistence_service.services.letter_census import LetterCensus
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.opening import BackendOpener

_DEAD_LETTERING_STOPPED = "refused records wait in the journal, more than buffer.max_dead_letter_rate or while no dead letter can be written: look for one cause of all"


class HealthService:
    """Answers the health endpoints. `opener` is what opens `backend`."""

    def __init__(
        self,
        *,
        buffer: BufferManager,
        journal: Journal,
        backend: StorageBackend,
        opener: BackendOpener,
        letters: LetterCensus,
        missing: Callable[[], list[str]],
        is_inheriting: Callable[[], bool] = lambda: False,
    ) -> None:
        """`missing` says in words what this worker has acknowledged and can't show.

        `is_inheriting`: whether it takes over a former worker's journal.
        """
        self._is_inheriting = is_inheriting
        self._missing = missing
        self._letters = letters
        self._buffer = buffer
        self._journal = journal
        self._backend = backend
        self._opener = opener

    def is_ready(self) -> bool:
        """Whether a batch sent now can be accepted and kept. Asks nobody."""
        journal = self._journal.stats()
        return self._buffer.accepting and journal.failing is None and not journal.full

    async def report(self) -> Health:
        """Everything about the service's health; asks the database, in bounded time."""
        database = await self._backend.health_check()
        failure = self._buffer.storage_failure
        is_stored = database.healthy and failure is None and not self._opener.problem
        missing = self._missing()
        journal = self._journal.stats()
        if journal.failing is not None:
            missing.insert(0, f"the journal can't be written ({journal.failing})")
        elif journal.full:
            missing.insert(
                0, "the journal is full: batches are refused until records are stored or its volume has room"
            )
        alarms = [_DEAD_LETTERING_STOPPED] if self._buffer.stats().dead_lettering_stopped else []
        alarms += filter(None, [self._letters.alarm()])
        status = "unhealthy"
        if self.is_ready():
            status = "healthy" if is_stored and not missing and not alarms else "degraded"
        storage = self._opener.problem or database.detail or (str(failure) if failure else "")
        return Health(
            status=status,
            database="healthy" if is_stored else "unhealthy",
            detail="; ".join(filter(None, (storage, *missing, *alarms))),
            buffer=buffer_view(self._buffer, is_inheriting=self._is_inheriting()),
            journal=self.journal_view(),
            version=__version__,
        )

    def journal_view(self) -> JournalView:
        """The journal's figures as they are answered."""
        stats = self._journal.stats()
        return JournalView(
            bytes=stats.bytes,
            segments=stats.segments,
            unstored_items=stats.unstored_items,
            losses=[str(loss) for loss in stats.losses],
            failing=stats.failing,
        )


def buffer_view(buffer: BufferManager, *, is_inheriting: bool = False) -> BufferView:
    """The buffer's figures as they are answered; what is inherited is replayed, too."""
    stats = buffer.stats()
    return BufferView(
        sessions_count=stats.sessions_count,
        tasks_count=stats.tasks_count,
        total_count=stats.total_count,
        capacity=stats.capacity,
        usage_percent=stats.usage_percent,
        size_bytes=stats.size_bytes,
        last_flush_time=stats.last_flush_time,
        spilled_records=stats.spilled_records,
        waiting_for_session=stats.waiting_for_session,
        set_aside=stats.set_aside,
        oldest_unstored_age_s=round(buffer.oldest_unstored_age_s(), 3),
        replaying=stats.replaying or is_inheriting,
    )

"""Statistics: the database's figures, counted in the background, and the buffer's and the process's of the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import structlog
from msgspec import structs

from persistence_service.buffer.manager import BufferManager
from persistence_service.buffer.timing import Timing
from persistence_service.errors import PersistenceError
from persistence_service.journal.journal import Journal
from persistence_service.models.statistics_answers import (
    BufferFigures,
    CollectionFigures,
    CountsByStatus,
    ProcessInfo,
    SessionFigures,
    SizeFigures,
    Statistics,
    StorageFigures,
    TaskFigures,
)
from persistence_service.models.status import Status
from persistence_service.models.times import from_micros
from persistence_service.observability.logging import OncePer
from persistence_service.observability.process import process_figures
from persistence_service.services.census import Average, Census, CensusTaker
from persistence_service.services.health import buffer_view
from persistence_service.services.letter_census import LetterCensus
from persistence_service.storage.backend import BackendHealth, StorageBackend
from persistence_service.storage.powers import SizeReporter, Sizes

_log = structlog.get_logger(__name__)

_REST_A_BUSY_SECOND = 19.0  # so that the backend is at work for statistics a twentieth of the time at most
_REPEATED_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class _Counted:
    as_of: datetime
    census: Census
    health: BackendHealth
    sizes: Sizes | None


class StatsService:
    """Answers `GET /stats`. `run` must be at work in a task of its own; a request never asks the backend anything."""

    def __init__(
        self,
        *,
        backend: StorageBackend,
        buffer: BufferManager,
        journal: Journal,
        letters: LetterCensus,
        timing: Timing,
        refresh_interval_s: float,
        is_inheriting: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_inheriting`: whether this worker takes over a former one's journal."""
        self._is_inheriting = is_inheriting
        self._backend = backend
        self._letters = letters
        self._buffer = buffer
        self._journal = journal
        self._timing = timing
        self._refresh_interval_s = refresh_interval_s
        self._started_s = timing.monotonic()
        self._counted: _Counted | None = None
        self._never = asyncio.Event()
        self._told = OncePer(_REPEATED_EVERY_S, timing.monotonic)
        self._failing: set[str] = set()

    async def run(self) -> None:
        """Count again and again until it is cancelled; while that fails, the figures that there are stay.

        The pause is `refresh_interval_s`, and longer where counting takes long.
        """
        while True:
            busy_s = await self._try_to_count()
            await self._timing.wait(self._never, max(self._refresh_interval_s, _REST_A_BUSY_SECOND * busy_s))

    def report(self) -> Statistics:
        """The figures as they are known now; asks nobody."""
        counted = self._counted
        return Statistics(
            sessions=None if counted is None else _session_figures(counted.census),
            tasks=None if counted is None else _task_figures(counted.census),
            storage=StorageFigures(
                backend=self._backend.name,
                engine=None if counted is None else counted.health.engine,
                version=None if counted is None else counted.health.version,
                sizes=None if counted is None or counted.sizes is None else _size_figures(counted.sizes),
            ),
            buffer=self._buffer_figures(),
            process=ProcessInfo(
                uptime_s=round(self._timing.monotonic() - self._started_s, 3), **asdict(process_figures())
            ),
            as_of=None if counted is None else counted.as_of,
        )

    async def _try_to_count(self) -> float:
        """Count once; returns how long the backend was at work for it."""
        taker = CensusTaker(self._backend, self._timing)
        busy_s = 0.0
        try:
            busy_s = await self._letters.take()
            self._counted = await self._count(taker)
        except Exception as exc:  # noqa: BLE001  # the supervision point of counting: it must not end, and nothing waits for it
            self._note_failure(exc)
        else:
            failed = sum(self._told.ended(kind) for kind in self._failing)
            self._failing.clear()
            if failed:
                _log.info("stats.counted_again", failures=failed)
        return busy_s + taker.busy_s

    async def _count(self, taker: CensusTaker) -> _Counted:
        as_of = from_micros(self._timing.wall_us())
        census = await taker.take()
        sizes = await self._backend.sizes() if isinstance(self._backend, SizeReporter) else None
        return _Counted(as_of, census, await self._backend.health_check(), sizes)

    def _note_failure(self, error: Exception) -> None:
        kind = type(error).__name__
        self._failing.add(kind)
        if failures := self._told.occurred(kind):
            expected = isinstance(error, PersistenceError)
            _log.warning(
                "stats.not_counted",
                error=kind,
                detail=str(error) if expected else "a mistake of ours",
                failures=failures,
                now="the figures of the last count stay",
                exc_info=None if expected else error,
            )

    def _buffer_figures(self) -> BufferFigures:
        full_in_s = self._buffer.seconds_until_journal_full()
        return BufferFigures(
            **structs.asdict(buffer_view(self._buffer, is_inheriting=self._is_inheriting())),
            spilled_bytes=self._buffer.stats().spilled_bytes,
            journal_bytes=self._journal.stats().bytes,
            journal_full_in_s=None if full_in_s is None else round(full_in_s, 1),
        )


def _session_figures(census: Census) -> SessionFigures:
    return SessionFigures(total=census.sessions.total(), by_status=_by_status(census.sessions))


def _task_figures(census: Census) -> TaskFigures:
    return TaskFigures(
        total=census.tasks.total(),
        by_status=_by_status(census.tasks),
        average_duration_ms=_rounded(census.duration_ms, 3),
        duration_count=census.duration_ms.count,
        average_confidence=_rounded(census.confidence, 6),
        confidence_count=census.confidence.count,
    )


def _by_status(counts: Mapping[Status, int]) -> CountsByStatus:
    return CountsByStatus(**{status.value: counts[status] for status in Status})


def _rounded(average: Average, digits: int) -> float | None:
    return None if average.mean is None else round(average.mean, digits)


def _size_figures(sizes: Sizes) -> SizeFigures:
    return SizeFigures(
        total_bytes=sizes.total_bytes,
        log_bytes=sizes.log_bytes,
        free_bytes=sizes.free_bytes,
        collections={name: CollectionFigures(size.rows, size.bytes) for name, size in sizes.collections.items()},
    )

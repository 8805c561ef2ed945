"""What a service of several workers tells of itself, whichever of them is asked; of one worker, what it tells itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from persistence_service.fleet.control import Answers
from persistence_service.fleet.messages import (
    Family,
    ListMissing,
    ReportHealth,
    ReportStatistics,
    Scrape,
    WorkerHealth,
)
from persistence_service.fleet.scraping import families_of, joint_text
from persistence_service.fleet.siblings import Siblings, named
from persistence_service.models.answers import Health
from persistence_service.models.statistics_answers import Statistics
from persistence_service.observability.metrics import Metrics
from persistence_service.services.health import HealthService
from persistence_service.services.joint_health import joint_health
from persistence_service.services.joint_statistics import joint_statistics, latest_count
from persistence_service.services.stats import StatsService

_PATIENCE_S: Final = 2.0
_RECOVERY_PATIENCE_S: Final = 10.0


class JointReports:
    """Puts the reports of all workers together; those that can't be asked are named in them, and not waited for.

    `missing` says what this worker has acknowledged and can't show.
    """

    def __init__(
        self,
        siblings: Siblings,
        *,
        health: HealthService,
        stats: StatsService,
        metrics: Metrics,
        missing: Callable[[], list[str]],
    ) -> None:
        self._worker = siblings.of
        self._siblings = siblings
        self._health = health
        self._stats = stats
        self._metrics = metrics
        self._missing = missing
        self._last: Statistics | None = None
        self._is_stopping = False

    async def health(self) -> Health:
        """Everything about the service's health; asks the database, in bounded time."""
        own = await self._health.report()
        if self._worker is None:
            return own
        theirs = await self._siblings.ask_present(ReportHealth(), patience_s=_PATIENCE_S)
        every = {**theirs, self._worker.slot: WorkerHealth(own, self._is_stopping)}
        return joint_health(every, self._worker.workers)

    async def statistics(self) -> Statistics:
        """The figures as they are known now."""
        own = self._own_statistics()
        if self._worker is None:
            return own
        theirs = await self._siblings.ask_present(ReportStatistics(), patience_s=_PATIENCE_S)
        self._last = joint_statistics({**theirs, self._worker.slot: own}, self._worker.workers)
        return self._last

    async def metrics(self) -> bytes:
        """Everything in Prometheus' text format, version 0.0.4."""
        if self._worker is None:
            return self._metrics.render()
        theirs = await self._siblings.ask_present(Scrape(), patience_s=_PATIENCE_S)
        return joint_text({**theirs, self._worker.slot: families_of(self._metrics)}, self._worker.workers)

    async def missing(self) -> list[str]:
        """In words, what the service has acknowledged and can't show; empty if there is nothing.

        Raises:
            Replaying: a worker can't be asked.
        """
        theirs = await self._siblings.ask_all(ListMissing(), patience_s=_RECOVERY_PATIENCE_S)
        return self._missing() + [named(slot, words) for slot, all_ in theirs.items() for words in all_]

    def begin_shutdown(self) -> None:
        """From now on this worker takes no batches since it ends, which is no illness."""
        self._is_stopping = True

    def _own_statistics(self) -> Statistics:
        """The worker's own; with the last count of the database that it knows of, whoever counted."""
        own = self._stats.report()
        if self._last is None:
            return own
        latest = latest_count((own, self._last))
        return replace(own, sessions=latest.sessions, tasks=latest.tasks, storage=latest.storage, as_of=latest.as_of)

    def answers(self) -> Answers:
        """What this worker says to its siblings of itself."""
        return {
            ListMissing: self._say_missing,
            ReportHealth: self._say_health,
            ReportStatistics: self._say_statistics,
            Scrape: self._say_metrics,
        }

    async def _say_missing(self, _: ListMissing) -> list[str]:
        return self._missing()

    async def _say_health(self, _: ReportHealth) -> WorkerHealth:
        return WorkerHealth(await self._health.report(), self._is_stopping)

    async def _say_statistics(self, _: ReportStatistics) -> Statistics:
        return self._own_statistics()

    async def _say_metrics(self, _: Scrape) -> list[Family]:
        return families_of(self._metrics)

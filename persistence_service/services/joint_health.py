"""The health of several workers as one: the worst of all, with who says what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from persistence_service.fleet.messages import WorkerHealth
from persistence_service.fleet.siblings import named
from persistence_service.models.answers import BufferView, Health, JournalView

_HEALTHY: Final = "healthy"
_DEGRADED: Final = "degraded"
_FROM_BAD_TO_GOOD: Final = ("unhealthy", _DEGRADED, _HEALTHY)
_STOPPING: Final = "is stopping; the others go on"
_MISSING: Final = "can't be asked: it is starting, or has ended; what it has accepted is in its journal"


def joint_health(reports: Mapping[int, WorkerHealth], workers: int) -> Health:
    """One of all; those of `workers` that say nothing degrade it. `reports` has one at least, by slot."""
    told = dict(sorted(reports.items()))
    missing = [slot for slot in range(workers) if slot not in told]
    statuses = [_status(report) for report in told.values()] + [_DEGRADED for _ in missing]
    healths = [report.health for report in told.values()]
    details = [named(slot, detail) for slot, report in told.items() if (detail := _detail(report))]
    details += [named(slot, _MISSING) for slot in missing]
    return Health(
        status=min(statuses, key=_FROM_BAD_TO_GOOD.index),
        database=min((health.database for health in healths), key=_FROM_BAD_TO_GOOD.index),
        detail="; ".join(details),
        buffer=joint_buffer([health.buffer for health in healths]),
        journal=_journal({slot: report.health.journal for slot, report in told.items()}),
        version=healths[0].version,
    )


def joint_buffer(views: list[BufferView]) -> BufferView:
    """The sums; the oldest age, the newest flush."""
    capacity = sum(view.capacity for view in views)
    in_memory = sum(view.usage_percent * view.capacity for view in views)
    flushes = [view.last_flush_time for view in views if view.last_flush_time is not None]
    return BufferView(
        sessions_count=sum(view.sessions_count for view in views),
        tasks_count=sum(view.tasks_count for view in views),
        total_count=sum(view.total_count for view in views),
        capacity=capacity,
        usage_percent=round(in_memory / capacity, 2),
        size_bytes=sum(view.size_bytes for view in views),
        last_flush_time=max(flushes, default=None),
        spilled_records=sum(view.spilled_records for view in views),
        waiting_for_session=sum(view.waiting_for_session for view in views),
        set_aside=sum(view.set_aside for view in views),
        oldest_unstored_age_s=max(view.oldest_unstored_age_s for view in views),
        replaying=any(view.replaying for view in views),
    )


def _status(report: WorkerHealth) -> str:
    return _DEGRADED if report.is_stopping else report.health.status


def _detail(report: WorkerHealth) -> str:
    return "; ".join(filter(None, (_STOPPING if report.is_stopping else "", report.health.detail)))


def _journal(views: Mapping[int, JournalView]) -> JournalView:
    first = next(iter(views.values()))
    failing = [named(slot, view.failing) for slot, view in views.items() if view.failing is not None]
    return replace(
        first,
        bytes=sum(view.bytes for view in views.values()),
        segments=sum(view.segments for view in views.values()),
        unstored_items=sum(view.unstored_items for view in views.values()),
        losses=[named(slot, loss) for slot, view in views.items() for loss in view.losses],
        failing="; ".join(failing) or None,
    )

"""The statistics of several workers as one: sums, and the latest count of the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec.structs import asdict, replace

from persistence_service.models.answers import BufferView
from persistence_service.models.statistics_answers import BufferFigures, ProcessInfo, Statistics
from persistence_service.services.joint_health import joint_buffer


def joint_statistics(reports: Mapping[int, Statistics], workers: int) -> Statistics:
    """One of all; `reports` has one at least, by slot. Of the process the first one's id and the longest time are told."""
    told = dict(sorted(reports.items()))
    return replace(
        latest_count(told.values()),
        buffer=_buffer([each.buffer for each in told.values()]),
        process=replace(
            _process([each.process for each in told.values()]),
            workers=workers,
            missing_workers=[slot + 1 for slot in range(workers) if slot not in told],
        ),
    )


def latest_count(reports: Iterable[Statistics]) -> Statistics:
    """The one whose count of the database was begun last; one without any comes after all others."""

    def when(report: Statistics) -> tuple[bool, datetime | None]:
        return (report.as_of is not None, report.as_of)

    return max(reports, key=when)


def _buffer(figures: list[BufferFigures]) -> BufferFigures:
    estimates = [each.journal_full_in_s for each in figures if each.journal_full_in_s is not None]
    views = [BufferView(*(getattr(each, name) for name in BufferView.__struct_fields__)) for each in figures]
    return BufferFigures(
        **asdict(joint_buffer(views)),
        spilled_bytes=sum(each.spilled_bytes for each in figures),
        journal_bytes=sum(each.journal_bytes for each in figures),
        journal_full_in_s=min(estimates, default=None),
    )


def _process(processes: list[ProcessInfo]) -> ProcessInfo:
    return replace(
        processes[0],
        uptime_s=max(each.uptime_s for each in processes),
        cpu_s=sum(each.cpu_s for each in processes),
        resident_bytes=_sum(each.resident_bytes for each in processes),
        peak_resident_bytes=_sum(each.peak_resident_bytes for each in processes),
        threads=_sum(each.threads for each in processes),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None

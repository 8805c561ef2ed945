"""The health of several workers as one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from persistence_service.fleet.messages import WorkerHealth
from persistence_service.models.answers import BufferView, Health, JournalView
from persistence_service.services.joint_health import joint_health

LATER = datetime(2026, 1, 2, tzinfo=UTC)
WELL = Health(
    status="healthy",
    database="healthy",
    detail="",
    buffer=BufferView(
        sessions_count=1,
        tasks_count=2,
        total_count=3,
        capacity=100,
        usage_percent=10.0,
        size_bytes=5,
        last_flush_time=None,
        spilled_records=6,
        waiting_for_session=7,
        set_aside=8,
        oldest_unstored_age_s=9.0,
        replaying=False,
    ),
    journal=JournalView(bytes=10, segments=11, unstored_items=12, losses=[], failing=None),
    version="1",
)


def joint(*healths: Health, workers: int | None = None) -> Health:
    return joint_health({slot: WorkerHealth(each, False) for slot, each in enumerate(healths)}, workers or len(healths))


def test_figures_are_sums_the_oldest_age_and_the_newest_flush() -> None:
    busy = replace(
        WELL,
        buffer=replace(
            WELL.buffer,
            capacity=300,
            usage_percent=50.0,
            oldest_unstored_age_s=1.0,
            last_flush_time=LATER,
            replaying=True,
        ),
    )
    shown = joint(WELL, busy).buffer
    assert (shown.sessions_count, shown.tasks_count, shown.total_count, shown.size_bytes) == (2, 4, 6, 10)
    assert (shown.spilled_records, shown.waiting_for_session, shown.set_aside) == (12, 14, 16)
    assert (shown.capacity, shown.usage_percent) == (400, 40.0)
    assert (shown.oldest_unstored_age_s, shown.last_flush_time, shown.replaying) == (9.0, LATER, True)


def test_losses_and_failures_say_whose_they_are() -> None:
    damaged = replace(WELL, journal=replace(WELL.journal, losses=["1 to 2", "4"]))
    failing = replace(WELL, journal=replace(WELL.journal, failing="EIO"))
    shown = joint(WELL, damaged, failing).journal
    assert (shown.bytes, shown.segments, shown.unstored_items) == (30, 33, 36)
    assert shown.losses == ["worker 2: 1 to 2", "worker 2: 4"]
    assert shown.failing == "worker 3: EIO"


@pytest.mark.parametrize(
    "statuses, workers, expected",
    [
        (["healthy", "healthy"], 2, "healthy"),
        (["healthy", "degraded"], 2, "degraded"),
        (["degraded", "unhealthy", "healthy"], 3, "unhealthy"),
        (["healthy"], 2, "degraded"),
        (["unhealthy"], 2, "unhealthy"),
    ],
)
def test_it_is_the_worst_and_at_best_degraded_while_one_is_missing(
    statuses: list[str], workers: int, expected: str
) -> None:
    healths = [replace(WELL, status=status, database="healthy") for status in statuses]
    assert joint(*healths, workers=workers).status == expected

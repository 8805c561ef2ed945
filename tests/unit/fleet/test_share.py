"""What one of several workers may take of what is granted to the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.share import aside_of, share_of
from persistence_service.settings import Settings


def a_worker(workers: int) -> WorkerIdentity:
    return WorkerIdentity(workers - 1, workers, Path("/run"))


def granted(**buffer: float) -> Settings:
    return Settings.model_validate({"buffer": buffer})


@pytest.mark.parametrize(
    "grace_s, interval_s, kept_s",
    [(300, 30, 300), (60, 30, 60), (59, 30, 60), (0, 30, 60), (0, 0.5, 1), (300, 3600, 7200)],
)
def test_orphans_wait_two_flush_intervals_at_least_since_their_session_may_wait_with_another_worker(
    grace_s: float, interval_s: float, kept_s: float
) -> None:
    settings = granted(orphan_grace=grace_s, flush_interval=interval_s)
    for workers in (2, 16):
        assert share_of(settings, a_worker(workers)).buffer.orphan_grace == kept_s


def test_one_that_is_alone_has_all_of_it_as_it_was_granted() -> None:
    settings = granted(orphan_grace=0, flush_interval=30)
    assert share_of(settings, None) == settings


def test_a_part_is_never_too_small_to_work_with_and_nothing_is_given_to_whom_nothing_is_granted() -> None:
    settings = granted(max_memory_records=1000, max_buffer_size=400, max_dead_letter_rate=3)
    part = share_of(settings, a_worker(16)).buffer
    assert part.max_memory_records == settings.buffer.max_buffer_size
    assert part.max_dead_letter_rate == 1
    assert share_of(granted(max_dead_letter_rate=0), a_worker(16)).buffer.max_dead_letter_rate == 0


@pytest.mark.parametrize("workers", [2, 3, 4, 5, 16])
def test_each_may_hold_the_orphans_of_the_whole_service_but_no_more_than_all_it_has_else(workers: int) -> None:
    part = share_of(granted(max_memory_records=64_000), a_worker(workers)).buffer.max_memory_records
    room = aside_of(a_worker(workers)) * part
    assert room <= part
    assert room == pytest.approx(min(aside_of(None) * 64_000, part), abs=workers)

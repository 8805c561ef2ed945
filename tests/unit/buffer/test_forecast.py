"""The estimate of when the journal is full is honest: within a factor of two, and never too late for long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from persistence_service.buffer.forecast import Forecast
from persistence_service.errors import JournalFull, StorageUnavailable
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import KIB, open_rig, session_request, task_request, until

LIMIT = 4 << 30
SEGMENT = 64 << 20
RATE = 2_000_000.0


@dataclass
class Journal:
    """One that fills by a clock: with the database there, a segment goes as soon as it is full."""

    forecast: Forecast = field(default_factory=Forecast)
    segment: int = SEGMENT
    now_s: float = 1000.0
    used: float = 0.0

    def run(self, seconds: float, rate: float, *, away: bool, check: Callable[[], None] = lambda: None) -> None:
        """Batches come twice a second, and somebody looks after each."""
        for _ in range(round(2 * seconds)):
            self.now_s += 0.5
            self.used += rate / 2
            if not away and self.used > self.segment:
                self.used -= self.segment
            self.forecast.note(self.now_s, round(self.used), in_outage=away)
            check()

    def estimate(self) -> float | None:
        return self.forecast.seconds_until(LIMIT, self.now_s, round(self.used))

    def truth(self, rate: float) -> float:
        return (LIMIT - self.used) / rate


def within_a_factor_of_two(journal: Journal, rate: float) -> None:
    estimate = journal.estimate()
    assert estimate is not None
    assert journal.truth(rate) / 2 <= estimate <= journal.truth(rate) * 2


@pytest.mark.parametrize("segment", [SEGMENT, SEGMENT // 16])
@pytest.mark.parametrize("before_s", [0, 7, 100, 1000])
def test_under_steady_load_it_is_right_from_the_first_seconds_of_an_outage_until_the_end(
    before_s: float, segment: int
) -> None:
    journal = Journal(segment=segment)
    journal.run(before_s, RATE, away=False)
    journal.run(10, RATE, away=True)
    left_s = journal.truth(RATE)
    journal.run(left_s - 1, RATE, away=True, check=lambda: within_a_factor_of_two(journal, RATE))
    journal.run(2, RATE, away=True)
    assert journal.estimate() == 0


def test_a_load_that_grows_is_seen_within_half_a_minute() -> None:
    journal = Journal()
    journal.run(400, RATE / 10, away=True)
    journal.run(35, RATE, away=True)
    journal.run(300, RATE, away=True, check=lambda: within_a_factor_of_two(journal, RATE))


def test_a_load_that_falls_is_never_taken_for_less_than_it_is_and_known_after_five_minutes() -> None:
    journal = Journal()
    journal.run(400, RATE, away=True)

    def never_too_late() -> None:
        estimate = journal.estimate()
        assert estimate is not None
        assert estimate <= 1.2 * journal.truth(RATE / 10)

    journal.run(300, RATE / 10, away=True, check=never_too_late)
    journal.run(10, RATE / 10, away=True)
    within_a_factor_of_two(journal, RATE / 10)


def test_a_load_that_ends_fills_nothing_after_five_minutes() -> None:
    journal = Journal()
    journal.run(100, RATE, away=True)
    journal.run(310, 0, away=True)
    assert journal.estimate() is None


def test_while_the_database_takes_what_comes_there_are_hours_at_least() -> None:
    journal = Journal()
    journal.run(300, RATE, away=False)

    def hours() -> None:
        estimate = journal.estimate()
        assert estimate is None or estimate > 3 * 3600

    journal.run(600, RATE, away=False, check=hours)


def test_nothing_is_said_before_five_seconds_are_seen() -> None:
    journal = Journal()
    assert journal.estimate() is None
    journal.run(4, RATE, away=True)
    assert journal.estimate() is None


async def test_a_service_in_an_outage_says_when_it_will_be_full(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_bytes=1024 * KIB) as rig:
        await rig.pass_time(1000)
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_sessions([session_request()])
        await rig.pass_time(31)
        assert rig.flusher.failure is not None
        for number in range(20):
            await rig.buffer.accept_tasks([task_request(f"t{number}", context="x" * 20 * KIB)])
            await rig.pass_time(10)
        estimate = rig.buffer.seconds_until_journal_full()
        assert estimate == pytest.approx((1024 * KIB - rig.journal.used_bytes) / (20 * KIB / 10), rel=0.3)


async def test_a_full_journal_is_full_now(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_bytes=512 * KIB) as rig:
        rig.backend.go_away(StorageUnavailable("gone"))
        await rig.buffer.accept_sessions([session_request()])
        with suppress(JournalFull):
            for number in count():
                await rig.buffer.accept_tasks([task_request(f"t{number}", context="x" * 20 * KIB)])
                await rig.pass_time(1)
        for _ in range(40):
            await rig.pass_time(10)
            assert rig.buffer.seconds_until_journal_full() == 0
        rig.backend.come_back()
        await rig.buffer.flush()
        await until(lambda: rig.buffer.seconds_until_journal_full() != 0)


async def test_a_volume_with_less_room_than_the_journal_may_take_is_full_earlier(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with open_rig(tmp_path, files=files, max_bytes=64 * KIB * KIB) as rig:
        rig.backend.go_away(StorageUnavailable("gone"))
        for number in range(20):
            files.free = (1000 - 20 * number) * KIB
            await rig.buffer.accept_tasks([task_request(f"t{number}", context="x" * 20 * KIB)])
            await rig.pass_time(10)
        assert rig.buffer.seconds_until_journal_full() == pytest.approx(600 * KIB / (20 * KIB / 10), rel=0.3)

"""Faults of one lane never meet, those of several do; what a lane can't go on after ends all of them in good order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import pytest

from persistence_service.torture.faults import CouldNotRun, Fault, ServiceEnded
from persistence_service.torture.lanes import Lanes
from persistence_service.torture.report import Report

_LONG_S = 1000.0
Strike = Callable[[], Awaitable[None]]


class Told:
    """A fault that does what it is told, and notes who strikes at once."""

    def __init__(self, name: str, at_once: list[set[str]], strike: Strike | None = None) -> None:
        self.name = name
        self.hits = 0
        self._at_once = at_once
        self._strike = strike

    async def strike(self, random: Random) -> None:
        now = self._at_once[-1] | {self.name}
        assert len(now) > len(self._at_once[-1]), "never twice at once"
        self._at_once.append(now)
        try:
            await asyncio.sleep(0) if self._strike is None else await self._strike()
            self.hits += 2
        finally:
            self._at_once.append(self._at_once[-1] - {self.name})


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LONGEST_PAUSE_S", "_LONGEST_LIFE_S"):
        monkeypatch.setattr(f"persistence_service.torture.lanes.{name}", 0.01)


@pytest.fixture
def at_once() -> list[set[str]]:
    return [set()]


@pytest.fixture
def report() -> Report:
    return Report(1, "a service")


async def strike(faults: Sequence[Fault], report: Report, seconds: float = _LONG_S) -> None:
    async with asyncio.timeout(60):
        await Lanes(faults, "1", report).strike(seconds)


def ends_after(times: int, error: Exception | None = None) -> Strike:
    """A strike that, the last time, raises; by default what says that the service ended."""
    left = [times]

    async def end() -> None:
        left[0] -= 1
        if not left[0]:
            raise error or ServiceEnded("it ended by itself")

    return end


async def test_faults_of_a_lane_strike_one_after_the_other_and_those_of_others_meanwhile(
    report: Report, at_once: list[set[str]]
) -> None:
    met = asyncio.Event()

    async def until_all_lanes_met() -> None:
        lanes = {name.split(":")[0] for name in at_once[-1]}
        if len(lanes) == 3:
            met.set()
        await met.wait()

    names = ("disk: a", "clock: b", "database: c", "network: d", "machine: e")
    faults = [Told(name, at_once, until_all_lanes_met) for name in names]
    faults.append(Told("service: ends", at_once, ends_after(3)))
    await strike(faults, report)
    assert met.is_set()
    for together in at_once:
        assert len(together & {"disk: a", "clock: b"}) <= 1
        assert len(together & {"database: c", "network: d"}) <= 1
        assert len(together & {"machine: e", "service: ends"}) <= 1


async def test_what_struck_and_was_felt_is_in_the_report(report: Report, at_once: list[set[str]]) -> None:
    felt = Told("service: felt", at_once)
    await strike([felt, Told("service: ends", at_once, ends_after(3))], report)
    assert report.faults["service: felt"] >= 2
    assert report.hits["service: felt"] == 2 * report.faults["service: felt"]
    assert report.faults["service: ends"] == 2


async def test_a_service_that_ended_by_itself_is_trouble_and_ends_all_lanes(
    report: Report, at_once: list[set[str]]
) -> None:
    await strike([Told("disk: a", at_once), Told("service: ends", at_once, ends_after(1))], report)
    assert report.trouble == ["before or in service: ends: it ended by itself"]
    assert at_once[-1] == set()


async def test_what_could_not_be_done_ends_all_once_the_others_have_healed(
    report: Report, at_once: list[set[str]]
) -> None:
    with pytest.raises(CouldNotRun, match="no right"):
        await strike(
            [Told("disk: a", at_once), Told("service: b", at_once, ends_after(2, CouldNotRun("no right")))], report
        )
    assert at_once[-1] == set()


async def test_a_strike_that_is_not_over_in_time_is_trouble(
    report: Report, at_once: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence_service.torture.lanes._STROKE_WITHIN_S", 0.0)
    await strike([Told("disk: a", at_once, asyncio.Event().wait)], report)  # type: ignore[arg-type]  # nobody needs what it gives
    assert report.trouble == ["disk: a was not over within 0 s"]


async def test_what_was_next_when_the_time_was_over_is_next_when_it_goes_on(report: Report) -> None:
    assert await order_of_ten(report, rounds=50) == await order_of_ten(report, rounds=0)


async def order_of_ten(report: Report, rounds: int) -> list[str]:
    """In which order faults struck, `rounds` of which each was over before anything had."""
    at_once: list[set[str]] = [set()]
    end = ends_after(10)
    lanes = Lanes([Told(f"service: {number}", at_once, end) for number in range(5)], "1", report)
    for _ in range(rounds):
        await lanes.strike(0)
    await lanes.strike(_LONG_S)
    return [next(iter(now)) for now in at_once if now]


async def test_without_faults_nothing_happens_until_the_time_is_over(report: Report) -> None:
    await strike([], report, seconds=0)
    assert report.is_well

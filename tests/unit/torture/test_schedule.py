"""The same seed makes the same torture."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from persistence_service.errors import ConfigurationError
from persistence_service.torture.histories import Author, Batch, Step
from persistence_service.torture.schedule import chosen, schedule


class Named:
    """A fault that does nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def strike(self, random: Random) -> None:
        pass


FAULTS = [Named("service: SIGKILL"), Named("service: SIGSTOP"), Named("network: reset")]


def told(seed: str) -> list[tuple[float, str, float]]:
    strokes = islice(schedule(FAULTS, seed), 30)
    return [(stroke.pause_s, stroke.fault.name, stroke.random.random()) for stroke in strokes]


def test_a_schedule_follows_from_its_seed() -> None:
    assert told("1") == told("1")
    assert told("1") != told("2")


def test_each_fault_comes_once_before_any_comes_again() -> None:
    names = [name for _, name, _ in told("1")]
    for start in range(0, len(names), len(FAULTS)):
        assert sorted(names[start : start + len(FAULTS)]) == sorted(fault.name for fault in FAULTS)


def test_how_much_chance_a_fault_takes_does_not_change_the_others() -> None:
    first, second = schedule(FAULTS, "1"), schedule(FAULTS, "1")
    next(first).random.random()
    next(second)
    assert next(first).random.random() == next(second).random.random()


def test_no_faults_are_an_empty_schedule() -> None:
    assert list(schedule([], "1")) == []


def test_faults_are_chosen_by_what_occurs_in_their_names() -> None:
    assert [fault.name for fault in chosen(FAULTS, ["sigkill", " Network"])] == ["service: SIGKILL", "network: reset"]
    assert chosen(FAULTS, []) == FAULTS


def test_a_text_that_occurs_in_no_name_is_a_wrong_usage_that_names_the_faults() -> None:
    with pytest.raises(ConfigurationError, match="database") as raised:
        chosen(FAULTS, ["sigkill", "database"])
    assert "network: reset" in str(raised.value)


def steps(seed: str) -> Iterator[Step]:
    return islice(Author(seed, "p", lambda: "2026-01-31T12:00:00Z").history(), 400)


def test_a_history_follows_from_its_seed() -> None:
    assert list(steps("1")) == list(steps("1"))
    assert list(steps("1")) != list(steps("2"))


def test_a_history_has_batches_of_all_manners_durabilities_and_sizes() -> None:
    batches = [deed for seed in "123" for step in steps(seed) for deed in step if isinstance(deed, Batch)]
    assert len({batch.manner for batch in batches}) == 6
    assert {batch.ack for batch in batches} == {None, "memory", "journal", "storage"}
    sizes = {len(batch.records) for batch in batches}
    assert min(sizes) == 1
    assert 100 < max(sizes) <= 500

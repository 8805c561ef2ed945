"""In which order faults strike, and how long nothing does: drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from persistence_service.errors import ConfigurationError, ConfigurationProblem
from persistence_service.torture.faults import Fault


@dataclass(frozen=True, slots=True)
class Stroke:
    """After a pause, the fault strikes, with a chance of its own."""

    pause_s: float
    fault: Fault
    random: Random


def schedule(faults: Sequence[Fault], seed: str, longest_pause_s: float = 0.4) -> Iterator[Stroke]:
    """Without end. Each fault comes once before any comes again, so that a short torture has all kinds."""
    draw = Random(seed)  # noqa: S311  # a schedule, not a secret
    number = 0
    while faults:
        for fault in draw.sample(faults, k=len(faults)):
            number += 1
            chance = Random(f"{seed}/{number}")  # noqa: S311  # likewise
            yield Stroke(draw.uniform(0, longest_pause_s), fault, chance)


def chosen(faults: Sequence[Fault], wanted: Sequence[str]) -> list[Fault]:
    """The faults in whose names one of these texts occurs, in any case of letters; without any all.

    Raises:
        ConfigurationError: a text that occurs in none.
    """
    unknown = [text for text in wanted if not any(_names(fault, text) for fault in faults)]
    if unknown:
        known = "; ".join(fault.name for fault in faults)
        problems = [ConfigurationProblem("--faults", "faults", text, f"occurs in none of: {known}") for text in unknown]
        raise ConfigurationError(problems)
    return [fault for fault in faults if not wanted or any(_names(fault, text) for text in wanted)]


def _names(fault: Fault, text: str) -> bool:
    return text.strip().casefold() in fault.name.casefold()

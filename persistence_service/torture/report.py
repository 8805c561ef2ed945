"""What came of a torture: figures for programs, and a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from rich.markup import escape
from rich.table import Table

from persistence_service.torture.ledger import Verdict

FIGURES = ("lost", "regressed", "duplicated", "invented")
_COUNTED = (
    "records_sent",
    "records_acknowledged",
    "records_stored",
    "sessions_deleted",
    "dead_letters",
    "data_rejected",
)
_SHOWN = 10
_IN_DOCUMENT = 100


@dataclass
class Report:
    """All that was done, and what was found.

    `hits` is how often each fault was felt, where that can be told: a disk that fails while nobody writes to it, say, is
    not. `skipped` are those that can't be made here, and why. `trouble` is what else was wrong: answers that the contract
    does not have, an end of the service by itself. `seen` is what the service went through by its own metrics.
    """

    seed: int
    target: str
    faults: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    records_sent: int = 0
    records_acknowledged: int = 0
    sessions_deleted: int = 0
    dead_letters: int = 0
    data_rejected: int = 0
    """Of the dead letters those that the database refused."""
    records_stored: int = 0
    rounds: int = 0
    seconds: float = 0.0
    verdicts: list[Verdict] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    kept_in: str = ""
    """The folder with journal, log and embedded database, if it was not removed."""

    @property
    def is_well(self) -> bool:
        """Whether nothing was found."""
        return all(self.verdicts) and not self.trouble

    def found(self, figure: str) -> list[str]:
        """What is behind one of the four figures."""
        return [text for verdict in self.verdicts for text in getattr(verdict, figure)]

    def document(self) -> dict[str, object]:
        """For programs; of what was found no more than a hundred of each."""
        return {
            "seed": self.seed,
            "target": self.target,
            "seconds": round(self.seconds, 1),
            "rounds": self.rounds,
            "faults": dict(sorted(self.faults.items())),
            "hits": dict(sorted(self.hits.items())),
            "seen": dict(sorted(self.seen.items())),
            "skipped": self.skipped,
            "records_sent": self.records_sent,
            "records_acknowledged": self.records_acknowledged,
            "records_stored": self.records_stored,
            "sessions_deleted": self.sessions_deleted,
            "dead_letters": self.dead_letters,
            "data_rejected": self.data_rejected,
            **{figure: len(self.found(figure)) for figure in FIGURES},
            "findings": {figure: self.found(figure)[:_IN_DOCUMENT] for figure in FIGURES},
            "trouble": self.trouble[:_IN_DOCUMENT],
            "kept_in": self.kept_in,
        }

    def table(self) -> Table:
        """For people."""
        table = Table("what", "how many", "felt", title=f"torture of {escape(self.target)}, seed {self.seed}")
        table.columns[1].justify = table.columns[2].justify = "right"
        for name, times in sorted(self.faults.items()):
            table.add_row(escape(name), f"{times:,}", f"{self.hits[name]:,}")
        table.add_row("all faults", f"{self.faults.total():,}", f"{self.hits.total():,}", end_section=True)
        for name in _COUNTED:
            table.add_row(name.replace("_", " "), f"{getattr(self, name):,}")
        for name, times in sorted(self.seen.items()):
            table.add_row(name.replace("_", " "), f"{times:,}")
        table.add_section()
        for figure in FIGURES:
            number = len(self.found(figure))
            table.add_row(figure, f"[{'red' if number else 'green'}]{number:,}[/]")
        table.add_row("other trouble", f"[{'red' if self.trouble else 'green'}]{len(self.trouble):,}[/]")
        return table

    def findings(self) -> Iterator[str]:
        """The first few of each, in words, and what could not be done."""
        for text in self.skipped:
            yield f"skipped: {text}"
        for figure in FIGURES:
            yield from _first(figure, self.found(figure))
        yield from _first("trouble", self.trouble)
        if self.kept_in:
            yield f"journal, log and embedded database are in {self.kept_in}"


def _first(kind: str, texts: Sequence[str]) -> Iterator[str]:
    for text in islice(texts, _SHOWN):
        yield f"{kind}: {text}"
    if len(texts) > _SHOWN:
        yield f"{kind}: … and {len(texts) - _SHOWN} more"

"""What came of a torture, for people and for programs."""

from collections import Counter

from rich.console import Console

from persistence_service.torture.ledger import Verdict
from persistence_service.torture.report import Report


def report(*verdicts: Verdict, trouble: tuple[str, ...] = ()) -> Report:
    return Report(
        7, "a service", Counter({"service: SIGKILL": 3, "network: reset": 2}), verdicts=[*verdicts], trouble=[*trouble]
    )


def table_of(shown: Report) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(shown.table())
    return capture.get()


def test_all_is_well_with_four_zeros_in_each_round_and_no_other_trouble() -> None:
    assert report(Verdict(), Verdict()).is_well
    assert not report(Verdict(), Verdict(lost=["t"])).is_well
    assert not report(Verdict(), trouble=("it ended by itself",)).is_well


def test_the_table_has_each_fault_their_sum_and_the_figures_of_all_rounds() -> None:
    lines = table_of(report(Verdict(lost=["a", "b"]), Verdict(lost=["c"], invented=["d"]))).splitlines()
    found = {cells[1].strip(): cells[2].strip() for line in lines if len(cells := line.split("│")) == 5}
    assert found["service: SIGKILL"] == "3"
    assert found["all faults"] == "5"
    figures = ("lost", "regressed", "duplicated", "invented")
    assert [found[figure] for figure in figures] == ["3", "0", "0", "1"]


def test_the_document_has_the_figures_and_what_is_behind_them() -> None:
    document = report(Verdict(regressed=["t1"]), trouble=("slow",)).document()
    assert (document["seed"], document["lost"], document["regressed"]) == (7, 0, 1)
    assert document["findings"] == {"lost": [], "regressed": ["t1"], "duplicated": [], "invented": []}
    assert document["trouble"] == ["slow"]


def test_of_what_was_found_the_first_are_told_and_how_many_more_there_are() -> None:
    told = list(report(Verdict(lost=[f"t{number}" for number in range(30)])).findings())
    assert told[0] == "lost: t0"
    assert len(told) == 11
    assert told[-1] == "lost: … and 20 more"

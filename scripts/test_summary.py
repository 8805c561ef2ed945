"""Turns the machine-readable reports of a test run into `test_summary.md` and `coverage_report.html`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

SLOWEST = 10
LEAST_COVERED = 10
REDIRECT = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=coverage/index.html">\n'


@dataclass(frozen=True)
class Case:
    """One test of a run; `note` is the first line of why it failed or was skipped."""

    name: str
    seconds: float
    outcome: str
    note: str


def read_cases(junit: Path) -> list[Case]:
    # The file was written by the run of pytest just before: nothing of it comes from elsewhere.
    root = ET.parse(junit).getroot()  # noqa: S314  # written by our own test run
    return [_case(element) for element in root.iter("testcase")]


def _case(element: ET.Element) -> Case:
    name = f"{element.get('classname', '')}::{element.get('name', '')}"
    seconds = float(element.get("time", "0"))
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        child = element.find(tag)
        if child is not None:
            note = (child.get("message") or "").strip().split("\n")[0]
            return Case(name, seconds, outcome, note)
    return Case(name, seconds, "passed", "")


def describe_cases(cases: list[Case]) -> list[str]:
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("passed", "failed", "skipped")}
    lines = ["| " + " | ".join(counts) + " |", "|---|---|---|", "| " + " | ".join(map(str, counts.values())) + " |", ""]
    for outcome in ("failed", "skipped"):
        chosen = [case for case in cases if case.outcome == outcome]
        if chosen:
            lines += [f"## {outcome.capitalize()}", "", *(f"- `{case.name}`: {case.note}" for case in chosen), ""]
    slowest = sorted(cases, key=lambda case: case.seconds, reverse=True)[:SLOWEST]
    lines += ["## Slowest", "", "| seconds | test |", "|---|---|"]
    lines += [f"| {case.seconds:.2f} | `{case.name}` |" for case in slowest]
    return lines


def describe_coverage(report: Path) -> list[str]:
    data = json.loads(report.read_text(encoding="utf-8"))
    files = sorted((file["summary"]["percent_covered"], name) for name, file in data["files"].items())
    lines = [
        "",
        "## Coverage",
        "",
        f"{data['totals']['percent_covered']:.1f} % of lines and branches. Least covered:",
        "",
    ]
    lines += ["| % | file |", "|---|---|"]
    lines += [f"| {percent:.1f} | `{name}` |" for percent, name in files[:LEAST_COVERED]]
    return lines


def main(reports: Path) -> None:
    junit, coverage = reports / "junit.xml", reports / "coverage.json"
    lines = ["# Test summary", ""]
    # A run that was broken off leaves no reports, one with --no-cov none of coverage.
    lines += describe_cases(read_cases(junit)) if junit.exists() else ["The run did not come to its end."]
    if coverage.exists():
        lines += describe_coverage(coverage)
        (reports / "coverage_report.html").write_text(REDIRECT, encoding="utf-8")
    (reports / "test_summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

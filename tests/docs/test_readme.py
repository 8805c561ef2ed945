"""The README's console examples do what they show, on the service as it is shipped."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.e2e.service import running_service

ROOT = Path(__file__).parents[2]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def console_examples(document: str) -> list[tuple[str, str]]:
    """Command and output of each `$ ` line in the document's console blocks."""
    examples: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", document, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            examples.append((command, output.strip()))
    return examples


def without_times(text: str) -> str:
    """`text` with every point in time replaced, since no run repeats one."""
    return _TIME.sub("<time>", text)


async def output_of(command: str, folder: Path) -> str:
    """What the shell prints for `command`."""
    process = await asyncio.create_subprocess_shell(
        command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode().strip()


@pytest.mark.parametrize("document", ["README.md"])
async def test_the_examples_print_what_is_shown(document: str, tmp_path: Path) -> None:
    examples = console_examples((ROOT / document).read_text(encoding="utf-8"))
    assert examples
    async with running_service(tmp_path) as service:
        for command, expected in examples:
            printed = await output_of(command.replace("http://127.0.0.1:8001", service.url), tmp_path)
            assert without_times(printed) == without_times(expected), command


def test_its_figures_are_those_of_the_benchmarks_newest_run() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    service, plain, at_a_rate, _ = (
        [float(cell.replace(",", "")) for cell in cells.split("│")[1:5]]
        for cells in re.findall(r"^│ 50 × 10 +│ (?:service|simple) +(│.+)$", measured, re.MULTILINE)
    )
    during, draining = re.findall(r"(\d+) (?:during|in the drain)", measured)
    drained = int(re.findall(r"^drained in .*?: ([\d,]+) rows/s", measured, re.MULTILINE)[0].replace(",", ""))
    told = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    assert f"5,000 rows/s, each fsynced before its answer: p50 {at_a_rate[2]:.1f} ms, p95 {at_a_rate[3]:.1f} ms" in told
    assert f"At full speed {_hundreds(service[1])} rows/s are stored in SQLite, and p95 is {service[3]:.0f} ms" in told
    assert f"in memory stores {_hundreds(plain[1])} rows/s at a p95 of {plain[3]:.0f} ms" in told
    assert f"takes {during} MiB, and {draining} MiB while it writes them, {_hundreds(drained)} a second" in told


def _hundreds(figure: float) -> str:
    return f"{round(figure, -2):,.0f}"


def test_every_link_within_the_repository_leads_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    missing = [
        f"{document.relative_to(ROOT)} -> {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert not missing

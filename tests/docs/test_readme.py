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


def test_every_link_within_the_repository_leads_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    missing = [
        f"{document.relative_to(ROOT)} -> {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert not missing

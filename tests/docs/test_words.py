"""What is written for readers is finished."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNFINISHED = re.compile(r"@[A-Z_]+@|\b(?:TODO|FIXME|XXX|TBD)\b")
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/*.md"), *(ROOT / "docs").rglob("*.md")})


def test_no_document_holds_a_placeholder_or_a_note_to_its_writer() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert ROOT / "docs" / "guarantees.md" in DOCUMENTS
    found = [
        f"{document.relative_to(ROOT)} line {number}: {match[0]}"
        for document in DOCUMENTS
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1)
        for match in UNFINISHED.finditer(line)
    ]
    assert found == []

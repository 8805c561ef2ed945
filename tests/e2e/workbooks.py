"""What workers translate: real data where there is some, else a generated sample."""

import gzip
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec

from persistence_service.torture.ledger import Record


@dataclass(frozen=True, slots=True)
class Workbook:
    """A session and its cells, all that a worker knows before it reports a state."""

    session: Record
    tasks: list[Record]

    @property
    def session_id(self) -> str:
        return str(self.session["session_id"])


def read_workbooks(folder: Path) -> list[Workbook]:
    """The workbooks of `*.sessions.jsonl.gz` and `*.tasks.jsonl.gz` in `folder`."""
    tasks: defaultdict[str, list[Record]] = defaultdict(list)
    for task in _lines(folder, "*.tasks.jsonl.gz"):
        tasks[str(task["session_id"])].append(task)
    return [Workbook(session, tasks[str(session["session_id"])]) for session in _lines(folder, "*.sessions.jsonl.gz")]


def _lines(folder: Path, pattern: str) -> list[Record]:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    found: list[Record] = []
    for path in sorted(folder.glob(pattern)):
        with gzip.open(path) as lines:
            found += [decode(line) for line in lines]
    return found

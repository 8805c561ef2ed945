"""The ledger of the drill: also deletions and dead letters, and where each record has to be in the end.

The rules of deletion and of dead letters are stated here a second time, from the documentation and not from the code.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from tests.e2e.ledger import Ledger, Verdict, merged_session, moment, task_as_answered, task_order
from tests.e2e.workbooks import Record

Cell = tuple[str, str]
"""A task of a session: with a conflict, two sessions have a task of the same id."""

_COUNTERS = ("total_tasks", "completed_tasks", "failed_tasks")


@dataclass(frozen=True)
class Letter:
    """A dead letter with its task, in the form of `task_as_answered`."""

    reason: str
    task: Record


@dataclass(frozen=True)
class Kept:
    """All that the service holds: what lists show, and from the database the times up to which sessions are deleted."""

    sessions: Sequence[Record]
    tasks: Sequence[Record]
    letters: Sequence[Letter]
    deleted_up_to: Mapping[str, datetime]

    def letters_of(self, reason: str) -> Counter[Cell]:
        """How many letters each cell has for that reason."""
        return Counter(cell_of(letter.task) for letter in self.letters if letter.reason == reason)


def cell_of(task: Record) -> Cell:
    """What identifies `task`."""
    return str(task["session_id"]), str(task["task_id"])


@dataclass
class Account(Ledger):
    """Every state of every cell that was acknowledged, and between which moments each session was deleted last."""

    cells: defaultdict[Cell, list[Record]] = field(default_factory=lambda: defaultdict(list))
    deleted: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)

    def acknowledged(self, kind: str, records: Iterable[Record]) -> None:
        """As the ledger's; of tasks all states count."""
        records = list(records)
        super().acknowledged(kind, records)
        if kind == "tasks":
            for record in records:
                task = task_as_answered(record)
                states = self.cells[cell_of(task)]
                if task not in states:
                    states.append(task)

    def note_deleted(self, session_id: str, asked: datetime, answered: str) -> None:
        """The deletion of a session was acknowledged: asked for at a time by the clock, and before the client's next event time."""
        self.deleted[session_id] = asked, as_moment(answered)

    # ------------------------------------------------------------------------------------------------- the rules

    def check(self, kept: Kept) -> Verdict:
        """Whether each acknowledged record is stored, or a dead letter, or rightly deleted, once, at its newest state."""
        self._check_deletions(kept)
        parts = [*self._check_cells(kept), self._check_sessions(kept)]
        return Verdict(*(list(chain.from_iterable(getattr(part, name) for part in parts)) for name in _NAMES))

    def _check_deletions(self, kept: Kept) -> None:
        assert kept.deleted_up_to.keys() == self.deleted.keys()
        for session_id, (asked, answered) in self.deleted.items():
            assert asked <= kept.deleted_up_to[session_id] <= answered, session_id

    def survivors(self, cell: Cell, deleted_up_to: Mapping[str, datetime]) -> list[Record]:
        """The acknowledged states of a cell that are newer than the deletion of its session."""
        return _newer(self.cells.get(cell, []), deleted_up_to.get(cell[0]))

    def session_left(self, session_id: str, deleted_up_to: Mapping[str, datetime]) -> Record | None:
        """The session that its records newer than its deletion make, None without any."""
        states = self.sessions_kept.get(session_id, [])
        up_to = deleted_up_to.get(session_id)
        newer = [state for state in states if up_to is None or as_moment(state["event_time"]) > up_to]
        return merged_session(newer) if newer else None

    def _check_cells(self, kept: Kept) -> Iterable[Verdict]:
        rows = {cell_of(row): row for row in kept.tasks}
        letters: defaultdict[Cell, list[Letter]] = defaultdict(list)
        for letter in kept.letters:
            letters[cell_of(letter.task)].append(letter)
        yield Verdict(
            duplicated=[key for key, times in Counter(str(row["task_id"]) for row in kept.tasks).items() if times > 1]
        )
        for cell in self.cells.keys() | rows.keys() | letters.keys():
            yield self._check_cell(cell, rows.get(cell), letters[cell], kept.deleted_up_to)

    def _check_cell(
        self, cell: Cell, row: Record | None, letters: Sequence[Letter], deleted_up_to: Mapping[str, datetime]
    ) -> Verdict:
        name = ["/".join(cell)]
        up_to = deleted_up_to.get(cell[0])
        states = [*([row] if row else []), *(letter.task for letter in letters)]
        held = [*_newer([row] if row else [], up_to), *_newer([letter.task for letter in letters], up_to)]
        newest = max(self.survivors(cell, deleted_up_to), key=task_order, default=None)
        behind = newest is not None and newest not in held and not self._may_be_absent(cell, newest, up_to)
        return Verdict(
            lost=name if behind and not held else [],
            regressed=name if behind and held else [],
            duplicated=name if any(states.count(state) > 1 for state in states) else [],
            invented=name if self._is_invented(cell, row, letters, deleted_up_to) else [],
        )

    def _may_be_absent(self, cell: Cell, newest: Record, up_to: datetime | None) -> bool:
        """A state that is not completed and had lost to a completed one that the deletion dropped."""
        completed = [state for state in self.cells[cell] if state["status"] == "completed"]
        return newest["status"] != "completed" and len(_newer(completed, up_to)) < len(completed)

    def _is_invented(
        self, cell: Cell, row: Record | None, letters: Sequence[Letter], deleted_up_to: Mapping[str, datetime]
    ) -> bool:
        """A state that nobody sent; a row that is deleted, or whose session is; the letter of a deleted orphan."""
        up_to = deleted_up_to.get(cell[0])
        if row is not None and (not _newer([row], up_to) or self.session_left(cell[0], deleted_up_to) is None):
            return True
        orphans = [letter.task for letter in letters if letter.reason == "unknown_session"]
        sent = self.tasks_sent.get(cell[1], ())
        return (
            len(_newer(orphans, up_to)) < len(orphans)
            or (row is not None and row not in sent)
            or any(letter.task not in sent for letter in letters)
        )

    def _check_sessions(self, kept: Kept) -> Verdict:
        lost: list[str] = []
        regressed: list[str] = []
        invented: list[str] = []
        seen = Counter(str(row["session_id"]) for row in kept.sessions)
        rows = {str(row["session_id"]): row for row in kept.sessions}
        for session_id in self.sessions_kept.keys() | rows.keys():
            row, left = rows.get(session_id), self.session_left(session_id, kept.deleted_up_to)
            if row is None and left is not None:
                lost.append(session_id)
            elif row is not None and left is None:
                invented.append(session_id)
            elif row is not None and left is not None and not self._is_as_left(row, left):
                (regressed if as_moment(row["event_time"]) < as_moment(left["event_time"]) else invented).append(
                    session_id
                )
        return Verdict(lost, regressed, [key for key, times in seen.items() if times > 1], invented)

    def _is_as_left(self, row: Record, left: Record) -> bool:
        """Equal, but that the counters of a revived session may include older records."""
        whole = merged_session(self.sessions_kept[str(left["session_id"])])
        counted = all(int(str(left[name])) <= int(str(row[name])) <= int(str(whole[name])) for name in _COUNTERS)
        return counted and row == left | {name: row[name] for name in _COUNTERS}


_NAMES = ("lost", "regressed", "duplicated", "invented")


def as_moment(value: object) -> datetime:
    """A time that is there, as a value."""
    found = value if isinstance(value, datetime) else moment(value)
    assert found is not None
    return found


def _newer(states: Iterable[Record], up_to: datetime | None) -> list[Record]:
    return [state for state in states if up_to is None or as_moment(state["event_time"]) > up_to]

"""The account of a torture or a drill: where each record has to be in the end, with deletions, dead letters and doubt.

The rules of deletion, of dead letters and of batches are stated here a second time, from the documentation and not from the
code. What was sent and never answered may be kept or not, but a batch only whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from math import inf
from time import monotonic

from persistence_service.torture.fates import Deletion, Fate, ServiceTime
from persistence_service.torture.ledger import (
    COUNTERS,
    Ledger,
    Record,
    Verdict,
    WrongAnswer,
    moment,
    session_as_answered,
    session_order,
    task_as_answered,
    task_order,
)
from persistence_service.torture.unsynced import Lost

Cell = tuple[str, str]
"""A task of a session: with a conflict, two sessions have a task of the same id."""

_JSON_PARTS = ("game_info", "metadata")
_NOT_OF_THE_RECORD = {*COUNTERS, *_JSON_PARTS}
_NAMES = ("lost", "regressed", "duplicated", "invented")


@dataclass(frozen=True)
class Letter:
    """A dead letter with its task, in the form of `task_as_answered`."""

    reason: str
    task: Record


@dataclass(frozen=True)
class Kept:
    """All that the service holds: what lists show, and, if the database was asked, up to which times sessions are deleted."""

    sessions: Sequence[Record]
    tasks: Sequence[Record]
    letters: Sequence[Letter]
    deleted_up_to: Mapping[str, datetime] | None = None

    def letters_of(self, reason: str) -> Counter[Cell]:
        """How many letters each cell has for that reason."""
        return Counter(cell_of(letter.task) for letter in self.letters if letter.reason == reason)


def is_timed(state: Record) -> bool:
    """Whether it was sent with an event time."""
    return not isinstance(state["event_time"], ServiceTime)


def cell_of(task: Record) -> Cell:
    """What identifies `task`."""
    return str(task["session_id"]), str(task["task_id"])


@dataclass(frozen=True, slots=True)
class Sending:
    """A batch that has left, in the form in which it has to be answered; when it did so first is of the monotonic clock."""

    kind: str
    states: Sequence[Record]
    left_at: float = field(default_factory=monotonic)

    def may_be_of(self, lost: Lost, answered_at: float) -> bool:
        """Whether it was perhaps written while that was written which was lost."""
        return self.left_at <= lost.until and answered_at >= lost.since


@dataclass
class Account(Ledger):
    """Every state of every record that was sent and that was acknowledged, and when each session was deleted last.

    Of states without event time those of one record have to be sent one after the other, each when the one before was
    answered: then the order of sending is that of the service's clock. A record has either all with or all without.
    """

    cells: defaultdict[Cell, list[Record]] = field(default_factory=lambda: defaultdict(list))
    sessions: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    deleted: dict[str, Deletion] = field(default_factory=dict)
    refused: Callable[[Record], bool] | None = None
    """Which tasks the database refuses for good; None if nobody knows."""
    records_sent: int = 0
    records_acknowledged: int = 0
    _unanswered: dict[int, Sending] = field(default_factory=dict)
    _in_memory: list[tuple[Sending, float]] = field(default_factory=list)
    _sent_again: Counter[ServiceTime] = field(default_factory=Counter)
    _perhaps_lost: set[str] = field(default_factory=set)
    """Sessions of which a record was."""

    # ----------------------------------------------------------------------------------------- what workers tell

    def sending(self, kind: str, records: Iterable[Record]) -> None:
        """As the ledger's."""
        records = list(records)
        self.records_sent += len(records)
        super().sending(kind, records)

    def acknowledged(self, kind: str, records: Iterable[Record]) -> None:
        """As the ledger's; of tasks all states count."""
        records = list(records)
        super().acknowledged(kind, records)
        as_answered = task_as_answered if kind == "tasks" else session_as_answered
        self._keep(kind, [as_answered(record) for record in records])

    def leaves(self, kind: str, records: Iterable[Record]) -> Sending:
        """A batch is about to leave for the first time. Until it is answered nobody knows whether it is kept."""
        states = [self._as_sent(kind, record) for record in records]
        sending = Sending(kind, states)
        for state in states:
            sent: defaultdict[str, list[Record]] = self.tasks_sent if kind == "tasks" else self.sessions_sent
            sent[str(state["task_id" if kind == "tasks" else "session_id"])].append(state)
        self.batches_sent += 1
        self._unanswered[id(sending)] = sending
        return sending

    def leaves_again(self, sending: Sending) -> None:
        """Likewise, for another time. Where it is without event times, that makes another state of each of its records."""
        self._sent_again.update(
            state["event_time"] for state in sending.states if isinstance(state["event_time"], ServiceTime)
        )

    def is_kept(self, sending: Sending) -> None:
        """It was answered with a durability that survives what is done to the service: none of it may be missing."""
        if self._unanswered.pop(id(sending), None) is not None:
            self.records_acknowledged += len(sending.states)
        self._keep(sending.kind, sending.states)

    def is_kept_in_memory(self, sending: Sending) -> None:
        """It was answered with a durability that survives all but the loss of what is not on disk: see `loses`."""
        self.records_acknowledged += len(sending.states)
        self._in_memory.append((sending, monotonic()))

    def loses(self, losses: Sequence[Lost]) -> None:
        """All that was lost: it says which of the batches in memory stay in doubt, the others are kept."""
        for sending, answered_at in self._in_memory:
            if not any(sending.may_be_of(lost, answered_at) for lost in losses):
                self._unanswered.pop(id(sending), None)
                self._keep(sending.kind, sending.states)
            elif sending.kind == "sessions":
                self._perhaps_lost.update(str(state["session_id"]) for state in sending.states)
        self._in_memory.clear()

    def is_refused(self, sending: Sending) -> None:
        """It was answered that nothing of it is kept."""
        del self._unanswered[id(sending)]
        for state in sending.states:
            if sending.kind == "tasks":
                self.tasks_sent[str(state["task_id"])].remove(state)
            else:
                self.sessions_sent[str(state["session_id"])].remove(state)

    def deleting(self, session_id: str) -> None:
        """A session is about to be deleted: from now on all of it that has been sent, or will be, may be gone."""
        self.deleted[session_id] = Deletion.asked_for(self.records_sent, self.deleted.get(session_id))

    def was_not_deleted(self, session_id: str) -> None:
        """There was no such session, and so no deletion."""
        self.deleted[session_id] = self.deleted[session_id].not_done()

    def note_deleted(self, session_id: str, asked: datetime, answered: datetime) -> None:
        """The deletion of a session was acknowledged, up to a time that lies between these."""
        asked_for = self.deleted.get(session_id) or Deletion.asked_for(self.records_sent, None)
        self.deleted[session_id] = asked_for.done(asked, answered, self.records_sent)

    def _as_sent(self, kind: str, record: Record) -> Record:
        self.records_sent += 1
        state = task_as_answered(record) if kind == "tasks" else session_as_answered(record)
        return state if state["event_time"] is not None else state | {"event_time": ServiceTime(self.records_sent)}

    def _keep(self, kind: str, states: Iterable[Record]) -> None:
        for state in states:
            kept = self.cells[cell_of(state)] if kind == "tasks" else self.sessions[str(state["session_id"])]
            if state not in kept:
                kept.append(state)

    def recognised(self, row: Record) -> Record:
        """A task; if it was sent without event time, with what stands for the service's time instead of that."""
        for state in self.tasks_sent.get(str(row["task_id"]), ()):
            if not is_timed(state) and row | {"event_time": state["event_time"]} == state:
                return state
        return row

    @property
    def session_ids(self) -> set[str]:
        """Of all sessions that were sent, and of all that tasks have named."""
        named = {str(task["session_id"]) for tasks in self.tasks_sent.values() for task in tasks}
        return named | self.sessions_sent.keys()

    # ------------------------------------------------------------------------------------------------- the rules

    def check(self, kept: Kept) -> Verdict:
        """Whether each acknowledged record is stored, or a dead letter, or rightly deleted, once, at its newest state."""
        if kept.deleted_up_to is not None:
            self._take_over(kept.deleted_up_to)
        tasks = [self.recognised(row) for row in kept.tasks]
        sessions = [self._recognised_session(row) for row in kept.sessions]
        letters = [Letter(each.reason, self.recognised(each.task)) for each in kept.letters]
        self._complete_batches(tasks, sessions, letters)
        parts = [_kept_twice(kept), *self._check_cells(tasks, letters), *self._check_sessions(sessions)]
        return Verdict(*(list(chain.from_iterable(getattr(part, name) for part in parts)) for name in _NAMES))

    def _take_over(self, deleted_up_to: Mapping[str, datetime]) -> None:
        """What the database itself says of deletions has to be as it was answered, and is exact."""
        if deleted_up_to.keys() != self.deleted.keys():
            raise WrongAnswer(f"deleted are besides: {deleted_up_to.keys() ^ self.deleted.keys()}")
        for session_id, deletion in self.deleted.items():
            up_to = deleted_up_to[session_id]
            if not deletion.earliest <= up_to <= deletion.latest:
                raise WrongAnswer(f"{session_id} is deleted up to {up_to}, and not {deletion}")
            self.deleted[session_id] = replace(deletion, earliest=up_to, latest=up_to)

    def _recognised_session(self, row: Record) -> Record:
        """Likewise; it was sent in parts that merge each by itself."""
        for state in self._session_states(str(row["session_id"])):
            time = {"event_time": state["event_time"]}
            if isinstance(state["event_time"], ServiceTime) and _record(row) | time == _record(state):
                return row | time
        return row

    def _complete_batches(self, tasks: Sequence[Record], sessions: Sequence[Record], letters: Sequence[Letter]) -> None:
        """A batch that was never answered and of which something is there was kept, and so all of it."""
        held: defaultdict[str, list[Record]] = defaultdict(list)
        for task in (*tasks, *(letter.task for letter in letters)):
            held[str(task["task_id"])].append(task)
        stored = {str(session["session_id"]): session for session in sessions}
        for sending in [*self._unanswered.values()]:
            if any(self._shows(sending.kind, state, held, stored) for state in sending.states):
                del self._unanswered[id(sending)]
                self._keep(sending.kind, sending.states)

    def _shows(
        self, kind: str, state: Record, held: Mapping[str, Sequence[Record]], stored: Mapping[str, Record]
    ) -> bool:
        """Whether this state is there, and came with no other batch."""
        if kind == "tasks":
            task_id = str(state["task_id"])
            return state in held.get(task_id, ()) and self.tasks_sent[task_id].count(state) == 1
        row = stored.get(str(state["session_id"]))
        same = [sent for sent in self.sessions_sent[str(state["session_id"])] if _record(sent) == _record(state)]
        return row is not None and _record(row) == _record(state) and len(same) == 1

    def _fate(self, session_id: str, state: Record) -> Fate:
        deletion = self.deleted.get(session_id)
        return Fate.STAYS if deletion is None else deletion.fate(state["event_time"])

    def _staying(self, session_id: str, states: Iterable[Record], *fates: Fate) -> list[Record]:
        return [state for state in states if self._fate(session_id, state) in (fates or (Fate.STAYS,))]

    # ----------------------------------------------------------------------------------------------------- tasks

    def _check_cells(self, tasks: Sequence[Record], letters: Sequence[Letter]) -> Iterator[Verdict]:
        rows = {cell_of(row): row for row in tasks}
        letters_of: defaultdict[Cell, list[Letter]] = defaultdict(list)
        for letter in letters:
            letters_of[cell_of(letter.task)].append(letter)
        seen = Counter(str(row["task_id"]) for row in tasks)
        yield Verdict(duplicated=[f"task {key} is listed {times} times" for key, times in seen.items() if times > 1])
        for cell in self.cells.keys() | rows.keys() | letters_of.keys():
            yield self._check_cell(cell, rows.get(cell), letters_of[cell])

    def _check_cell(self, cell: Cell, row: Record | None, letters: Sequence[Letter]) -> Verdict:
        session_id, task_id = cell
        name = f"task {task_id} of session {session_id}"
        states = [*([row] if row else []), *(letter.task for letter in letters)]
        known = [state for state in states if state in self.tasks_sent.get(task_id, ())]
        held = self._staying(session_id, known, Fate.STAYS, Fate.EITHER)
        newest = max(self._staying(session_id, self.cells.get(cell, ())), key=task_order, default=None)
        behind = (
            newest is not None
            and not any(task_order(state) >= task_order(newest) for state in held)
            and not self._may_be_absent(cell, newest)
        )
        told = [f"{name}: {_told(newest)} was acknowledged, {' and '.join(map(_told, held)) or 'nothing'} is kept"]
        too_often = [state for state in states if states.count(state) > self._may_be_stamped(state)]
        wrong = self._invented(cell, row, letters)
        return Verdict(
            lost=told if behind and not held else [],
            regressed=told if behind and held else [],
            duplicated=[f"{name}: {_told(too_often[0])} is kept {len(too_often)} times"] if too_often else [],
            invented=[f"{name}: {wrong}"] if wrong else [],
        )

    def _may_be_stamped(self, state: Record) -> float:
        """How many event times the service may have given to it: one each time that it was sent."""
        time = state["event_time"]
        return 1 + self._sent_again[time] if isinstance(time, ServiceTime) else inf

    def _may_be_absent(self, cell: Cell, newest: Record) -> bool:
        """A state that is not completed and had lost to a completed one that the deletion dropped."""
        sent = [task for task in self.tasks_sent.get(cell[1], ()) if cell_of(task) == cell]
        completed = [task for task in sent if task["status"] == "completed"]
        return newest["status"] != "completed" and len(self._staying(cell[0], completed)) < len(completed)

    def _invented(self, cell: Cell, row: Record | None, letters: Sequence[Letter]) -> str:
        """A state that nobody sent; a row that is deleted, or whose session is; the letter of a deleted orphan."""
        session_id, task_id = cell
        sent = self.tasks_sent.get(task_id, ())
        for state in [*([row] if row else []), *(letter.task for letter in letters)]:
            if state not in sent:
                return f"{_told(state)} is kept, and was never sent"
        wrong = self._wrong_refusal(row, letters)
        if wrong:
            return wrong
        orphans = [letter.task for letter in letters if letter.reason == "unknown_session"]
        if session_id in self._perhaps_lost:
            orphans = []  # they were dead letters before the deletion, which only keeps them from being stored
        for state, how in [*([(row, "stored")] if row else []), *((orphan, "a dead letter") for orphan in orphans)]:
            if self._fate(session_id, state) is Fate.GONE:
                return f"{_told(state)} is {how}, though it is deleted: {self.deleted[session_id]}"
        if row and not self._staying(session_id, self._session_states(session_id), Fate.STAYS, Fate.EITHER):
            return "it is stored, and its session is deleted"
        return ""

    def _wrong_refusal(self, row: Record | None, letters: Sequence[Letter]) -> str:
        """What the database refuses is no row, and what it takes is not dead-lettered as refused."""
        if self.refused is None:
            return ""
        if row and self.refused(row):
            return f"{_told(row)} is stored, and the database refuses it"
        taken = [
            letter.task for letter in letters if letter.reason == "data_rejected" and not self.refused(letter.task)
        ]
        return f"{_told(taken[0])} is a dead letter, and the database takes it" if taken else ""

    # -------------------------------------------------------------------------------------------------- sessions

    def _session_states(self, session_id: str) -> Sequence[Record]:
        return self.sessions_sent.get(session_id, ())

    def _check_sessions(self, sessions: Sequence[Record]) -> Iterator[Verdict]:
        rows = {str(row["session_id"]): row for row in sessions}
        seen = Counter(str(row["session_id"]) for row in sessions)
        yield Verdict(duplicated=[f"session {key} is listed {times} times" for key, times in seen.items() if times > 1])
        for session_id in self.sessions.keys() | rows.keys():
            must = self._staying(session_id, self.sessions.get(session_id, ()))
            may = self._staying(session_id, self._session_states(session_id), Fate.STAYS, Fate.EITHER)
            row, name = rows.get(session_id), f"session {session_id}"
            if row is None:
                yield Verdict(lost=[f"{name}: {_told(must[-1])} was acknowledged"] if must else [])
            elif not may:
                yield Verdict(invented=[f"{name}: {_told(row)} is stored, and should not be"])
            else:
                invented = [f"{name}: {part}" for part in self._invented_parts(row, may)]
                regressed = [] if invented else [f"{name}: {part}" for part in self._regressed(row, must, may)]
                yield Verdict(regressed=regressed[:1], invented=invented[:1])

    def _regressed(self, row: Record, must: Sequence[Record], may: Sequence[Record]) -> Iterator[str]:
        """The parts that are older than what was acknowledged."""
        newest = max(must, key=session_order, default=None)
        if newest is not None and session_order(row) < session_order(newest):
            yield f"{_told(newest)} was acknowledged, {_told(row)} is stored"
        for name in COUNTERS:
            least = max((_number(state, name) for state in must), default=0)
            if _number(row, name) < least:
                yield f"{name} {least} was acknowledged, {row[name]} is stored"
        for name in _JSON_PARTS:
            best = max((state for state in must if state[name] is not None), key=session_order, default=None)
            same = [state for state in may if state[name] == row[name]]
            if best is None or row[name] == best[name]:
                continue
            if row[name] is None or not any(_time(state) >= _time(best) for state in same):
                yield f"{name} of {_told(best)} was acknowledged, an older one is stored"

    def _invented_parts(self, row: Record, may: Sequence[Record]) -> Iterator[str]:
        """The parts that nobody sent, or only before the deletion. Counters may be of before it."""
        if not any(_record(state) == _record(row) for state in may):
            yield f"{_told(row)} is stored, and was never sent"
        sent = self._session_states(str(row["session_id"]))
        for name in COUNTERS:
            if row[name] not in [state[name] for state in sent]:
                yield f"{name} {row[name]} is stored, and was never sent"
        for name in _JSON_PARTS:
            if row[name] is not None and row[name] not in [state[name] for state in may]:
                yield f"a {name} is stored that was never sent, or deleted"


def _kept_twice(kept: Kept) -> Verdict:
    """States that are there more than once, with the very same event time."""
    rows = {cell_of(row): row for row in kept.tasks}  # which of them are listed twice is told elsewhere
    states = [*rows.values(), *(letter.task for letter in kept.letters)]
    seen = Counter((*cell_of(state), str(state["event_time"]), state["status"], state["context"]) for state in states)
    twice = [(key, times) for key, times in seen.items() if times > 1]
    return Verdict(
        duplicated=[
            f"task {key[1]} of session {key[0]}: {key[3]} of {key[2]} is kept {times} times" for key, times in twice
        ]
    )


def as_moment(value: object) -> datetime:
    """A time that is there, as a value."""
    found = value if isinstance(value, datetime) else moment(value)
    if found is None:
        raise TypeError("it has no time")
    return found


def _record(session: Record) -> Record:
    """The part of a session that travels together."""
    return {name: value for name, value in session.items() if name not in _NOT_OF_THE_RECORD}


def _number(state: Record, name: str) -> int:
    return int(str(state[name]))


def _time(state: Record) -> tuple[object, int]:
    return session_order(state)[0], 0


def _told(state: Record | None) -> str:
    """A state for a message: without its texts."""
    return "nothing" if state is None else f"{state['status']} of {state['event_time']}"

"""What was sent and what was acknowledged, and what follows from it: the other side of every comparison.

The merge rule is stated here a second time, on purpose, from the documentation and not from the code.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from persistence_service.errors import PersistenceError

Record = dict[str, object]
"""A session or a task as JSON."""

UNFINISHED = ("pending", "processing")
_LONGEST_SHOWN = 500
_TIMES = ("event_time", "start_time", "end_time")
_SERVICE_TIMES = ("created_at", "updated_at")
_TASK_DEFAULTS: Record = {
    "target_text": None,
    "context": None,
    "error_message": None,
    "retry_count": 0,
    "duration_ms": None,
    "confidence": None,
    "start_time": None,
    "end_time": None,
}
_SESSION_DEFAULTS: Record = {
    "processing_tasks": 0,
    "total_tasks": 0,
    "completed_tasks": 0,
    "failed_tasks": 0,
    "game_info": None,
    "metadata": None,
}
COUNTERS = ("total_tasks", "completed_tasks", "failed_tasks")
_RANK = {status: rank for rank, status in enumerate(("pending", "processing", "failed", "cancelled", "completed"))}


class WrongAnswer(PersistenceError):  # noqa: N818  # errors are named for what happened
    """The service answered with what the contract does not have: a finding."""

    code = "WRONG_ANSWER"


def task_as_answered(sent: Record) -> Record:
    """A task as the service has to answer it, without the times that the service adds; times as values."""
    task = _TASK_DEFAULTS | sent
    confidence = task["confidence"]
    if confidence is not None:
        task["confidence"] = float(Decimal(repr(confidence)).quantize(Decimal("0.0001"), ROUND_HALF_EVEN))
    return task | {name: moment(task.get(name)) for name in _TIMES}


def session_as_answered(sent: Record) -> Record:
    """A session as the service has to answer it if it is sent alone; its event time as a value."""
    return _SESSION_DEFAULTS | sent | {"event_time": moment(sent.get("event_time"))}


def read(row: Mapping[str, object]) -> Record:
    """An answered row in the form of `task_as_answered`; what the service adds is checked on the way."""
    created, updated = (_answered_moment(row[name]) for name in _SERVICE_TIMES)
    if created is None or updated is None or created > updated:
        raise WrongAnswer(f"created_at is {created} and updated_at {updated} in {shortened(row)}")
    times: Record = {name: _answered_moment(row[name]) for name in _TIMES if name in row}
    return {name: value for name, value in row.items() if name not in _SERVICE_TIMES} | times


def task_order(task: Record) -> tuple[bool, object, int]:
    """Where a state of a task stands among the others: a completed one above all, then the newest."""
    return task["status"] == "completed", task["event_time"], _RANK[str(task["status"])]


def session_order(session: Record) -> tuple[object, int]:
    """Where a state of a session's record stands among the others."""
    return session["event_time"], _RANK[str(session["status"])]


def merged_session(states: Sequence[Record]) -> Record:
    """The session that these states make, in whatever order they arrived."""
    ordered = sorted(map(session_as_answered, states), key=session_order)
    session = dict(ordered[-1])
    for name in COUNTERS:
        session[name] = max(int(str(state[name])) for state in ordered)
    for name in ("game_info", "metadata"):
        session[name] = next((state[name] for state in reversed(ordered) if state[name] is not None), None)
    return session


def moment(text: object) -> datetime | None:
    """A time in a record, as a value; without an offset it is UTC."""
    if text is None:
        return None
    moment = datetime.fromisoformat(str(text))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _answered_moment(text: object) -> datetime | None:
    if text is not None and not str(text).endswith("Z"):
        raise WrongAnswer(f"{text} is no time in UTC with Z")
    return moment(text)


def shortened(value: object) -> str:
    """`value` for a message."""
    return repr(value)[:_LONGEST_SHOWN]


@dataclass(frozen=True)
class Verdict:
    """The four numbers, and the first few keys behind each."""

    lost: Sequence[str] = ()
    regressed: Sequence[str] = ()
    duplicated: Sequence[str] = ()
    invented: Sequence[str] = ()

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {len(keys)}" + (f" (such as {keys[0]!r})" if keys else "")
            for name, keys in (
                ("lost", self.lost),
                ("regressed", self.regressed),
                ("duplicated", self.duplicated),
                ("invented", self.invented),
            )
        )

    def __bool__(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.regressed or self.duplicated or self.invented)


@dataclass
class Ledger:
    """The states of every record that were sent, and the best that was acknowledged."""

    tasks_sent: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    tasks_kept: dict[str, Record] = field(default_factory=dict)
    sessions_sent: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    sessions_kept: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    batches_sent: int = 0
    _awaited: dict[int, asyncio.Event] = field(default_factory=dict)

    def sending(self, kind: str, records: Iterable[Record]) -> None:
        """A batch is about to leave for the first time: from now on any of it may be stored."""
        for record in records:
            if kind == "tasks":
                self.tasks_sent[str(record["task_id"])].append(task_as_answered(record))
            else:
                self.sessions_sent[str(record["session_id"])].append(session_as_answered(record))
        self.batches_sent += 1
        if event := self._awaited.get(self.batches_sent):
            event.set()

    def acknowledged(self, kind: str, records: Iterable[Record]) -> None:
        """A batch was answered 200: from now on none of it may be missing."""
        for record in records:
            if kind == "tasks":
                task = task_as_answered(record)
                kept = self.tasks_kept.setdefault(str(record["task_id"]), task)
                if task_order(task) > task_order(kept):
                    self.tasks_kept[str(record["task_id"])] = task
            else:
                self.sessions_kept[str(record["session_id"])].append(record)

    async def reached(self, batches: int) -> None:
        """Wait until so many batches have left."""
        if self.batches_sent < batches:
            await self._awaited.setdefault(batches, asyncio.Event()).wait()

    # -------------------------------------------------------------------------------------------- what follows

    def judge(self, rows: Iterable[Record]) -> Verdict:
        """What is wrong with `rows`, all tasks that are stored."""
        rows = list(rows)
        found = {str(row["task_id"]): row for row in rows}
        seen = Counter(str(row["task_id"]) for row in rows)
        return Verdict(
            lost=[key for key in self.tasks_kept if key not in found],
            regressed=[key for key, row in found.items() if self.is_regressed(row)],
            duplicated=[key for key, times in seen.items() if times > 1],
            invented=[key for key, row in found.items() if not self.was_sent(row)],
        )

    def is_regressed(self, row: Record) -> bool:
        """Whether a newer state of this task was acknowledged."""
        kept = self.tasks_kept.get(str(row["task_id"]))
        return kept is not None and task_order(row) < task_order(kept)

    def was_sent(self, row: Record) -> bool:
        """Whether this task, every field of it, is a state that was sent."""
        return row in self.tasks_sent.get(str(row["task_id"]), ())

    def tasks_of(self, session_id: str) -> list[Record]:
        """The newest states of a session's tasks, in position order."""
        tasks = [task for task in self.tasks_kept.values() if task["session_id"] == session_id]
        return sorted(tasks, key=position)

    def unfinished(self) -> dict[str, Counter[str]]:
        """The unfinished sessions, each with its counts of unfinished tasks."""
        left = {
            session_id: Counter[str]()
            for session_id, states in self.sessions_kept.items()
            if merged_session(states)["status"] in UNFINISHED
        }
        for task in self.tasks_kept.values():
            if task["status"] in UNFINISHED:
                left.setdefault(str(task["session_id"]), Counter())[str(task["status"])] += 1
        return left


def position(task: Record) -> tuple[str, int, str, str]:
    """What tasks are ordered by unless another order is asked for."""
    return str(task["sheet_name"]), int(str(task["row_index"])), str(task["column_name"]), str(task["task_id"])

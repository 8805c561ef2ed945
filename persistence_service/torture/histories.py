"""What clients send: histories of workbooks, drawn from a seed. Only their event times are those of the day."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from random import Random

from persistence_service.client import Ack
from persistence_service.client.batches import Kind
from persistence_service.torture.ledger import Record
from persistence_service.torture.poison import POISON

_MOST_IN_A_BATCH = 500
_POISONED = 0.006
_LONG = 0.003
_LONG_TEXT = "字" * 10_000
_TEXTS = ("Elvish Archer", "弓箭手", "'; DROP TABLE t; --", "nul \x00 within", "قوس \U0001f3f9", "", " ends blank ")
_IDS = ("{}/{}", "{}/{}?a#b", "{}/{}%2F", "{}/{} é", "{}/{} 漢")


class Manner(Enum):
    """How a batch is sent."""

    CLIENT = "by the client, until it is answered"
    COMPRESSED = "likewise, compressed"
    PLAIN = "without event times, until it is answered"
    ONCE = "once, whatever becomes of it"
    VANISH = "by one who leaves before the answer"
    CUT_OFF = "by one who leaves amid the body"


@dataclass(frozen=True, slots=True)
class Batch:
    """Sessions or tasks of one request."""

    kind: Kind
    records: Sequence[Record]
    ack: Ack | None = None
    manner: Manner = Manner.CLIENT


@dataclass(frozen=True, slots=True)
class Delete:
    """The session is deleted."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Somebody asks for a flush."""


Deed = Batch | Delete | Flush
Step = Sequence[Deed]
"""What is done at once; the next step comes when all of it is answered."""


class Author:
    """Writes the history of one client, workbook after workbook; `now` gives event times that increase.

    The same seed writes the same history, whatever becomes of it.
    """

    def __init__(self, seed: str, prefix: str, now: Callable[[], str]) -> None:
        self.seed = seed
        self._random = Random(seed)  # noqa: S311  # a history, not a secret
        self._prefix = prefix
        self._now = now
        self._revision = count(1)

    def history(self) -> Iterator[Step]:
        """Without end."""
        stories = [
            *[self._translated] * 4,
            *[self._in_disorder] * 2,
            *[self._raced] * 2,
            *[self._timeless] * 3,
            *[self._orphaned] * 2,
            *[self._deleted] * 2,
            *[self._deleted_under_work] * 2,
            *[self._in_doubt] * 3,
            self._stolen,
            self._whole_book,
        ]
        for number in count():
            yield from self._random.choice(stories)(f"{self._prefix}-{number}")

    # ----------------------------------------------------------------------------------------------------- stories

    def _translated(self, session_id: str) -> Iterator[Step]:
        """As a worker does it: pending, processing, done; then corrections, and what comes late a second time."""
        yield [self._send("sessions", [self._session(session_id, "processing")])]
        late: list[Batch] = []
        for numbers in self._batches():
            for status in ("pending", "processing", None):
                if status == "pending" and self._random.random() < 0.5:
                    continue
                batch = self._send("tasks", [self._task(session_id, number, status) for number in numbers])
                late += [batch] if self._random.random() < 0.15 else []
                yield [batch]
            if self._random.random() < 0.3:
                corrected = [self._task(session_id, number, "completed") for number in numbers[::2]]
                yield [self._send("tasks", corrected)]
            if late and self._random.random() < 0.5:
                yield [late.pop(self._random.randrange(len(late)))]
            if self._random.random() < 0.2:
                yield [self._send("sessions", [self._session(session_id, "processing")]), Flush()]
        yield [self._send("sessions", [self._session(session_id, "completed")]), *late]

    def _in_disorder(self, session_id: str) -> Iterator[Step]:
        """All states are recorded in order, and sent in any."""
        sessions = [self._session(session_id, status) for status in ("pending", "processing", "completed")]
        tasks = [
            self._task(session_id, number, status)
            for number in range(self._random.randrange(1, 12))
            for status in ("pending", "processing", "failed", None, None)
        ]
        batches = [self._send("sessions", [session]) for session in sessions]
        self._random.shuffle(tasks)
        while tasks:
            size = self._size()
            batches.append(self._send("tasks", tasks[:size]))
            del tasks[:size]
        self._random.shuffle(batches)
        for start in range(0, len(batches), 2):
            yield batches[start : start + 2]

    def _raced(self, session_id: str) -> Iterator[Step]:
        """Two clients translate the same cells at once."""
        yield [self._send("sessions", [self._session(session_id, "processing")])]
        for numbers in self._batches():
            for _ in range(self._random.randrange(1, 4)):
                yield [
                    self._send("tasks", [self._task(session_id, number, None) for number in numbers]) for _ in range(2)
                ]
            yield [self._send("sessions", [self._session(session_id, None)]) for _ in range(2)]

    def _timeless(self, session_id: str) -> Iterator[Step]:
        """Without event times, one request after the other: the service's clock decides."""
        yield [self._plain("sessions", [self._session(session_id, "processing")])]
        numbers = range(self._random.randrange(1, 30))
        for _ in range(self._random.randrange(2, 7)):
            chosen = [number for number in numbers if self._random.random() < 0.7]
            yield [self._plain("tasks", [self._task(session_id, number, None) for number in chosen or numbers])]
            if self._random.random() < 0.3:
                yield [self._plain("sessions", [self._session(session_id, None)])]

    def _orphaned(self, session_id: str) -> Iterator[Step]:
        """Tasks before their session, which comes later or never."""
        for numbers in self._batches():
            for status in ("processing", None):
                yield [self._send("tasks", [self._task(session_id, number, status) for number in numbers])]
        if self._random.random() < 0.8:
            yield [Flush()]
            yield [self._send("sessions", [self._session(session_id, "processing")])]

    def _deleted(self, session_id: str) -> Iterator[Step]:
        """Deleted with all its tasks; then what was sent comes late once more, and perhaps it begins anew."""
        sent: list[Batch] = []
        for _ in range(self._random.randrange(1, 4)):
            sent.append(self._send("sessions", [self._session(session_id, "processing")]))
            yield sent[-1:]
            for numbers in self._batches():
                sent.append(self._send("tasks", [self._task(session_id, number, None) for number in numbers]))
                yield sent[-1:]
            yield [Delete(session_id)]
            for batch in self._random.sample(sent, k=(len(sent) + 1) // 2):
                yield [batch]
        if self._random.random() < 0.7:
            yield [self._send("sessions", [self._session(session_id, None)])]
        if self._random.random() < 0.7:
            yield [self._send("tasks", [self._task(session_id, number, None) for number in range(self._size())])]

    def _deleted_under_work(self, session_id: str) -> Iterator[Step]:
        """Somebody deletes it while its worker goes on."""
        yield [self._send("sessions", [self._session(session_id, "processing")])]
        for place, numbers in enumerate(self._batches()):
            batches = [self._send("tasks", [self._task(session_id, number, None) for number in numbers]) for _ in "12"]
            yield [*batches, Delete(session_id)] if place == 1 else batches
        yield [self._send("sessions", [self._session(session_id, "completed")])]

    def _in_doubt(self, session_id: str) -> Iterator[Step]:
        """Batches of which nobody ever hears whether they were kept, between others of the same cells."""
        yield [self._send("sessions", [self._session(session_id, "processing")])]
        for numbers in self._batches():
            for _ in range(self._random.randrange(1, 5)):
                manner = self._random.choice((Manner.ONCE, Manner.ONCE, Manner.VANISH, Manner.CUT_OFF, Manner.CLIENT))
                tasks = [self._task(session_id, number, None) for number in numbers]
                yield [Batch("tasks", tasks, self._ack(), manner)]
            doubtful = Batch("sessions", [self._session(session_id, None)], self._ack(), Manner.ONCE)
            yield [doubtful, self._send("sessions", [self._session(session_id, None)])]

    def _stolen(self, session_id: str) -> Iterator[Step]:
        """Another session reports tasks of one that is known: they can't be stored."""
        thief = f"{session_id}x"
        yield [self._send("sessions", [self._session(name, "processing") for name in (session_id, thief)])]
        numbers = range(self._random.randrange(1, 10))
        own = [self._task(session_id, number, "processing") for number in numbers]
        yield [self._send("tasks", own)]
        stolen = [self._task(session_id, number, None) | {"session_id": thief} for number in numbers[::2]]
        yield [self._send("tasks", stolen)]
        yield [self._send("tasks", [self._task(session_id, number, None) for number in numbers])]

    def _whole_book(self, session_id: str) -> Iterator[Step]:
        """As much as fits into a batch."""
        yield [self._send("sessions", [self._session(session_id, "processing")])]
        for status in ("pending", None):
            numbers = range(self._random.randrange(100, _MOST_IN_A_BATCH + 1))
            yield [self._send("tasks", [self._task(session_id, number, status) for number in numbers])]
        yield [self._send("sessions", [self._session(session_id, "completed")])]

    # ----------------------------------------------------------------------------------------------------- records

    def _send(self, kind: Kind, records: Sequence[Record]) -> Batch:
        manner = Manner.COMPRESSED if self._random.random() < 0.3 else Manner.CLIENT
        return Batch(kind, records, self._ack(), manner)

    def _plain(self, kind: Kind, records: Sequence[Record]) -> Batch:
        timeless = [{name: value for name, value in record.items() if name != "event_time"} for record in records]
        return Batch(kind, timeless, self._ack(), Manner.PLAIN)

    def _ack(self) -> Ack | None:
        weighed: tuple[Ack | None, ...] = (None, "journal", "memory", "storage")
        return self._random.choices(weighed, (14, 2, 2, 2))[0]

    def _size(self) -> int:
        return self._random.choice((1, 1, 2, 3, 5, 8, 13, 21, 34))

    def _batches(self) -> Iterator[range]:
        """The cells of a workbook, some at a time."""
        first = 0
        for _ in range(self._random.randrange(1, 5)):
            size = self._size()
            yield range(first, first + size)
            first += size

    def _status(self) -> str:
        return self._random.choices(("completed", "failed", "processing", "cancelled", "pending"), (12, 3, 3, 1, 1))[0]

    def _source_text(self) -> str:
        rare = self._random.random()
        if rare < _POISONED:
            return POISON
        return _LONG_TEXT if rare > 1 - _LONG else self._random.choice(_TEXTS)

    def _session(self, session_id: str, status: str | None) -> Record:
        draw = self._random
        session: Record = {
            "session_id": session_id,
            "filename": f"{self._prefix} {draw.choice(_TEXTS)}.xlsx",
            "file_path": f"/games/{next(self._revision)}.xlsx",
            "status": status or self._status(),
            "llm_provider": draw.choice(("openai", "anthropic", "human")),
            "total_tasks": draw.randrange(100),
            "completed_tasks": draw.randrange(100),
            "failed_tasks": draw.randrange(10),
            "processing_tasks": draw.randrange(10),
            "event_time": self._now(),
        }
        for name in ("game_info", "metadata"):
            if draw.random() < 0.5:
                session[name] = {"title": draw.choice(_TEXTS), "n": draw.randrange(2**40), "list": [1.5, None, {}]}
        return session

    def _task(self, session_id: str, number: int, status: str | None) -> Record:
        draw = self._random
        revision = next(self._revision)
        status = status or self._status()
        task: Record = {
            "task_id": _IDS[number % len(_IDS)].format(session_id, number),
            "session_id": session_id,
            "batch_id": f"batch {number // 20}",
            "sheet_name": ("Sheet 1", "对话", "")[number % 3],
            "row_index": number,
            "column_name": "target",
            "source_text": self._source_text(),
            "context": f"revision {revision}",
            "status": status,
            "retry_count": draw.randrange(3),
            "event_time": self._now(),
        }
        if status == "completed":
            task |= {"target_text": f"{draw.choice(_TEXTS)} {revision}", "confidence": draw.random()}
            task |= {"duration_ms": draw.randrange(100_000), "end_time": task["event_time"]}
        elif status == "failed":
            task["error_message"] = draw.choice(_TEXTS)
        return task

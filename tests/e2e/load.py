"""A load that lasts as long as a test wants: workers, one who waits for storage, and readers; what each got is kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from random import Random
from time import monotonic
from typing import Self

import msgspec

from persistence_service.client import TaskRequest
from persistence_service.torture.ledger import Ledger, Record, read
from tests.e2e.caller import BASE, Caller, segment
from tests.e2e.drill import Drill, workbook
from tests.e2e.test_kill import any_moment
from tests.e2e.workbooks import Workbook
from tests.e2e.worker import Worker

_WORKERS = 4
_READERS = 2
_TASKS = 100
_BATCH = 25
_STORED_AT_ONCE = 5
# Between two reports, and two reads: so that there are not more records in the end than can be compared in seconds.
_REPORT_PAUSE_S = 0.2
_READ_PAUSE_S = 0.03


@dataclass(frozen=True, slots=True)
class Answered:
    """A request: what it was, its answer (a status, or the durability of a batch), and when it was sent and answered."""

    what: str
    answer: str
    sent_at: float
    at: float

    @property
    def took_s(self) -> float:
        """How long it took."""
        return self.at - self.sent_at


class _PacedWorker(Worker):
    """Notes when each report was acknowledged, and pauses after it."""

    def __init__(self, caller: Caller, ledger: Ledger, book: Workbook, noted: list[Answered]) -> None:
        super().__init__(caller, ledger, book, batch_size=_BATCH)
        self._noted = noted

    async def report(self, kind: str, records: list[Record]) -> None:
        sent_at = monotonic()
        await super().report(kind, records)
        self._noted.append(Answered(kind, "journal", sent_at, monotonic()))
        await any_moment(_REPORT_PAUSE_S)


class Load:
    """All that goes on at once; begun and ended by `on`."""

    READS = ("a session", "a task", "tasks of a session", "tasks", "sessions", "health")
    workers = _WORKERS

    def __init__(self, drill: Drill) -> None:
        self._caller = drill.caller
        self._ledger = drill.account
        self._random = Random(1)
        self._is_over = False
        self.reports: list[Answered] = []
        self.stored: list[Answered] = []
        self.reads: list[Answered] = []

    @classmethod
    @asynccontextmanager
    async def on(cls, drill: Drill) -> AsyncIterator[Self]:
        """The load goes on during the block; at its end everyone finishes what he is at."""
        load = cls(drill)
        async with asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(load._work(number))
            group.create_task(load._store())
            for _ in range(_READERS):
                group.create_task(load._read())
            yield load
            load._is_over = True

    async def _work(self, worker: int) -> None:
        for number in count():
            if self._is_over:
                break
            book = workbook(f"worker-{worker}-{number}", _TASKS)
            await _PacedWorker(self._caller, self._ledger, book, self.reports).work()

    async def _store(self) -> None:
        """Tasks of one session, a few at a time, the next when these are stored."""
        book = workbook("stored", 1)
        worker = _PacedWorker(self._caller, self._ledger, book, self.reports)
        await worker.report_session("processing")
        for number in count():
            if self._is_over:
                break
            tasks = [
                worker.finished(book.tasks[0] | {"task_id": f"stored/{number}/{place}", "row_index": number})
                for place in range(_STORED_AT_ONCE)
            ]
            self._ledger.sending("tasks", tasks)
            sent_at = monotonic()
            receipt = await self._caller.client.send_tasks(msgspec.convert(tasks, list[TaskRequest]), ack="storage")
            self._ledger.acknowledged("tasks", tasks)
            self.stored.append(Answered(f"stored/{number}/0", receipt.durability, sent_at, monotonic()))
            await any_moment(_READ_PAUSE_S)

    async def _read(self) -> None:
        while not self._is_over:
            for what in self.READS:
                await self._read_once(what)
                await any_moment(_READ_PAUSE_S)

    async def _read_once(self, what: str) -> None:
        """Of what was acknowledged before: so nothing that is asked for is unknown."""
        if not (self._ledger.tasks_kept and self._ledger.sessions_kept):
            return
        session_id = self._random.choice(list(self._ledger.sessions_kept))
        task_id = self._random.choice(list(self._ledger.tasks_kept))
        path = {
            "a session": f"{BASE}/sessions/{segment(session_id)}",
            "a task": f"{BASE}/tasks/{segment(task_id)}",
            "tasks of a session": f"{BASE}/sessions/{segment(session_id)}/tasks",
            "tasks": f"{BASE}/tasks",
            "sessions": f"{BASE}/sessions",
            "health": "/health",
        }[what]
        sent_at = monotonic()
        answer = await self._caller.get_once(path)
        self.reads.append(Answered(what, str(answer.status_code), sent_at, monotonic()))
        if what == "a task" and answer.is_success:
            assert self._ledger.was_sent(read(answer.json()))

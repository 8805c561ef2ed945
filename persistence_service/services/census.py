"""Counting everything in the database: in queries that are each bounded, with rests between them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from persistence_service.buffer.timing import Timing
from persistence_service.errors import QueryTimeout
from persistence_service.models.status import Status
from persistence_service.services.query import POSITION
from persistence_service.storage.backend import Reader
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.query import (
    COUNT,
    Aggregate,
    Between,
    Condition,
    Equals,
    Measurement,
    Query,
    Sort,
    Value,
)

T = TypeVar("T")

_MEASURED = ("duration_ms", "confidence")
_FIGURES = (COUNT, *(Measurement(kind, name) for name in _MEASURED for kind in (Aggregate.COUNT, Aggregate.MEAN)))


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that one query has to do with: sessions listed, tasks counted by the database, tasks read."""

    sessions: int = 500
    counted_tasks: int = 500_000
    read_tasks: int = 5_000


@dataclass(slots=True)
class Average:
    """A mean that is put together of parts; None while there is no value."""

    count: int = 0
    total: float = 0

    def add(self, count: int, mean: float | None) -> None:
        """`count` more values, which have this mean."""
        if mean is not None:
            self.count += count
            self.total += count * float(mean)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Census:
    """Sessions and tasks by status, and the averages of those tasks' durations and confidences that have one."""

    sessions: Counter[Status] = field(default_factory=Counter)
    tasks: Counter[Status] = field(default_factory=Counter)
    duration_ms: Average = field(default_factory=Average)
    confidence: Average = field(default_factory=Average)


class CensusTaker:
    """Takes one census of a backend. `busy_s` is how long the backend has been at work for it.

    Sessions are walked by key, and the tasks of some of them at a time are counted by the database, so what was there all
    the time is counted once, and a session's tasks are counted as they were at one moment. Where these are too many for one
    query they are read in pages, by position.

    After each query the backend rests for as long as that took.
    """

    def __init__(self, backend: Reader, timing: Timing, bounds: Bounds = Bounds()) -> None:
        self._backend = backend
        self._timing = timing
        self._bounds = bounds
        self._never = asyncio.Event()
        self._census = Census()
        self.busy_s = 0.0

    async def take(self) -> Census:
        """Everything, counted.

        Raises:
            Unavailable, StorageError: the backend did not answer.
        """
        order = (Sort(SESSIONS.key),)
        after: tuple[Value, ...] | None = None
        while True:
            query = Query(order=order, after=after, limit=self._bounds.sessions)
            rows = await self._ask(self._backend.select(SESSIONS, (SESSIONS.key, "status"), query))
            self._census.sessions.update(Status(status) for _, status in rows)
            if rows:
                await self._count_tasks([key for key, _ in rows])
            if len(rows) < self._bounds.sessions:
                return self._census
            after = (rows[-1][0],)

    async def _count_tasks(self, sessions: Sequence[str]) -> None:
        """Those of neighbouring sessions: together if the database can, else of each half."""
        if await self._group((Between("session_id", sessions[0], sessions[-1]),)):
            return
        if len(sessions) == 1:
            await self._read(sessions[0])
            return
        half = len(sessions) // 2
        await self._count_tasks(sessions[:half])
        await self._count_tasks(sessions[half:])

    async def _group(self, where: Sequence[Condition]) -> bool:
        """Whether the matching tasks were counted: not if there are too many for one query, or it took too long."""
        try:
            tasks = await self._ask(self._backend.count(TASKS, where, at_most=self._bounds.counted_tasks + 1))
            if tasks > self._bounds.counted_tasks:
                return False
            # By session too, as the index has them: then the database need not sort.
            groups = await self._ask(
                self._backend.aggregate(TASKS, group_by=("session_id", "status"), measure=_FIGURES, where=where)
            )
        except QueryTimeout:
            return False
        for group in groups:
            count, durations, duration_ms, confidences, confidence = group.figures
            self._census.tasks[Status(group.keys[1])] += count
            self._census.duration_ms.add(durations, duration_ms)
            self._census.confidence.add(confidences, confidence)
        return True

    async def _read(self, session_id: str) -> None:
        order = (*(Sort(name) for name in POSITION), Sort(TASKS.key))
        fields = (*(term.field for term in order), "status", *_MEASURED)
        after: tuple[Value, ...] | None = None
        while True:
            query = Query((Equals("session_id", session_id),), order, after, limit=self._bounds.read_tasks)
            rows = await self._ask(self._backend.select(TASKS, fields, query))
            for *_, status, duration_ms, confidence in rows:
                self._census.tasks[Status(status)] += 1
                self._census.duration_ms.add(1, duration_ms)
                self._census.confidence.add(1, confidence)
            if len(rows) < self._bounds.read_tasks:
                return
            after = rows[-1][: len(order)]

    async def _ask(self, question: Awaitable[T]) -> T:
        """The answer, after a rest."""
        begun = self._timing.monotonic()
        try:
            answer = await question
        finally:
            took = self._timing.monotonic() - begun
            self.busy_s += took
        await self._timing.wait(self._never, took)
        return answer

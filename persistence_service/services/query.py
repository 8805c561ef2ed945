"""Reads: lists by page or cursor from the backend, single records from wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec

from persistence_service.buffer.tombstones import deletions_of, left_of
from persistence_service.errors import (
    FieldProblem,
    SessionNotFound,
    StorageError,
    TaskNotFound,
    Unavailable,
    ValidationFailed,
)
from persistence_service.fleet.whole import WholeBuffer
from persistence_service.models.answers import Page
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.services.cursor import decode_cursor, encode_cursor, fingerprint_of
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.storage.query import Between, Condition, Contains, Equals, Query, Sort, Value
from persistence_service.storage.registry import StorageRegistry

R = TypeVar("R", Session, Task)

MAX_OFFSET = 100_000
MAX_INEXACT_TOTAL = 100_000
MAX_PAGE_BYTES = 32 * 1024 * 1024
_ROWS_AT_ONCE = 64
POSITION = ("sheet_name", "row_index", "column_name")


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions: all given conditions hold; `filename` is contained, times are of creation and inclusive."""

    status: Status | None = None
    from_date: datetime | None = None
    to_date: datetime | None = None
    filename: str | None = None
    llm_provider: str | None = None

    def conditions(self) -> list[Condition]:
        """The filter as a backend understands it."""
        return [
            *_equals(status=self.status, llm_provider=self.llm_provider),
            *_created(self.from_date, self.to_date),
            *([Contains("filename", self.filename)] if self.filename else []),
        ]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks: all given conditions hold; times are of creation and inclusive."""

    session_id: str | None = None
    status: Status | None = None
    sheet_name: str | None = None
    batch_id: str | None = None
    from_date: datetime | None = None
    to_date: datetime | None = None

    def conditions(self) -> list[Condition]:
        """The filter as a backend understands it."""
        return [
            *_equals(
                session_id=self.session_id, status=self.status, sheet_name=self.sheet_name, batch_id=self.batch_id
            ),
            *_created(self.from_date, self.to_date),
        ]

    @property
    def counts_cheaply(self) -> bool:
        """Whether the matching tasks are few enough to be counted: those of one session or one batch."""
        return self.session_id is not None or self.batch_id is not None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: by number, or behind `cursor`. `fresh` flushes first; without `count` the total stays unknown."""

    page: int = 1
    page_size: int = 20
    sort_by: tuple[str, ...] = ("created_at",)
    descending: bool = True
    cursor: str | None = None
    count: bool = True
    fresh: bool = False


class QueryService:
    """Answers the query endpoints."""

    def __init__(self, *, registry: StorageRegistry, buffer: WholeBuffer) -> None:
        self._registry = registry
        self._buffer = buffer

    async def sessions(self, which: SessionFilter, page: PageRequest) -> Page[Session]:
        """One page of sessions.

        Raises:
            ValidationFailed: a cursor of another list, or a page too deep.
            StorageUnavailable: the backend is away, or the query took too long.
        """
        return await self._page(SESSIONS, which.conditions(), page, exact=True)

    async def tasks(self, which: TaskFilter, page: PageRequest) -> Page[Task]:
        """One page of tasks; as `sessions`."""
        return await self._page(TASKS, which.conditions(), page, exact=which.counts_cheaply)

    async def tasks_of(self, session_id: str, which: TaskFilter, page: PageRequest) -> Page[Task]:
        """One page of a session's tasks; as `sessions`.

        Raises:
            SessionNotFound: no such session, neither stored nor buffered.
        """
        buffered, is_whole = await self._buffer.glimpse(session_id)
        if await self._one(SESSIONS, session_id, _if_any(buffered)) is None:
            if is_whole:
                raise SessionNotFound(session_id)
            await self.session(session_id)  # raises, unless it has turned up since
        return await self.tasks(which, page)

    async def session(self, session_id: str) -> Session:
        """The session with everything accepted, buffered or stored.

        Raises:
            SessionNotFound: there is none.
            Unavailable: that can't be known now.
        """
        found = await self._one(SESSIONS, session_id, _if_any(await self._buffer.session(session_id)))
        if found is None:
            raise SessionNotFound(session_id)
        return found

    async def task(self, task_id: str) -> Task:
        """The task with everything accepted; as `session`.

        Raises:
            TaskNotFound: there is none.
            Unavailable: that can't be known now.
        """
        found = await self._one(TASKS, task_id, await self._buffer.tasks(task_id))
        if found is None:
            raise TaskNotFound(task_id)
        return found

    async def _one(self, collection: Collection[R], key: str, buffered: Sequence[R]) -> R | None:
        # The buffer is looked at first: what a flush moves to the backend meanwhile is then seen twice, never missed.
        backend = self._registry.backend_for(collection)
        try:
            found: list[R] = await backend.read(collection, [key])
            deleted = await deletions_of(backend, (record.session_id for record in (*found, *buffered)))
        except (Unavailable, StorageError):
            if not buffered:
                raise
            return buffered[0]
        # Either may be deleted and still there: the rows are removed step by step, and a flush drops what is buffered.
        stored = left_of(found[0], deleted) if found else None
        views = [left for record in buffered if (left := left_of(record, deleted)) is not None]
        if stored is None:
            return views[0] if views else None
        for view in views:
            if collection.fixed_of(view) == collection.fixed_of(stored):
                return collection.merge(stored, view)
        return stored  # buffered records that contradict the stored one will be refused

    async def _page(
        self, collection: Collection[R], where: Sequence[Condition], page: PageRequest, *, exact: bool
    ) -> Page[R]:
        offset = 0 if page.cursor else (page.page - 1) * page.page_size
        if offset + page.page_size > MAX_OFFSET:
            reason = f"reaches beyond {MAX_OFFSET} records; follow next_cursor instead"
            raise ValidationFailed([FieldProblem(None, "page", reason)])
        if page.fresh:
            await self._buffer.flush()
        query = Query(where=where, order=tuple(Sort(field, page.descending) for field in page.sort_by))
        items, next_cursor = await page_of(
            self._registry, collection, query, cursor=page.cursor, offset=offset, limit=page.page_size
        )
        if next_cursor is not None and len(items) < page.page_size:  # by number, what is left out would never be shown
            reason = f"is over {MAX_PAGE_BYTES} bytes of these records; ask for fewer at once"
            raise ValidationFailed([FieldProblem(None, "page_size", reason)])
        total = await self._total(collection, where, exact=exact) if page.count else None
        total_exact = total is not None and (exact or total <= MAX_INEXACT_TOTAL)
        if total is not None and not total_exact:
            total = MAX_INEXACT_TOTAL
        return Page(
            total=total,
            total_exact=total_exact,
            page=None if page.cursor else page.page,
            page_size=page.page_size,
            total_pages=None if total is None else -(-total // page.page_size),
            items=items,
            next_cursor=next_cursor,
        )

    async def _total(self, collection: Collection[R], where: Sequence[Condition], *, exact: bool) -> int:
        at_most = None if exact else MAX_INEXACT_TOTAL + 1
        return await self._registry.backend_for(collection).count(collection, where, at_most=at_most)


async def page_of(
    registry: StorageRegistry,
    collection: Collection[R],
    query: Query,
    *,
    cursor: str | None,
    limit: int,
    offset: int = 0,
) -> tuple[list[R], str | None]:
    """`limit` records of `query` behind `cursor`, and the cursor of what follows, None at the end.

    A page ends early, but not before its first record, when it would be an answer of more than 32 MiB. It is read in pieces, so
    that no more than one of these is in memory beyond that.

    Raises:
        ValidationFailed: the cursor belongs to another list.
    """
    order = query.total_order(collection.key)
    fingerprint = fingerprint_of(collection.name, query.where, order)
    after: Sequence[Value] | None = decode_cursor(cursor, fingerprint, order, collection.record) if cursor else None
    backend = registry.backend_for(collection)
    rows: list[R] = []
    size = 0
    while True:
        wanted = min(limit + 1 - len(rows), _ROWS_AT_ONCE)
        piece = Query(where=query.where, order=order, after=after, offset=offset, limit=wanted)
        found = await backend.query(collection, piece)
        for row in found:
            size += len(msgspec.json.encode(row))
            if len(rows) == limit or (rows and size > MAX_PAGE_BYTES):
                return rows, encode_cursor(fingerprint, _place(rows[-1], order))
            rows.append(row)
        if len(found) < wanted:
            return rows, None
        after, offset = _place(rows[-1], order), 0


def _if_any(record: R | None) -> Sequence[R]:
    return () if record is None else (record,)


def _place(record: msgspec.Struct, order: Sequence[Sort]) -> tuple[Value, ...]:
    return tuple(getattr(record, term.field) for term in order)


def _equals(**values: str | None) -> list[Condition]:
    return [Equals(field, value) for field, value in values.items() if value is not None]


def _created(low: datetime | None, high: datetime | None) -> list[Condition]:
    return [Between("created_at", low, high)] if low or high else []

"""The one way of sessions and tasks into the backend: what was deleted stays deleted, whenever and from wherever it comes.

Everything is decided on in the transaction that writes, which holds the records' sessions first, so that a deletion at the same
moment, which holds its session alone, comes wholly before or wholly after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from persistence_service.buffer.tombstones import deletions_of, left_of
from persistence_service.models.tombstone import is_covered
from persistence_service.storage.backend import Rejection, RejectionReason, StorageBackend, Transaction
from persistence_service.storage.collections import SESSIONS, Collection
from persistence_service.storage.conflicts import repeating_conflicts
from persistence_service.storage.query import OneOf

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the records of one write.

    `stored` are merged into the backend; the others are told by their place: `dropped` were deleted before, `rejected`
    can't be stored as things are.
    """

    stored: int
    dropped: tuple[int, ...] = ()
    rejected: tuple[Rejection, ...] = ()


class RecordWriter:
    """Writes sessions and tasks, each a Struct with a `session_id` and an `event_time`."""

    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend

    async def write(self, collection: Collection[R], records: Sequence[R]) -> Written:
        """Merge `records` of sessions or tasks into the backend, in a transaction of its own.

        Raises:
            DataRejected: one of them can never be stored, and none was.
        """
        return await repeating_conflicts(lambda: self._write(collection, records))

    async def _write(self, collection: Collection[R], records: Sequence[R]) -> Written:
        async with self._backend.transaction() as transaction:
            return await write_records(transaction, collection, records)


async def write_records(transaction: Transaction, collection: Collection[R], records: Sequence[R]) -> Written:
    """As `RecordWriter.write`, in the caller's transaction."""
    sessions = {_session_id(record) for record in records}
    await transaction.lock(sessions)
    deleted = await deletions_of(transaction, sessions)
    if not deleted:
        result = await transaction.write(collection, records)
        return Written(result.stored, rejected=result.rejected)
    sent: Sequence[Any] = records  # sessions or tasks, as the caller promises
    left = [left_of(record, deleted) for record in sent]
    dead = await _dead_sessions(transaction, deleted)
    if collection.name == SESSIONS.name:
        revived = sorted({_session_id(record) for record in left if record is not None} & dead)
        if revived:  # the deletion that left it has not come so far; what is left of the old one goes with it
            await transaction.delete(SESSIONS, [OneOf(SESSIONS.key, revived)])
        orphaned: set[int] = set()
    else:
        orphaned = {index for index, record in enumerate(left) if record is not None and _session_id(record) in dead}
    places = [index for index, record in enumerate(left) if record is not None and index not in orphaned]
    result = await transaction.write(collection, [record for record in map(left.__getitem__, places) if record])
    rejected = [Rejection(places[rejection.index], rejection.reason) for rejection in result.rejected]
    rejected += [Rejection(index, RejectionReason.UNKNOWN_PARENT) for index in orphaned]
    return Written(
        stored=result.stored,
        dropped=tuple(index for index, record in enumerate(left) if record is None),
        rejected=tuple(sorted(rejected, key=lambda rejection: rejection.index)),
    )


async def _dead_sessions(transaction: Transaction, deleted: Mapping[str, datetime]) -> set[str]:
    """The sessions that are deleted and whose row is still there: they count as unknown."""
    stored = await transaction.read(SESSIONS, sorted(deleted))
    return {session.session_id for session in stored if is_covered(session.event_time, deleted[session.session_id])}


def _session_id(record: Any) -> str:  # noqa: ANN401  # a session or a task
    session_id: str = record.session_id
    return session_id

"""Which sessions are deleted, and up to when: asked of the tombstones, which are there before anything is removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypeVar

from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.models.tombstone import surviving
from persistence_service.storage.backend import Reader
from persistence_service.storage.collections import TOMBSTONES
from persistence_service.storage.query import OneOf, Query

R = TypeVar("R", Session, Task)


async def deletions_of(reader: Reader, session_ids: Iterable[str]) -> dict[str, datetime]:
    """By session: the event time up to which its records are deleted. To be asked after the records were read."""
    keys = sorted(set(session_ids))
    if not keys:
        return {}
    # Not by `read`, which in a transaction also keeps others from deleting a session that is not deleted yet.
    query = Query((OneOf(TOMBSTONES.key, keys),), limit=len(keys))
    return dict(await reader.select(TOMBSTONES, (TOMBSTONES.key, "deleted_up_to"), query))


def left_of(record: R, deleted: Mapping[str, datetime]) -> R | None:
    """What is left of `record` beside these deletions, None if it is deleted."""
    deleted_up_to = deleted.get(record.session_id)
    left: R | None = record if deleted_up_to is None else surviving(record, deleted_up_to)
    return left

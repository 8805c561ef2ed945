"""The buffer of one collection: accepted records that are not yet in the backend, merged by key.

An entry is in exactly one place: *waiting* (in order of arrival), *in flight* (a chunk was taken, and stays here until it is
settled, however often its write fails), or *aside* (the backend refused this record; it blocks nobody). It holds on to the
journal segments that its records came from until it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from typing import Generic, TypeVar

import msgspec

from persistence_service.journal.segment import Segment
from persistence_service.storage.collections import Collection

R = TypeVar("R", bound=msgspec.Struct)
Release = Callable[[Segment, int], None]


class Tickets:
    """Numbers arrivals, over all buffers of a service."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """One more than the last."""
        self.last += 1
        return self.last


class AsideReason(StrEnum):
    """Why a record waits outside of the flush."""

    UNKNOWN_SESSION = "unknown_session"
    TASK_ID_CONFLICT = "task_id_conflict"
    DATA_REJECTED = "data_rejected"


@dataclass(slots=True)
class Entry(Generic[R]):
    """One key's merged record, and what it stands for.

    `ticket` numbers its first arrival; `size` is in bytes of the journal's form; `holds` are items per journal segment.
    """

    record: R
    ticket: int
    arrived_s: float
    size: int
    holds: list[tuple[Segment, int]]


@dataclass(frozen=True, slots=True)
class Aside(Generic[R]):
    """An entry that the backend refused, with our words for it."""

    entry: Entry[R]
    reason: AsideReason
    detail: str


class RecordBuffer(Generic[R]):
    """Entries of one collection. Not thread-safe: used from the event loop alone."""

    def __init__(self, collection: Collection[R], release: Release) -> None:
        self.collection = collection
        self._release = release
        self._waiting: dict[str, Entry[R]] = {}
        self._in_flight: dict[str, Entry[R]] = {}
        self._orphans: dict[str, dict[str, Entry[R]]] = {}
        self._orphan_parent: dict[str, str] = {}
        self._refused: dict[str, list[Aside[R]]] = {}
        self._refused_count = 0
        self.size_bytes = 0
        self.merged = 0

    # ------------------------------------------------------------------------------------------------- figures

    @property
    def unflushed(self) -> int:
        """Records that the next flush will write: waiting or in flight."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Records that no chunk has been taken of."""
        return len(self._waiting)

    @property
    def orphans(self) -> int:
        """Records whose parent is not stored yet."""
        return len(self._orphan_parent)

    @property
    def refused(self) -> int:
        """Records that the backend can't accept."""
        return self._refused_count

    @property
    def total(self) -> int:
        """All records in memory."""
        return self.unflushed + self.orphans + self._refused_count

    @property
    def oldest_arrival_s(self) -> float | None:
        """Monotonic time of the oldest unflushed record's arrival, None when there is none."""
        heads = [next(iter(place.values())) for place in (self._in_flight, self._waiting) if place]
        return min((entry.arrived_s for entry in heads), default=None)

    def has_up_to(self, ticket: int) -> bool:
        """Whether anything that arrived up to `ticket` is still unflushed."""
        return bool(self._in_flight) or (bool(self._waiting) and next(iter(self._waiting.values())).ticket <= ticket)

    # ------------------------------------------------------------------------------------------------- arrival

    def add(self, entry: Entry[R]) -> None:
        """Take an entry in and merge it with what waits under its key."""
        key = self.collection.key_of(entry.record)
        self.size_bytes += entry.size
        if any(self._differs_in_fixed(present.record, entry.record) for present in self._entries(key)):
            self._refuse(key, Aside(entry, AsideReason.TASK_ID_CONFLICT, "another session has a task of this id"))
            return
        if key in self._orphan_parent:
            self.merged += 1
            entry = self._joined(self._pop_orphan(key), entry, ticket=entry.ticket)
        self._put(key, entry)

    def _put(self, key: str, entry: Entry[R]) -> None:
        present = self._waiting.get(key)
        if present is None:
            self._waiting[key] = entry
        else:
            self.merged += 1
            self._waiting[key] = self._joined(present, entry, ticket=present.ticket)

    def _joined(self, first: Entry[R], second: Entry[R], *, ticket: int) -> Entry[R]:
        merged = self.collection.merge(first.record, second.record)
        size = first.size if merged is first.record else max(first.size, second.size)
        self.size_bytes += size - first.size - second.size
        first.holds.extend(second.holds)
        return Entry(merged, ticket, min(first.arrived_s, second.arrived_s), size, _compact(first.holds))

    def _differs_in_fixed(self, present: R, arriving: R) -> bool:
        return any(getattr(present, field) != getattr(arriving, field) for field in self.collection.fixed)

    # --------------------------------------------------------------------------------------------------- flush

    def take(self, *, max_rows: int, max_bytes: int, up_to: int) -> list[Entry[R]]:
        """The next chunk: what is in flight already, else the oldest entries up to ticket `up_to`, moved in flight.

        At least one entry however large, if any waits.
        """
        if not self._in_flight:
            size = 0
            for key, entry in self._waiting.items():
                size += entry.size
                if len(self._in_flight) >= max_rows or entry.ticket > up_to or (self._in_flight and size > max_bytes):
                    break
                self._in_flight[key] = entry
            for key in self._in_flight:
                del self._waiting[key]
        return list(self._in_flight.values())

    def settle(self, entry: Entry[R]) -> None:
        """The entry is stored: let go of it and of its place in the journal."""
        del self._in_flight[self.collection.key_of(entry.record)]
        self._forget(entry)

    def set_orphan(self, entry: Entry[R]) -> None:
        """The entry's parent is not stored: keep it aside until `adopt` is called for that parent."""
        key = self.collection.key_of(entry.record)
        del self._in_flight[key]
        if key in self._waiting:  # a newer record arrived meanwhile: they travel on together
            newer = self._waiting[key]
            self._waiting[key] = self._joined(entry, newer, ticket=newer.ticket)
            return
        parent = self._parent_of(entry.record)
        self._orphans.setdefault(parent, {})[key] = entry
        self._orphan_parent[key] = parent

    def refuse(self, entry: Entry[R], reason: AsideReason, detail: str) -> None:
        """The backend can't accept the entry: keep it aside, in memory and in the journal."""
        key = self.collection.key_of(entry.record)
        del self._in_flight[key]
        self._refuse(key, Aside(entry, reason, detail))

    def adopt(self, parents: list[str] | None = None) -> int:
        """Queue the orphans of `parents` (None: of all) again, at the head; returns how many."""
        names = [name for name in (list(self._orphans) if parents is None else parents) if name in self._orphans]
        adopted: dict[str, Entry[R]] = {}
        for name in names:
            adopted |= self._orphans.pop(name)
        if adopted:
            for key in adopted:
                del self._orphan_parent[key]
            behind, self._waiting = self._waiting, dict(sorted(adopted.items(), key=lambda item: item[1].ticket))
            for key, entry in behind.items():
                self._put(key, entry)
        return len(adopted)

    # --------------------------------------------------------------------------------------------------- reads

    def view(self, key: str) -> R | None:
        """Everything known here of `key`, merged; None when nothing is. Refused records do not show."""
        records = [entry.record for entry in self._entries(key)]
        return reduce(self.collection.merge, records) if records else None

    def is_unsettled(self, key: str) -> bool:
        """Whether a flush has yet to write `key`."""
        return key in self._waiting or key in self._in_flight

    def aside(self) -> Iterator[Aside[R]]:
        """Every record that waits outside of the flush, orphans first."""
        for orphans in self._orphans.values():
            for entry in orphans.values():
                yield Aside(entry, AsideReason.UNKNOWN_SESSION, "its session is not known")
        for refused in self._refused.values():
            yield from refused

    def why_aside(self, record: R) -> AsideReason | None:
        """Why `record`'s key waits outside of the flush, None if it does not."""
        key = self.collection.key_of(record)
        if key in self._orphan_parent:
            return AsideReason.UNKNOWN_SESSION
        for aside in self._refused.get(key, ()):
            if aside.entry.record == record:
                return aside.reason
        return None

    def _entries(self, key: str) -> Iterator[Entry[R]]:
        if key in self._orphan_parent:
            yield self._orphans[self._orphan_parent[key]][key]
        for place in (self._in_flight, self._waiting):
            if key in place:
                yield place[key]

    # ------------------------------------------------------------------------------------------------- insides

    def _parent_of(self, record: R) -> str:
        assert self.collection.parent is not None, "only a collection with a parent has orphans"  # noqa: S101
        parent: str = getattr(record, self.collection.parent.field)
        return parent

    def _pop_orphan(self, key: str) -> Entry[R]:
        parent = self._orphan_parent.pop(key)
        siblings = self._orphans[parent]
        entry = siblings.pop(key)
        if not siblings:
            del self._orphans[parent]
        return entry

    def _refuse(self, key: str, aside: Aside[R]) -> None:
        self._refused.setdefault(key, []).append(aside)
        self._refused_count += 1

    def _forget(self, entry: Entry[R]) -> None:
        self.size_bytes -= entry.size
        for segment, items in entry.holds:
            self._release(segment, items)


def _compact(holds: list[tuple[Segment, int]]) -> list[tuple[Segment, int]]:
    """The same holds, one tuple a segment."""
    counts: dict[int, tuple[Segment, int]] = {}
    for segment, items in holds:
        _, present = counts.get(id(segment), (segment, 0))
        counts[id(segment)] = (segment, present + items)
    return list(counts.values())

"""The buffer of one collection: accepted records that are not yet in the backend, merged by key.

An entry is in exactly one place: *waiting* (in order of arrival), *in flight* (a chunk was taken, and stays here until it is
settled, however often its write fails), or *aside* (the backend refused this record; it blocks nobody). It holds on to the
journal segments that its records came from until it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce
from typing import Any, Generic, TypeVar

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


class UnstoredReason(StrEnum):
    """Why a record that will be flushed is not in the backend yet."""

    STORAGE_UNAVAILABLE = "storage_unavailable"


@dataclass(slots=True)
class Entry(Generic[R]):
    """One key's merged record, and what it stands for.

    `ticket` numbers its first arrival, `arrived_s` is the monotonic time of it; `size` is in bytes of the journal's form;
    `holds` are items per journal segment; `watched` are the tickets of batches in it whose senders wait for storage.
    """

    record: R
    ticket: int
    arrived_s: float
    size: int
    holds: tuple[tuple[Segment, int], ...]
    watched: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Aside(Generic[R]):
    """An entry that the backend refused, with our words for it."""

    entry: Entry[R]
    reason: AsideReason
    detail: str


OnRefused = Callable[[str, Aside[Any]], None]
"""Told of every refused record: its collection's name, and why."""


class RecordBuffer(Generic[R]):
    """Entries of one collection. Not thread-safe: used from the event loop alone.

    Waiting entries are in the order of their tickets. Everything of a key that is not refused agrees in the fixed fields.
    """

    def __init__(self, collection: Collection[R], release: Release, on_refused: OnRefused) -> None:
        self.collection = collection
        self._release = release
        self._on_refused = on_refused
        self._waiting: dict[str, Entry[R]] = {}
        self._in_flight: dict[str, Entry[R]] = {}
        self._orphans: dict[str, dict[str, Entry[R]]] = {}
        self._orphan_parent: dict[str, str] = {}
        self._refused: dict[str, list[Aside[R]]] = {}
        self._refused_count = 0
        self.size_bytes = 0
        self.aside_bytes = 0
        self.merged = 0
        self._awaited: set[int] = set()

    # ------------------------------------------------------------------------------------------------- figures

    @property
    def unflushed(self) -> int:
        """Records that the next flush will write: waiting or in flight."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def orphans(self) -> int:
        """Records whose parent is not stored yet."""
        return len(self._orphan_parent)

    @property
    def missing_parents(self) -> list[str]:
        """The parents that orphans wait for."""
        return list(self._orphans)

    @property
    def refused(self) -> int:
        """Records that the backend can't accept."""
        return self._refused_count

    @property
    def aside_count(self) -> int:
        """Records that no flush takes away: orphans and refused ones; `aside_bytes` is their size."""
        return self.orphans + self._refused_count

    @property
    def unflushed_bytes(self) -> int:
        """Size of what the next flush will write."""
        return self.size_bytes - self.aside_bytes

    @property
    def total(self) -> int:
        """All records in memory."""
        return self.unflushed + self.aside_count

    @property
    def oldest_arrival_s(self) -> float | None:
        """Monotonic time of the oldest unflushed record's arrival, None when there is none."""
        heads = [next(iter(place.values())) for place in (self._in_flight, self._waiting) if place]
        return min((entry.arrived_s for entry in heads), default=None)

    @property
    def oldest_aside_s(self) -> float | None:
        """Monotonic time of the arrival of the oldest record set aside, None when there is none. Looks at all of them."""
        return min((aside.entry.arrived_s for aside in self.aside()), default=None)

    def has_up_to(self, ticket: int) -> bool:
        """Whether anything that arrived up to `ticket` is still unflushed."""
        return bool(self._in_flight) or (bool(self._waiting) and next(iter(self._waiting.values())).ticket <= ticket)

    # ------------------------------------------------------------------------------------------------- arrival

    def add(self, entry: Entry[R]) -> None:
        """Take an entry in and merge it with what is here of its key, in its place; an orphan stays one.

        One that names another parent than what is here of its key is refused.
        """
        key = self.collection.key_of(entry.record)
        self.size_bytes += entry.size
        if key not in self._waiting and key not in self._in_flight and key not in self._orphan_parent:
            self._waiting[key] = entry
            return
        if any(self._differs_in_fixed(present.record, entry.record) for present in self._entries(key)):
            self._refuse(key, Aside(entry, AsideReason.TASK_ID_CONFLICT, "another session has a task of this id"))
            return
        if key in self._orphan_parent:
            orphans = self._orphans[self._orphan_parent[key]]
            self.aside_bytes -= orphans[key].size
            orphans[key] = self._joined(orphans[key], entry)
            self.aside_bytes += orphans[key].size
            return
        present = self._waiting.get(key)
        self._waiting[key] = entry if present is None else self._joined(present, entry)

    def _joined(self, older: Entry[R], newer: Entry[R]) -> Entry[R]:
        self.merged += 1
        record = self._merged(older.record, newer.record)
        size = older.size if record is older.record else len(msgspec.json.encode(record))
        self.size_bytes += size - older.size - newer.size
        holds = _compact((*older.holds, *newer.holds))
        watched = (*(ticket for ticket in older.watched if ticket in self._awaited), *newer.watched)
        return Entry(record, older.ticket, older.arrived_s, size, holds, watched)

    def _merged(self, present: R, arriving: R) -> R:
        """Both in one. What arrives may have been accepted earlier (replay comes late): `created_at` is the earlier one's."""
        record = self.collection.merge(present, arriving)
        fields = record.__struct_fields__
        if "created_at" in fields and arriving.created_at < record.created_at:  # type: ignore[attr-defined]  # checked
            record = msgspec.structs.replace(record, created_at=arriving.created_at)  # type: ignore[attr-defined]  # likewise
        return record

    def _differs_in_fixed(self, present: R, arriving: R) -> bool:
        return any(getattr(present, field) != getattr(arriving, field) for field in self.collection.fixed)

    # --------------------------------------------------------------------------------------------------- flush

    def take(self, *, max_rows: int, max_bytes: int) -> list[Entry[R]]:
        """The next chunk: what is in flight already, else the oldest entries, moved in flight.

        At least one entry however large, if any waits.
        """
        if not self._in_flight:
            size = 0
            for key, entry in self._waiting.items():
                size += entry.size
                if len(self._in_flight) >= max_rows or (self._in_flight and size > max_bytes):
                    break
                self._in_flight[key] = entry
            for key in self._in_flight:
                del self._waiting[key]
        return list(self._in_flight.values())

    def settle(self, entry: Entry[R]) -> None:
        """The entry is stored: let go of it and of its place in the journal."""
        del self._in_flight[self.collection.key_of(entry.record)]
        self.size_bytes -= entry.size
        for segment, items in entry.holds:
            self._release(segment, items)

    def set_orphan(self, entry: Entry[R]) -> None:
        """The entry's parent is not stored: keep it, and what arrived of its key since, until `adopt` names that parent."""
        key = self.collection.key_of(entry.record)
        del self._in_flight[key]
        newer = self._waiting.pop(key, None)
        if newer is not None:
            entry = self._joined(entry, newer)
        parent = self._parent_of(entry.record)
        self._orphans.setdefault(parent, {})[key] = entry
        self._orphan_parent[key] = parent
        self.aside_bytes += entry.size

    def refuse(self, entry: Entry[R], reason: AsideReason, detail: str) -> None:
        """The backend can't accept the entry: keep it aside, in memory and in the journal."""
        key = self.collection.key_of(entry.record)
        del self._in_flight[key]
        self._refuse(key, Aside(entry, reason, detail))

    def adopt(self, parents: Iterable[str]) -> None:
        """These parents are stored: their orphans wait for the next chunk, in the order of their arrival.

        It takes time in proportion to all that waits: call it once for many parents.
        """
        adopted: dict[str, Entry[R]] = {}
        for parent in parents:
            adopted |= self._orphans.pop(parent, {})
        if adopted:
            for key, entry in adopted.items():
                del self._orphan_parent[key]
                self.aside_bytes -= entry.size
            waiting = adopted | self._waiting
            self._waiting = dict(sorted(waiting.items(), key=lambda item: item[1].ticket))

    # --------------------------------------------------------------------------------------------------- reads

    def view(self, key: str) -> R | None:
        """Everything known here of `key`, merged; None when nothing is. Refused records do not show."""
        records = [entry.record for entry in self._entries(key)]
        return reduce(self._merged, records) if records else None

    def records(self) -> Iterator[R]:
        """Every record in memory, several of one key perhaps: what was refused too."""
        for place in (self._in_flight, self._waiting, *self._orphans.values()):
            for entry in place.values():
                yield entry.record
        for refused in self._refused.values():
            for aside in refused:
                yield aside.entry.record

    def aside(self) -> Iterator[Aside[R]]:
        """Every record that waits outside of the flush, orphans first."""
        for orphans in self._orphans.values():
            for entry in orphans.values():
                yield Aside(entry, AsideReason.UNKNOWN_SESSION, "its session is not known")
        for refused in self._refused.values():
            yield from refused

    def watch(self, ticket: int) -> None:
        """The sender of this batch will ask `why_unstored`, until `unwatch`."""
        self._awaited.add(ticket)

    def unwatch(self, ticket: int) -> None:
        """The sender has its answer: merging forgets the ticket, so that a record sent over and over does not grow by it."""
        self._awaited.discard(ticket)

    def why_unstored(self, record: R, ticket: int) -> UnstoredReason | AsideReason | None:
        """Why a record of the watched batch `ticket` is not in the backend; None when it is, alone or merged into another."""
        key = self.collection.key_of(record)
        for entry in self._entries(key):
            if ticket in entry.watched and not self._differs_in_fixed(entry.record, record):
                is_orphan = key in self._orphan_parent
                return AsideReason.UNKNOWN_SESSION if is_orphan else UnstoredReason.STORAGE_UNAVAILABLE
        for aside in self._refused.get(key, ()):
            if ticket in aside.entry.watched and not self._differs_in_fixed(aside.entry.record, record):
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
        assert self.collection.parent is not None, "only a collection with a parent has orphans"  # noqa: S101  # a mistake of ours
        parent: str = getattr(record, self.collection.parent.field)
        return parent

    def _says_the_same(self, one: R, other: R) -> bool:
        merge = self.collection.merge
        return not self._differs_in_fixed(one, other) and merge(one, other) is one and merge(other, one) is other

    def _refuse(self, key: str, aside: Aside[R]) -> None:
        places = self._refused.setdefault(key, [])
        for place, present in enumerate(places):
            if self._says_the_same(present.entry.record, aside.entry.record):  # it was sent again
                places[place] = replace(present, entry=self._joined(present.entry, aside.entry))
                return
        places.append(aside)
        self._refused_count += 1
        self.aside_bytes += aside.entry.size
        self._on_refused(self.collection.name, aside)


def _compact(holds: Iterable[tuple[Segment, int]]) -> tuple[tuple[Segment, int], ...]:
    """The same holds, one tuple a segment."""
    counts: dict[int, tuple[Segment, int]] = {}
    for segment, items in holds:
        _, present = counts.get(id(segment), (segment, 0))
        counts[id(segment)] = (segment, present + items)
    return tuple(counts.values())

"""The buffer of one collection: accepted records in memory that are not yet in the backend, merged by key.

An entry is in exactly one place: *waiting* (in order of arrival), *contested* (it waits behind one of its key that names
another session), *in flight* (a chunk was taken, and stays here until it is settled, however often its write fails), an *orphan*
(its session is not stored), or *refused* (on its way to the dead letters). The last two block nobody, not even one of their key
that names another session. An entry holds on to the journal segments that its records came from until it is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Generic, TypeVar

import msgspec

from persistence_service.buffer.deleted import DeletedSessions
from persistence_service.buffer.entries import SESSION_DELETED, Entry, Place, Refused, UnstoredReason
from persistence_service.buffer.orphan_shelf import Orphan, OrphanShelf
from persistence_service.journal.segment import Segment
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.merge import merge_in_either_order
from persistence_service.storage.collections import Collection

R = TypeVar("R", bound=msgspec.Struct)
Release = Callable[[Segment, int], None]


class RecordBuffer(Generic[R]):
    """Entries of one collection. Not thread-safe: used from the event loop alone.

    Waiting entries are in the order of their tickets. What waits or is in flight of a key agrees in the fixed fields, as long as
    it is not deleted.
    """

    def __init__(
        self,
        collection: Collection[R],
        release: Release,
        deleted: DeletedSessions | None = None,
        on_dropped: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self.collection = collection
        self._release = release
        self._deleted = deleted or DeletedSessions()
        self._on_dropped = on_dropped
        self._of_session: Counter[str] = Counter()
        self._waiting: dict[str, Entry[R]] = {}
        self._in_flight: dict[str, Entry[R]] = {}
        self._orphans = OrphanShelf(collection)
        self._contested: dict[str, list[Entry[R]]] = {}
        self._refused: dict[str, list[Refused[R]]] = {}
        self._refused_count = 0
        self.size_bytes = 0
        self.aside_bytes = 0
        self.merged = 0
        self._awaited: dict[int, dict[tuple[Any, ...], tuple[Place, str]]] = {}

    # ------------------------------------------------------------------------------------------------- figures

    @property
    def unflushed(self) -> int:
        """Records that the next flush will write: waiting or in flight."""
        return len(self._waiting) + len(self._in_flight) + sum(map(len, self._contested.values()))

    @property
    def orphans(self) -> int:
        """Records whose parent is not stored yet."""
        return len(self._orphans)

    @property
    def oldest_orphan_s(self) -> float | None:
        """When the first of them became one, by the clock of patience; None when there is none."""
        return next((orphan.since_s for orphan in self._orphans), None)

    @property
    def last_orphan(self) -> int:
        """The number of the last that became one, or of which more has come."""
        return self._orphans.last_number

    @property
    def missing_parents(self) -> list[str]:
        """The parents that orphans wait for."""
        return self._orphans.parents

    @property
    def refused(self) -> int:
        """Records that the backend can't accept and that are no dead letters yet."""
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
        heads += [several[0] for several in self._contested.values()]
        return min((entry.arrived_s for entry in heads), default=None)

    @property
    def oldest_aside_s(self) -> float | None:
        """Monotonic time of the arrival of the oldest record set aside, None when there is none. Looks at all of them."""
        return min((entry.arrived_s for entry in self._aside()), default=None)

    def has_up_to(self, ticket: int) -> bool:
        """Whether anything that arrived up to `ticket` is still unflushed."""
        if self._in_flight or (self._waiting and next(iter(self._waiting.values())).ticket <= ticket):
            return True
        return any(entry.ticket <= ticket for several in self._contested.values() for entry in several)

    # ------------------------------------------------------------------------------------------------- arrival

    def add(self, entry: Entry[R]) -> None:
        """Take an entry in and merge it with what is here of its key, in its place; an orphan stays one.

        One that names another session than what waits or is in flight of its key waits behind that, and the backend decides: it
        may know that the other one is deleted. Who comes later waits behind both, so that each has its turn. It goes before an
        orphan, whose session may never come. One that is deleted is dropped.
        """
        key = self.collection.key_of(entry.record)
        self.size_bytes += entry.size
        self._of_session[_session_of(entry)] += 1
        if self._deleted.covers(entry.record):
            self._drop(entry)
        elif (orphan := self._orphans.find(entry.record)) is not None:
            joined = self._joined(orphan.entry, entry)
            self.aside_bytes += joined.size - orphan.entry.size
            self._orphans.put_in_place(orphan, joined)
        elif any(self._contradicts(present, entry) for present in self._unflushed(key)):
            self._contest(key, entry)
        elif (present := self._waiting.get(key)) is not None:
            self._waiting[key] = self._joined(present, entry)
        elif key in self._contested:
            self._contest(key, entry)
        else:
            self._waiting[key] = entry

    def _contest(self, key: str, entry: Entry[R]) -> None:
        """It waits behind those of its key that came before, of each session one."""
        several = self._contested.setdefault(key, [])
        for place, present in enumerate(several):
            is_same = not self._differs_in_fixed(present.record, entry.record)
            if is_same and not self._deleted.covers(present.record):
                several[place] = self._joined(present, entry)
                return
        several.append(entry)

    def _add_again(self, entries: Sequence[Entry[R]]) -> None:
        """These were here before, in other places; all that waits is in order again."""
        if not entries:
            return
        for entry in entries:
            self.size_bytes -= entry.size
            self._forget_one_of(_session_of(entry))
            self.add(entry)
        self._waiting = _in_order(self._waiting)

    def _let_contested_wait(self) -> None:
        """Those behind nobody any more wait for a chunk like all others; what is deleted of them is dropped."""
        if not self._contested:
            return
        free = [key for key in self._contested if key not in self._waiting and key not in self._in_flight]
        self._add_again([entry for key in free for entry in self._contested.pop(key)])

    def _contradicts(self, present: Entry[R], arriving: Entry[R]) -> bool:
        """Whether they can't both be stored; what is deleted, and in flight still, contradicts nobody."""
        is_other = self._differs_in_fixed(present.record, arriving.record)
        return is_other and not self._deleted.covers(present.record)

    def _joined(self, older: Entry[R], newer: Entry[R]) -> Entry[R]:
        self.merged += 1
        self._forget_one_of(_session_of(newer))
        record = self._merged(older.record, newer.record)
        size = older.size if record is older.record else len(msgspec.json.encode(record))
        self.size_bytes += size - older.size - newer.size
        holds = _compact((*older.holds, *newer.holds))
        watched = (*(ticket for ticket in older.watched if ticket in self._awaited), *newer.watched)
        return Entry(record, older.ticket, older.arrived_s, size, holds, watched)

    def _merged(self, present: R, arriving: R) -> R:
        """Both in one. What arrives may have been accepted earlier: replay comes late."""
        return merge_in_either_order(self.collection.merge, present, arriving)

    def _identity(self, record: R) -> tuple[Any, ...]:
        return self.collection.key_of(record), *self.collection.fixed_of(record)

    def _differs_in_fixed(self, present: R, arriving: R) -> bool:
        return self.collection.fixed_of(present) != self.collection.fixed_of(arriving)

    # --------------------------------------------------------------------------------------------------- flush

    def take(self, *, max_rows: int, max_bytes: int, newest: bool = False) -> list[Entry[R]]:
        """The next chunk: what is in flight already, else the oldest entries, or the `newest` backwards, moved in flight.

        At least one entry however large, if any waits.
        """
        if not self._in_flight:
            self._let_contested_wait()
            size = 0
            for key in reversed(self._waiting) if newest else self._waiting:
                entry = self._waiting[key]
                size += entry.size
                if len(self._in_flight) >= max_rows or (self._in_flight and size > max_bytes):
                    break
                self._in_flight[key] = entry
            for key in self._in_flight:
                del self._waiting[key]
        return list(self._in_flight.values())

    def is_in_flight(self, entry: Entry[R]) -> bool:
        """Whether it was taken, and not settled since."""
        return self._in_flight.get(self.collection.key_of(entry.record)) is entry

    def put_back(self) -> None:
        """The chunk in flight waits again, in its place, so that the next one may be another; what is deleted of it is dropped."""
        back: dict[str, Entry[R]] = {}
        for key, entry in self._in_flight.items():
            if self._deleted.covers(entry.record):
                self._drop(entry)
                continue
            newer = self._waiting.pop(key, None)
            back[key] = entry if newer is None else self._joined(entry, newer)
        self._in_flight = {}
        self._waiting = _in_order(back | self._waiting)

    def settle(self, entry: Entry[R]) -> None:
        """The entry is stored: let go of it and of its place in the journal."""
        del self._in_flight[self.collection.key_of(entry.record)]
        self._let_go(entry)

    def drop(self, entry: Entry[R]) -> None:
        """The entry in flight was deleted before it came: let go of it."""
        del self._in_flight[self.collection.key_of(entry.record)]
        self._drop(entry)

    def drop_deleted(self) -> None:
        """Let go of everything that is deleted, but for what is in flight. Looks at all that is in memory."""
        for entry in [entry for entry in self._waiting.values() if self._deleted.covers(entry.record)]:
            del self._waiting[self.collection.key_of(entry.record)]
            self._drop(entry)
        for orphan in [orphan for orphan in self._orphans if self._deleted.covers(orphan.entry.record)]:
            self._drop(self._pop_orphan(orphan))
        self._let_contested_wait()

    def _drop(self, entry: Entry[R]) -> None:
        self._answer(entry, Place.DROPPED, SESSION_DELETED)
        self._let_go(entry)
        self._on_dropped(self.collection.name, 1)

    def _answer(self, entry: Entry[R], place: Place, reason: str) -> None:
        """Remember for those who wait for storage what became of the entry."""
        for ticket in entry.watched:
            if ticket in self._awaited:
                self._awaited[ticket][self._identity(entry.record)] = (place, reason)

    def set_orphan(self, entry: Entry[R], since_s: float) -> None:
        """The entry's parent is not stored: keep it, and what arrives of it, until `adopt` names that parent.

        One that was deleted while it was found out is dropped, and meets nothing that is newer.
        """
        key = self.collection.key_of(entry.record)
        del self._in_flight[key]
        if self._deleted.covers(entry.record):
            self._drop(entry)
            return
        newer = self._waiting.get(key)
        if newer is not None and not self._differs_in_fixed(entry.record, newer.record):
            entry = self._joined(entry, self._waiting.pop(key))
        self._orphans.add(entry, since_s)
        self.aside_bytes += entry.size

    def refuse(self, refused: Refused[R]) -> None:
        """The backend can't accept an entry in flight: keep it aside until it is a dead letter."""
        key = self.collection.key_of(refused.entry.record)
        del self._in_flight[key]
        self._refuse(key, refused)

    def adopt(self, parents: Iterable[str]) -> None:
        """These parents are stored: their orphans wait for the next chunk, in the order of their arrival.

        It takes time in proportion to all that waits: call it once for many parents.
        """
        self._add_again([self._pop_orphan(orphan) for orphan in self._orphans.of_parents(parents)])

    # --------------------------------------------------------------------------------------------- dead letters

    def give_up(self, before_s: float, *, room: int, room_bytes: int, up_to: float = inf) -> bool:
        """Refuse the orphans since `before_s` or earlier, and the longest waiting ones for whom there is no `room`.

        Those whose number is above `up_to` stay all the same; returns whether there were any.
        """
        given_up: list[Orphan[R]] = []
        left, size, is_unsure = self.orphans, self.aside_bytes, False
        for orphan in self._orphans:
            if orphan.since_s > before_s and left <= room and size <= room_bytes:
                break
            if orphan.number > up_to:
                is_unsure = True
                continue
            given_up.append(orphan)
            left, size = left - 1, size - orphan.entry.size
        for orphan in given_up:
            entry = self._pop_orphan(orphan)
            self._refuse(orphan.key, Refused(entry, DeadLetterReason.UNKNOWN_SESSION, "its session is not known"))
        return is_unsure

    def drop_deleted_refused(self) -> None:
        """Let go of those that are deleted, of which no dead letter is wanted. Not while letters are made of them."""
        for refused in self.all_refused():
            if self._deleted.covers(refused.entry.record):
                self._drop(self._pop_refused(refused))

    def all_refused(self) -> list[Refused[R]]:
        """Those that are no dead letters yet."""
        return [refused for several in self._refused.values() for refused in several]

    def let_go(self, refused: Refused[R], place: Place) -> None:
        """The refused record is at that place now, and not here any more."""
        entry = self._pop_refused(refused)
        self._answer(entry, place, refused.reason)
        self._let_go(entry)

    def _pop_orphan(self, orphan: Orphan[R]) -> Entry[R]:
        self._orphans.remove(orphan)
        self.aside_bytes -= orphan.entry.size
        return orphan.entry

    def _pop_refused(self, refused: Refused[R]) -> Entry[R]:
        """Take it out as it is now: it may have been sent again meanwhile."""
        key = self.collection.key_of(refused.entry.record)
        places = self._refused[key]
        place = next(n for n, each in enumerate(places) if self._says_the_same(each.entry.record, refused.entry.record))
        entry = places.pop(place).entry
        if not places:
            del self._refused[key]
        self._refused_count -= 1
        self.aside_bytes -= entry.size
        return entry

    def _forget_one_of(self, session_id: str) -> None:
        self._of_session[session_id] -= 1
        if not self._of_session[session_id]:
            del self._of_session[session_id]

    def _let_go(self, entry: Entry[R]) -> None:
        self.size_bytes -= entry.size
        self._forget_one_of(_session_of(entry))
        for segment, items in entry.holds:
            self._release(segment, items)

    # --------------------------------------------------------------------------------------------------- reads

    def views(self, key: str, spilled: Iterable[R] = ()) -> list[R]:
        """Everything known of `key` here and in the records `spilled` of it, merged as `Collection.merged` has it.

        What is next to be stored comes first. What is deleted does not show.
        """
        known = [*(entry.record for entry, _ in self._unstored(key)), *spilled]
        return self.collection.merged(record for record in known if not self._deleted.covers(record))

    def has_session(self, session_id: str) -> bool:
        """Whether any record here is of that session."""
        return session_id in self._of_session

    def records(self) -> Iterator[R]:
        """Every record in memory, several of one key perhaps: what was refused too."""
        for place in (self._in_flight, self._waiting):
            yield from (entry.record for entry in place.values())
        yield from (entry.record for several in self._contested.values() for entry in several)
        yield from (entry.record for entry in self._aside())

    def _aside(self) -> Iterator[Entry[R]]:
        yield from (orphan.entry for orphan in self._orphans)
        yield from (refused.entry for refused in self.all_refused())

    def watch(self, ticket: int) -> None:
        """The sender of this batch will ask `why_unstored`, until `unwatch`."""
        self._awaited[ticket] = {}

    def is_watched(self, ticket: int) -> bool:
        """Whether somebody will ask `why_unstored` about this batch."""
        return ticket in self._awaited

    def unwatch(self, ticket: int) -> None:
        """The sender has its answer: merging forgets the ticket, so that a record sent over and over does not grow by it."""
        self._awaited.pop(ticket, None)

    def why_unstored(self, record: R, ticket: int) -> tuple[Place, str] | None:
        """Where a record of the watched batch `ticket` is and why; None when it is stored, alone or merged into another."""
        key = self.collection.key_of(record)
        for entry, reason in self._unstored(key):
            if ticket in entry.watched and not self._differs_in_fixed(entry.record, record):
                return Place.WAITING, reason
        return self._awaited.get(ticket, {}).get(self._identity(record))

    def _unstored(self, key: str) -> Iterator[tuple[Entry[R], str]]:
        """Everything of this key, and why it is not stored yet."""
        for entry in (*self._unflushed(key), *self._contested.get(key, ())):
            yield entry, UnstoredReason.STORAGE_UNAVAILABLE
        for orphan in self._orphans.of_key(key):
            yield orphan.entry, UnstoredReason.UNKNOWN_SESSION
        for refused in self._refused.get(key, ()):
            yield refused.entry, refused.reason

    def _unflushed(self, key: str) -> Iterator[Entry[R]]:
        for place in (self._in_flight, self._waiting):
            if key in place:
                yield place[key]

    # ------------------------------------------------------------------------------------------------- insides

    def _says_the_same(self, one: R, other: R) -> bool:
        merge = self.collection.merge
        return not self._differs_in_fixed(one, other) and merge(one, other) is one and merge(other, one) is other

    def _refuse(self, key: str, refused: Refused[R]) -> None:
        places = self._refused.setdefault(key, [])
        for place, present in enumerate(places):
            if self._says_the_same(present.entry.record, refused.entry.record):  # it was sent again
                self.aside_bytes -= present.entry.size
                places[place] = replace(present, entry=self._joined(present.entry, refused.entry))
                self.aside_bytes += places[place].entry.size
                return
        places.append(refused)
        self._refused_count += 1
        self.aside_bytes += refused.entry.size


def _in_order(entries: dict[str, Entry[R]]) -> dict[str, Entry[R]]:
    return dict(sorted(entries.items(), key=lambda item: item[1].ticket))


def _session_of(entry: Entry[Any]) -> str:
    session_id: str = entry.record.session_id
    return session_id


def _compact(holds: Iterable[tuple[Segment, int]]) -> tuple[tuple[Segment, int], ...]:
    """The same holds, one tuple a segment."""
    counts: dict[int, tuple[Segment, int]] = {}
    for segment, items in holds:
        _, present = counts.get(id(segment), (segment, 0))
        counts[id(segment)] = (segment, present + items)
    return tuple(counts.values())

"""Where entries wait whose session is not stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgspec

from persistence_service.buffer.entries import Entry
from persistence_service.storage.collections import Collection

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Orphan(Generic[R]):
    """An entry whose session is not stored; `since_s` is what the caller's clock of patience showed when that was found.

    `number` grows from orphan to orphan, and when more arrives of one.
    """

    entry: Entry[R]
    key: str
    parent: str
    since_s: float
    number: int


class OrphanShelf(Generic[R]):
    """Orphans in the order in which they became it: of a key one for each session that is named, since any of them may come."""

    def __init__(self, collection: Collection[R]) -> None:
        self._collection = collection
        self._orphans: dict[tuple[str, str], Orphan[R]] = {}
        self._keys_of: dict[str, dict[str, None]] = {}
        self._parents_of: dict[str, dict[str, None]] = {}
        self.last_number = 0

    def __len__(self) -> int:
        return len(self._orphans)

    def __iter__(self) -> Iterator[Orphan[R]]:
        return iter(self._orphans.values())

    @property
    def parents(self) -> list[str]:
        """The sessions that are waited for."""
        return list(self._keys_of)

    def add(self, entry: Entry[R], since_s: float) -> None:
        """This one waits for its session, as no other of its key and session does."""
        key, parent = self._collection.key_of(entry.record), self._parent_of(entry.record)
        self.last_number += 1
        self._orphans[key, parent] = Orphan(entry, key, parent, since_s, self.last_number)
        self._keys_of.setdefault(parent, {})[key] = None
        self._parents_of.setdefault(key, {})[parent] = None

    def put_in_place(self, orphan: Orphan[R], entry: Entry[R]) -> None:
        """More has come of it: in its place is now this entry of the same key and session."""
        self.last_number += 1
        self._orphans[orphan.key, orphan.parent] = replace(orphan, entry=entry, number=self.last_number)

    def find(self, record: R) -> Orphan[R] | None:
        """The one of the record's key that waits for the record's session."""
        if not self._orphans:
            return None
        return self._orphans.get((self._collection.key_of(record), self._parent_of(record)))

    def of_key(self, key: str) -> list[Orphan[R]]:
        """All of this key."""
        return [self._orphans[key, parent] for parent in self._parents_of.get(key, ())]

    def of_parents(self, parents: Iterable[str]) -> list[Orphan[R]]:
        """All that wait for these sessions."""
        return [
            self._orphans[key, parent] for parent in dict.fromkeys(parents) for key in self._keys_of.get(parent, ())
        ]

    def remove(self, orphan: Orphan[R]) -> None:
        """It waits no more."""
        del self._orphans[orphan.key, orphan.parent]
        for index, one, other in (
            (self._keys_of, orphan.parent, orphan.key),
            (self._parents_of, orphan.key, orphan.parent),
        ):
            del index[one][other]
            if not index[one]:
                del index[one]

    def _parent_of(self, record: R) -> str:
        assert self._collection.parent is not None, "only a collection with a parent has orphans"  # noqa: S101  # a mistake of ours
        parent: str = getattr(record, self._collection.parent.field)
        return parent

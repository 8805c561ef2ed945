"""What waits in the journal alone: accepted batches for which there was no room in memory, oldest first.

A waiting batch costs some 41 bytes of memory and 8 more for each key of it, so that hours of an outage cost disk.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from persistence_service.buffer.key_index import KeyIndex
from persistence_service.journal.segment import Position, Segment


@dataclass(frozen=True, slots=True)
class SpilledBatch:
    """A batch that waits: its journal kind and ticket, where it is, how many records it has, when it arrived.

    `arrived_s` is of the monotonic clock, and below zero if that was before the machine started.
    """

    kind: int
    ticket: int
    position: Position
    items: int
    arrived_s: float


@dataclass(slots=True)
class _Run:
    """Batches of one segment, column by column. `first` is the number of the first, `taken` of them are gone."""

    segment: Segment
    first: int
    taken: int = 0
    kinds: array[int] = field(default_factory=lambda: array("B"))
    tickets: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("I"))
    sequences: array[int] = field(default_factory=lambda: array("Q"))
    items: array[int] = field(default_factory=lambda: array("I"))
    seconds: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.kinds)

    def append(self, batch: SpilledBatch) -> None:
        self.kinds.append(batch.kind)
        self.tickets.append(batch.ticket)
        self.offsets.append(batch.position.offset)
        self.lengths.append(batch.position.length)
        self.sequences.append(batch.position.sequence)
        self.items.append(batch.items)
        self.seconds.append(int(batch.arrived_s))

    def __getitem__(self, at: int) -> SpilledBatch:
        position = Position(self.segment, self.offsets[at], self.lengths[at], self.sequences[at])
        return SpilledBatch(self.kinds[at], self.tickets[at], position, self.items[at], self.seconds[at])


class SpillQueue:
    """Batches in the order of their arrival, with an index of their records' keys and sessions.

    Each batch holds its items on its segment, as the journal gave them; who takes it answers for them.
    """

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._next = 0
        self._keys: dict[int, KeyIndex] = {}
        self._sessions = KeyIndex()
        self.records: Counter[int] = Counter()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def total(self) -> int:
        """Records that wait; `records` has them by kind, `size_bytes` is their size in the journal."""
        return self.records.total()

    @property
    def oldest(self) -> SpilledBatch | None:
        """The next to be taken, None when nothing waits."""
        return next(self.first(1), None)

    @property
    def segments(self) -> list[Segment]:
        """The journal's segments that it holds."""
        return list(dict.fromkeys(run.segment for run in self._runs))

    def has_up_to(self, ticket: int) -> bool:
        """Whether any batch waits whose ticket is not later than `ticket`."""
        oldest = self.oldest
        return oldest is not None and oldest.ticket <= ticket

    def append(self, batch: SpilledBatch, keys: Sequence[str], records: Sequence[Any]) -> None:
        """Let a batch wait; `records` (with `session_id` and `event_time`) are what is in it, `keys` theirs."""
        if not self._runs or self._runs[-1].segment is not batch.position.segment:
            self._runs.append(_Run(batch.position.segment, self._next))
        self._runs[-1].append(batch)
        index = self._keys.setdefault(batch.kind, KeyIndex())
        for key in keys:
            index.add(key, self._next)
        for session_id in {record.session_id for record in records}:
            self._sessions.add(session_id, self._next)
        self._next += 1
        self.records[batch.kind] += batch.items
        self.size_bytes += batch.position.length

    def first(self, count: int) -> Iterator[SpilledBatch]:
        """The oldest `count` batches, which stay."""
        batches = (run[at] for run in self._runs for at in range(run.taken, len(run)))
        return islice(batches, count)

    def drop_first(self) -> None:
        """The oldest batch is elsewhere now."""
        run = self._runs[0]
        self.records[run.kinds[run.taken]] -= run.items[run.taken]
        self.size_bytes -= run.lengths[run.taken]
        run.taken += 1
        number = run.first + run.taken
        indexes = [*self._keys.values(), self._sessions]
        if run.taken == len(run):
            self._runs.popleft()
        for index in indexes:
            if self._runs:
                index.forget_before(number)
            else:
                index.clear()

    def holding(self, kind: int, key: str) -> list[SpilledBatch]:
        """The batches that may hold this key, oldest first."""
        index = self._keys.get(kind)
        return [] if index is None else [self._batch(number) for number in index.find(key)]

    def of_session(self, session_id: str) -> list[SpilledBatch]:
        """The batches that may hold records of this session, oldest first."""
        return [self._batch(number) for number in self._sessions.find(session_id)]

    def _batch(self, number: int) -> SpilledBatch:
        run = self._runs[bisect_right(self._runs, number, key=lambda run: run.first) - 1]
        return run[number - run.first]

"""One collection's way from a journaled payload into its buffer or, when memory is full, to those that wait on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.entries import Entry, Tickets
from persistence_service.buffer.room import Room
from persistence_service.buffer.spill import SpilledBatch, SpillQueue
from persistence_service.buffer.timing import Timing
from persistence_service.journal.segment import Position

R = TypeVar("R", bound=msgspec.Struct)

# The journal's kinds of record. A payload is a JSON array of records as they are kept; a stamp's is empty: it only says
# which time stamp was used outside of the journal, so that later runs go on behind it.
KIND_SESSIONS = 1
KIND_TASKS = 2
KIND_STAMP = 3


class Intake(Generic[R]):
    """Takes in the records of one journal kind, and calls `on_arrival` after each batch.

    A payload is a JSON array of records as they are kept. While anything waits in `spill`, all that is new waits behind it,
    so that what came first is written first.
    """

    def __init__(
        self,
        buffer: RecordBuffer[R],
        kind: int,
        *,
        room: Room,
        spill: SpillQueue,
        tickets: Tickets,
        timing: Timing,
    ) -> None:
        self.buffer = buffer
        self.kind = kind
        self._room = room
        self._spill = spill
        self._tickets = tickets
        self._timing = timing
        self.on_arrival: Callable[[], None] = lambda: None
        self._encoder = msgspec.json.Encoder()
        self._splitter = msgspec.json.Decoder(list[msgspec.Raw])
        # Records know no other fields: one that a later version wrote would be lost once the record is stored.
        self._record_decoder: msgspec.json.Decoder[R] = msgspec.json.Decoder(buffer.collection.record)
        self._decoder: msgspec.json.Decoder[list[R]] = msgspec.json.Decoder(list[buffer.collection.record])  # type: ignore[name-defined]  # a type made at run time

    def encode(self, records: list[R]) -> tuple[bytes, list[int]]:
        """`records` (one at least) as a payload, and how many bytes of it each takes."""
        payload = bytearray(b"[")
        sizes = []
        for record in records:
            start = len(payload)
            self._encoder.encode_into(record, payload, start)
            sizes.append(len(payload) - start)
            payload += b","
        payload[-1:] = b"]"
        return bytes(payload), sizes

    def decode(self, payload: bytes) -> list[R]:
        """The records of a payload.

        Raises:
            msgspec.MsgspecError: another version wrote it, in a way that this one can't read.
        """
        return self._decoder.decode(payload)

    def find(self, payload: bytes, key: str) -> list[R]:
        """The records of `key` in a payload; the others are not decoded."""
        text = msgspec.json.encode(key)
        raws = [raw for raw in map(bytes, self._splitter.decode(payload)) if text in raw]
        records = [self._record_decoder.decode(raw) for raw in raws]
        return [record for record in records if self.buffer.collection.key_of(record) == key]

    def sizes(self, payload: bytes) -> list[int]:
        """How many bytes of `payload` each of its records takes."""
        return [len(raw) for raw in self._splitter.decode(payload)]

    def take_in(
        self,
        records: list[R],
        sizes: list[int],
        position: Position,
        *,
        accepted_us: int | None = None,
        watched: bool = False,
    ) -> int:
        """Take in the records of the payload at `position`, each of which holds its segment; returns the batch's ticket.

        `accepted_us` is the stamp of a batch that another run accepted: its age goes on. `watched` lets
        `RecordBuffer.why_unstored` be asked about this batch, until `unwatch`.
        """
        ticket = self._tickets.next()
        arrived_s = self._timing.monotonic()
        if accepted_us is not None:
            arrived_s -= max(0, self._timing.wall_us() - accepted_us) / 1e6
        if watched:
            self.buffer.watch(ticket)
        batch = SpilledBatch(self.kind, ticket, position, len(records), arrived_s)
        has_room = self._room.fits(len(records), position.length) and not self._room.is_full_aside
        if self._spill or not has_room:
            self._spill.append(batch, [self.buffer.collection.key_of(record) for record in records], records)
        else:
            self.merge(records, sizes, batch)
        self.on_arrival()
        return ticket

    def merge(self, records: list[R], sizes: list[int], batch: SpilledBatch) -> None:
        """Merge the records of `batch` into the buffer."""
        holds = ((batch.position.segment, 1),)
        watchers = (batch.ticket,) if self.buffer.is_watched(batch.ticket) else ()
        for record, size in zip(records, sizes, strict=True):
            self.buffer.add(Entry(record, batch.ticket, batch.arrived_s, size, holds, watchers))

"""One collection's way from a journaled payload into its buffer, for new batches and replayed ones alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from persistence_service.buffer.buffer import Entry, RecordBuffer, Tickets
from persistence_service.buffer.timing import Timing
from persistence_service.journal.segment import Position

R = TypeVar("R", bound=msgspec.Struct)


class Intake(Generic[R]):
    """Merges the records of one journal kind into `buffer`, and calls `arrived` after each batch.

    A payload is a JSON array of records as they are kept.
    """

    def __init__(
        self, buffer: RecordBuffer[R], kind: int, *, tickets: Tickets, timing: Timing, arrived: Callable[[], None]
    ) -> None:
        self.buffer = buffer
        self.kind = kind
        self._tickets = tickets
        self._timing = timing
        self._arrived = arrived
        self._encoder = msgspec.json.Encoder()
        self._splitter = msgspec.json.Decoder(list[msgspec.Raw])
        # Records know no other fields: one that a later version wrote would be lost once the record is stored.
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

    def sizes(self, payload: bytes) -> list[int]:
        """How many bytes of `payload` each of its records takes."""
        return [len(raw) for raw in self._splitter.decode(payload)]

    def merge(self, records: list[R], sizes: list[int], position: Position, *, watched: bool = False) -> int:
        """Take in the records of the payload at `position`, each of which holds its segment; returns the batch's ticket.

        `watched` lets `RecordBuffer.why_unstored` be asked about this batch, until `unwatch`.
        """
        now = self._timing.monotonic()
        ticket = self._tickets.next()
        holds = ((position.segment, 1),)
        watchers = (ticket,) if watched else ()
        if watched:
            self.buffer.watch(ticket)
        for record, size in zip(records, sizes, strict=True):
            self.buffer.add(Entry(record, ticket, now, size, holds, watchers))
        self._arrived()
        return ticket

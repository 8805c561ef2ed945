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
        record = buffer.collection.record
        self._decoder: msgspec.json.Decoder[list[R]] = msgspec.json.Decoder(list[record])  # type: ignore[valid-type]  # a type made at run time
        # A field that this version does not know must not be dropped: it would be lost once the record is stored.
        strict = msgspec.defstruct(record.__name__, (), bases=(record,), frozen=True, forbid_unknown_fields=True)
        self._check: msgspec.json.Decoder[list[R]] = msgspec.json.Decoder(list[strict])  # type: ignore[valid-type]  # likewise

    def encode(self, records: list[R]) -> bytes:
        """`records` as a payload."""
        return msgspec.json.encode(records)

    def decode(self, payload: bytes) -> list[R]:
        """The records of a payload.

        Raises:
            msgspec.MsgspecError: another version wrote it, in a way that this one can't read.
        """
        self._check.decode(payload)
        return self._decoder.decode(payload)

    def merge(self, records: list[R], position: Position, size: int, *, watched: bool = False) -> int:
        """Take in the records of the payload at `position`, each of which holds its segment; returns the batch's ticket.

        `watched` lets `RecordBuffer.why_unstored` be asked about this batch.
        """
        now = self._timing.monotonic()
        ticket = self._tickets.next()
        each = max(1, size // len(records))
        holds = ((position.segment, 1),)
        watchers = (ticket,) if watched else ()
        for record in records:
            self.buffer.add(Entry(record, ticket, now, each, holds, watchers))
        self._arrived()
        return ticket

"""Room in memory: batches reserve it before they are journaled, so that nothing acknowledged is ever refused for lack of it."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.flusher import Flusher
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import BufferFull

_UNKNOWN_WAIT_S = 5.0
_SHORTEST_WAIT_S = 0.1
_LONGEST_WAIT_S = 60.0
# In units of the bounds: what may be held in all, by records without and with a parent, and what replay may fill.
_ALL = 2.0
_WITH_PARENT = 1.75
_REPLAY = 0.5


class Room:
    """Counts what the buffers hold and what is on its way into them, against the bounds.

    What will be flushed and what is set aside (orphans, refused records) are bounded apart, so that the second never shuts
    the service: in all there may be twice the bounds. The last part of that is for sessions alone, since with its session
    an orphan goes.
    """

    def __init__(self, buffers: tuple[RecordBuffer[Any], ...], flusher: Flusher, bounds: MemoryBounds) -> None:
        self._buffers = buffers
        self._flusher = flusher
        self._bounds = bounds
        self._reserved_records = 0
        self._reserved_bytes = 0
        self._changed = asyncio.Event()
        flusher.on_room = self._changed.set

    @property
    def capacity(self) -> int:
        """The most records that wait to be written."""
        return self._bounds.records

    @property
    def held_bytes(self) -> int:
        """Bytes held and reserved, those set aside included."""
        return sum(buffer.size_bytes for buffer in self._buffers) + self._reserved_bytes

    @property
    def is_left(self) -> bool:
        """Whether a session would find room."""
        return not self._excess(1, 1) and not self._is_crowded_by_aside(1, 1, share=_ALL)

    def reserve(self, records: int, size: int, buffer: RecordBuffer[Any]) -> None:
        """Set room aside for a batch that goes to `buffer`, until `give_back`.

        One that is larger than the bounds themselves is let in alone.

        Raises:
            BufferFull: there is none now.
        """
        over = self._excess(records, size)
        if over and (self._will_be_freed or not self._is_oversized(records, size)):
            self._flusher.make_room()
            raise BufferFull(
                "the buffer is full until the database catches up; send the batch again",
                retry_after_s=self.seconds_to_free(over),
            )
        if self._is_crowded_by_aside(records, size, share=_ALL if buffer.collection.parent is None else _WITH_PARENT):
            raise BufferFull(
                "too many records are set aside (see GET /health): tasks whose session was not sent, which their session "
                "frees, and refused ones, which wait for a person",
                retry_after_s=_UNKNOWN_WAIT_S,
            )
        self._reserved_records += records
        self._reserved_bytes += size

    def give_back(self, records: int, size: int) -> None:
        """The reserved batch is in a buffer, or will never be."""
        self._reserved_records -= records
        self._reserved_bytes -= size
        self._changed.set()

    async def wait_for(self, records: int, size: int) -> None:
        """Return when replay may bring in so much: it fills its share alone, so that new batches find room all the while.

        What is journaled must be let in: nothing that no flush takes away is waited for.
        """
        while self._excess(records, size, share=_REPLAY) and self._will_be_freed:
            self._changed.clear()
            self._flusher.make_room()
            await self._changed.wait()

    @property
    def _will_be_freed(self) -> bool:
        """Whether anything here is on its way to the backend; what waits for a person or a session is not."""
        return bool(self._reserved_records) or any(buffer.unflushed for buffer in self._buffers)

    def _is_oversized(self, records: int, size: int) -> bool:
        return records > self._bounds.records or size > self._bounds.size_bytes

    def _excess(self, records: int, size: int, *, share: float = 1.0) -> int:
        """By how many records, at least, what will be flushed and `records` are over this share of the bounds; 0 if not."""
        unflushed = sum(buffer.unflushed for buffer in self._buffers) + self._reserved_records
        unflushed_bytes = sum(buffer.unflushed_bytes for buffer in self._buffers) + self._reserved_bytes
        is_over_bytes = unflushed_bytes + size > share * self._bounds.size_bytes
        return max(0, math.ceil(unflushed + records - share * self._bounds.records), records if is_over_bytes else 0)

    def _is_crowded_by_aside(self, records: int, size: int, *, share: float) -> bool:
        """Whether so much more is over this share of all memory, with anything aside that is to blame."""
        held = sum(buffer.total for buffer in self._buffers) + self._reserved_records
        is_over = (
            held + records > share * self._bounds.records or self.held_bytes + size > share * self._bounds.size_bytes
        )
        return is_over and any(buffer.aside_count for buffer in self._buffers)

    def seconds_to_free(self, records: int) -> float:
        """How long the backend needs for so many records, by the rate of the last flush."""
        rate = self._flusher.rows_per_s
        if self._flusher.failure is not None or not rate:
            return _UNKNOWN_WAIT_S
        return min(max(_SHORTEST_WAIT_S, records / rate), _LONGEST_WAIT_S)

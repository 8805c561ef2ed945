"""Room in memory: batches reserve it before they are journaled, so that nothing acknowledged is ever refused for lack of it."""

from __future__ import annotations

import asyncio
from typing import Any

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.flusher import Flusher
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import BufferFull

_UNKNOWN_WAIT_S = 5.0
_SHORTEST_WAIT_S = 0.1
_LONGEST_WAIT_S = 60.0


class Room:
    """Counts what the buffers hold and what is on its way into them, against the bounds."""

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
        """The most records."""
        return self._bounds.records

    @property
    def used_records(self) -> int:
        """Records held and reserved for."""
        return sum(buffer.total for buffer in self._buffers) + self._reserved_records

    @property
    def used_bytes(self) -> int:
        """Bytes held and reserved."""
        return sum(buffer.size_bytes for buffer in self._buffers) + self._reserved_bytes

    @property
    def is_left(self) -> bool:
        """Whether any batch would find room."""
        return self._excess(1, 1) == (0, 0)

    def reserve(self, records: int, size: int) -> None:
        """Set room aside for a batch, until `give_back`. One that is larger than the bounds themselves is let in alone.

        Raises:
            BufferFull: there is none now.
        """
        over_records, over_bytes = self._excess(records, size)
        fits_never = records > self._bounds.records or size > self._bounds.size_bytes
        if (over_records or over_bytes) and not (fits_never and not self._will_be_freed):
            self._flusher.make_room()
            raise BufferFull(
                "the buffer is full until the database catches up; send the batch again",
                retry_after_s=self._seconds_to_free(max(over_records, records if over_bytes else 0)),
            )
        self._reserved_records += records
        self._reserved_bytes += size

    def give_back(self, records: int, size: int) -> None:
        """The reserved batch is in a buffer, or will never be."""
        self._reserved_records -= records
        self._reserved_bytes -= size
        self._changed.set()

    async def wait_for(self, records: int, size: int) -> None:
        """Return when there is room for so much, or when no flush could make more: what is journaled must be let in."""
        while self._excess(records, size) != (0, 0) and self._will_be_freed:
            self._changed.clear()
            self._flusher.make_room()
            await self._changed.wait()

    @property
    def _will_be_freed(self) -> bool:
        """Whether anything here is on its way to the backend; what waits for a person or a session is not."""
        return bool(self._reserved_records) or any(buffer.unflushed for buffer in self._buffers)

    def _excess(self, records: int, size: int) -> tuple[int, int]:
        over_records = self.used_records + records - self._bounds.records
        over_bytes = self.used_bytes + size - self._bounds.size_bytes
        return max(0, over_records), max(0, over_bytes)

    def _seconds_to_free(self, records: int) -> float:
        rate = self._flusher.rows_per_s
        if self._flusher.failure is not None or not rate:
            return _UNKNOWN_WAIT_S
        return min(max(_SHORTEST_WAIT_S, records / rate), _LONGEST_WAIT_S)

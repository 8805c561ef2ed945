"""Room in memory: what is over it waits in the journal alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.policy import MemoryBounds

_REFILLED = 0.5


class Room:
    """What the buffers hold in memory, against the bounds. Nothing is ever refused for lack of it."""

    def __init__(self, buffers: Sequence[RecordBuffer[Any]], bounds: MemoryBounds) -> None:
        self._buffers = buffers
        self._bounds = bounds

    @property
    def capacity(self) -> int:
        """The most records in memory that wait to be written."""
        return self._bounds.records

    @property
    def aside(self) -> tuple[int, int]:
        """The most orphans and refused records in memory, beside those that wait to be written, and their bytes."""
        return int(self._bounds.records * self._bounds.aside), int(self._bounds.size_bytes * self._bounds.aside)

    @property
    def is_full_aside(self) -> bool:
        """Whether they take all of it, or more, and are not orphans alone, which wait for what is still to come."""
        if not any(buffer.refused for buffer in self._buffers):
            return False
        records, size = self.aside
        held = sum(buffer.aside_count for buffer in self._buffers)
        return held >= records or sum(buffer.aside_bytes for buffer in self._buffers) >= size

    @property
    def held_bytes(self) -> int:
        """Bytes of all records in memory, in the journal's form."""
        return sum(buffer.size_bytes for buffer in self._buffers)

    @property
    def unflushed(self) -> int:
        """Records in memory that wait to be written."""
        return sum(buffer.unflushed for buffer in self._buffers)

    @property
    def is_half_empty(self) -> bool:
        """Whether it is time to read back what waits in the journal."""
        return self._fits(0, 0, _REFILLED)

    @property
    def is_pressed(self) -> bool:
        """Whether so much waits that it should be written early."""
        return not self._fits(1, 1, self._bounds.pressure)

    def fits(self, records: int, size: int) -> bool:
        """Whether so much more has room; a batch larger than all of it has when it is alone."""
        return not self.would_overflow(records, size) or not self.unflushed

    def would_overflow(self, records: int, size: int) -> bool:
        """Whether so much more is over the bounds."""
        return not self._fits(records, size, 1.0)

    def _fits(self, records: int, size: int, share: float) -> bool:
        unflushed_bytes = sum(buffer.unflushed_bytes for buffer in self._buffers)
        return (
            self.unflushed + records <= share * self._bounds.records
            and unflushed_bytes + size <= share * self._bounds.size_bytes
        )

"""What all workers of a service must know exactly and at once, in memory that they share: a mapped file beside the journals.

::

    0      8 bytes   magic and version
    8      8 bytes   the newest stamp that any worker has given, µs since 1970 UTC
    16     64 × 8    the bytes of each slot's journal

Numbers are in the machine's own order; nothing in it has to survive the machine. The file is never made shorter and never
replaced, since others may have it mapped; one that is missing, short or not ours is made anew in its place.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from persistence_service.buffer.timing import Timing

_log = structlog.get_logger(__name__)

SHARED_NAME: Final = "shared"
MAX_SLOTS: Final = 64
_BYTES: Final = 4096
_MAGIC: Final = int.from_bytes(b"PSSHARE\x01", "little")
_MAGIC_CELL: Final = 0
_CLOCK_CELL: Final = 1
_FIRST_SLOT_CELL: Final = 2
_LOCK_WAIT_S: Final = 0.1
_LOCK_PAUSE_S: Final = 0.0002
_FAR_FUTURE_US: Final = 3_600 * 1_000_000


class SharedMemory:
    """The mapped file at `path`; `cells` are its numbers. A write of one is whole for every reader.

    Raises:
        OSError: it can't be opened, made or mapped.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_patient = True
        try:
            with self.locked():
                self.is_new = not self._is_ours()
                if self.is_new:
                    os.pwrite(self._fd, _MAGIC.to_bytes(8, "little").ljust(_BYTES, b"\0"), 0)
            self._map = mmap.mmap(self._fd, _BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self.cells = memoryview(self._map).cast("Q")

    def _is_ours(self) -> bool:
        return os.fstat(self._fd).st_size >= _BYTES and os.pread(self._fd, 8, 0) == _MAGIC.to_bytes(8, "little")

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Alone among all processes, or after a moment not alone (False): who has the lock may be stopped for long.

        The kernel takes the lock from a process that dies.
        """
        is_alone = self._take_lock()
        try:
            yield is_alone
        finally:
            if is_alone:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _take_lock(self) -> bool:
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._is_patient or time.monotonic() > give_up_at:
                    if self._is_patient:
                        _log.warning("shared.lock_held", now="nobody waits for it until it is free again")
                    self._is_patient = False  # the next ones don't stop the event loop for it once more
                    return False
                time.sleep(_LOCK_PAUSE_S)
            else:
                self._is_patient = True
                return True

    def close(self) -> None:
        """Let go of the file, which stays."""
        self.cells.release()
        self._map.close()
        os.close(self._fd)


class SharedClock:
    """`EventClock`'s stamps for all workers together: whichever worker gives one, it is later than all given before.

    Begins behind `high_water_us`, which is the newest stamp of the worker's own journal.
    """

    def __init__(self, memory: SharedMemory, timing: Timing, high_water_us: int) -> None:
        self._memory = memory
        self._timing = timing
        self._last = 0
        self.pass_over(high_water_us)

    @property
    def high_water_us(self) -> int:
        """The newest stamp given, by any worker."""
        return max(self._last, self._memory.cells[_CLOCK_CELL])

    def reserve(self, count: int) -> int:
        """The first of `count` (≥ 1) consecutive stamps, 1 µs apart."""
        with self._memory.locked():
            first = max(self._timing.wall_us(), self.high_water_us + 1)
            self._last = self._memory.cells[_CLOCK_CELL] = first + count - 1
        return first

    def pass_over(self, stamp_us: int) -> None:
        """Give none up to `stamp_us` from now on."""
        with self._memory.locked():
            self._last = self._memory.cells[_CLOCK_CELL] = max(self.high_water_us, stamp_us)


class SharedBytes:
    """How many bytes each slot's journal takes, told by whoever has it open; what a dead worker told stays.

    Without `memory` they are this process's alone.
    """

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self._cells = memory.cells if memory is not None else memoryview(bytearray(_BYTES)).cast("Q")

    def publish(self, slot: int, used_bytes: int) -> None:
        """What a slot's journal takes from now on."""
        if slot < MAX_SLOTS:
            self._cells[_FIRST_SLOT_CELL + slot] = used_bytes

    def total(self) -> int:
        """What all of them take."""
        return sum(self._cells[_FIRST_SLOT_CELL : _FIRST_SLOT_CELL + MAX_SLOTS])

    def of(self, slot: int) -> int:
        """What a slot's journal takes."""
        return self._cells[_FIRST_SLOT_CELL + slot] if slot < MAX_SLOTS else 0


class SlotBudget:
    """A `journal.budget.Budget`: what the other slots' journals leave to this slot's."""

    def __init__(self, shared: SharedBytes, slot: int, *, idle_bytes: int) -> None:
        self._shared = shared
        self._slot = slot
        self.idle_bytes = idle_bytes

    def others(self) -> int:
        """See `Budget.others`."""
        return self._shared.total() - self._shared.of(self._slot)

    def publish(self, used_bytes: int) -> None:
        """See `Budget.publish`."""
        self._shared.publish(self._slot, used_bytes)


def prepare(path: Path, *, wall_us: int, high_water_us: int, journal_bytes: Mapping[int, int]) -> None:
    """Before the first worker begins: the clock is past the journals', and the bytes are those on disk, by slot.

    A stamp that neither the journals nor the wall clock can explain is not believed.

    Raises:
        OSError: the file can't be made.
    """
    memory = SharedMemory(path)
    try:
        with memory.locked():
            known = max(wall_us, high_water_us)
            found = memory.cells[_CLOCK_CELL]
            memory.cells[_CLOCK_CELL] = max(found, high_water_us) if found <= known + _FAR_FUTURE_US else known
            for slot in range(MAX_SLOTS):
                memory.cells[_FIRST_SLOT_CELL + slot] = journal_bytes.get(slot, 0)
    finally:
        memory.close()

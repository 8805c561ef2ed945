"""A worker's journal among those of its service: where it is, how much it may take, and what it inherits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from persistence_service.buffer.timing import Clock, EventClock, Timing
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.inheritance import Inheritance, bytes_on_disk, journals_below
from persistence_service.fleet.shared import (
    SHARED_NAME,
    SharedBytes,
    SharedClock,
    SharedMemory,
    SlotBudget,
    prepare,
)
from persistence_service.journal.files import Files
from persistence_service.journal.inspection import newest_stamp
from persistence_service.journal.journal import Journal
from persistence_service.journal.lock import DirectoryLock
from persistence_service.settings import JournalSettings

_IDLE_SHARE: Final = 8  # the part of journal.max_bytes that may be in segments which nobody needs
_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class WorkerJournal:
    """A worker's own journal, the stamps it gives, and what it takes over from workers that there are no more."""

    journal: Journal
    clock: Clock
    inheritance: Inheritance


@asynccontextmanager
async def open_worker_journal(
    settings: JournalSettings, worker: WorkerIdentity | None, *, timing: Timing, files: Files | None = None
) -> AsyncIterator[WorkerJournal]:
    """Open the journal of `worker`, or of a service that is one process; closed at the end of the block.

    Raises:
        JournalLocked, JournalVersionUnknown, JournalUnavailable: as `Journal.open`.
        OSError: what the workers share can't be opened.
    """
    root = settings.directory
    slot, workers = (worker.slot, worker.workers) if worker is not None else (0, 1)
    async with AsyncExitStack() as stack:
        heirless = {other: path for other, path in journals_below(root).items() if other >= workers}
        memory = None
        if worker is not None:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            memory = SharedMemory(root / SHARED_NAME)
            stack.callback(memory.close)
        shared = SharedBytes(memory)
        idle_bytes = settings.max_bytes // (_IDLE_SHARE * workers)

        async def open_journal(of: int, directory: Path, *, idle_bytes: int = _NEVER) -> Journal:
            is_shared = worker is not None or heirless
            return await Journal.open(
                directory,
                max_bytes=settings.max_bytes,
                min_free=settings.min_free if of == slot else 0,
                segment_bytes=settings.segment_bytes,
                clock=timing.wall_us,
                files=files,
                budget=SlotBudget(shared, of, idle_bytes=idle_bytes) if is_shared else None,
            )

        own = worker.journal_directory(root) if worker is not None else root
        journal = await open_journal(slot, own, idle_bytes=idle_bytes)
        stack.push_async_callback(journal.close)
        clock: Clock
        if memory is not None:
            clock = SharedClock(memory, timing, journal.high_water_us)
        else:
            (root / SHARED_NAME).unlink(missing_ok=True)  # of several workers, which there are no more
            stamps = await asyncio.to_thread(_newest_stamp, list(heirless.values()), files)
            clock = EventClock(timing, max(stamps, journal.high_water_us))
        inheritance = Inheritance(heirless, open_journal=open_journal, shared=shared, clock=clock, timing=timing)
        yield WorkerJournal(journal, clock, inheritance)


def prepare_journals(settings: JournalSettings, *, wall_us: int) -> None:
    """Before the first of several workers begins: nobody else has the journals, and what the workers share is true.

    Raises:
        JournalLocked: another service has them.
        OSError: the directory can't be used.
    """
    root = settings.directory
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = DirectoryLock.take(root)
    try:
        journals = {0: root, **journals_below(root)}
        prepare(
            root / SHARED_NAME,
            wall_us=wall_us,
            high_water_us=_newest_stamp(list(journals.values())),
            journal_bytes={slot: bytes_on_disk(path) for slot, path in journals.items()},
        )
    finally:
        lock.release()


def _newest_stamp(directories: Sequence[Path], files: Files | None = None) -> int:
    return max((newest_stamp(path, files) for path in directories), default=0)

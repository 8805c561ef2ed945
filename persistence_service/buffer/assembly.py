"""The parts of the buffer, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.chunk_writer import ChunkWriter
from persistence_service.buffer.deleted import DeletedSessions
from persistence_service.buffer.entries import Tickets
from persistence_service.buffer.flusher import Flusher, Waiting
from persistence_service.buffer.intake import KIND_SESSIONS, KIND_TASKS, Intake
from persistence_service.buffer.letter_files import LetterFiles
from persistence_service.buffer.letterbox import Letterbox
from persistence_service.buffer.manager import BufferManager
from persistence_service.buffer.orphans import Orphans, Patience
from persistence_service.buffer.parent_search import ParentSearch
from persistence_service.buffer.policy import AckPolicy, FlushPolicy, MemoryBounds
from persistence_service.buffer.reads import Unstored
from persistence_service.buffer.record_writer import RecordWriter
from persistence_service.buffer.refill import Refill
from persistence_service.buffer.replay import JournalReplay
from persistence_service.buffer.room import Room
from persistence_service.buffer.set_aside import SetAside
from persistence_service.buffer.spill import SpillQueue
from persistence_service.buffer.takeover import TakeOver
from persistence_service.buffer.timing import Clock, EventClock, Timing
from persistence_service.journal.journal import Journal
from persistence_service.models.limits import Limits
from persistence_service.observability.metrics import Metrics
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS


@dataclass(frozen=True, slots=True)
class Policies:
    """What an operator may set of the buffer."""

    flush: FlushPolicy
    bounds: MemoryBounds
    ack: AckPolicy
    max_dead_letters_per_minute: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer over one journal and one backend: what is asked of it, and the task that empties it."""

    manager: BufferManager
    flusher: Flusher
    waiting: Waiting
    deleted: DeletedSessions
    patience: Patience
    search: ParentSearch
    takeover: TakeOver


def build_buffer(
    *,
    journal: Journal,
    backend: StorageBackend,
    letter_files: LetterFiles,
    policies: Policies,
    limits: Limits,
    timing: Timing,
    metrics: Metrics,
    prepare: Callable[[], Awaitable[None]],
    backoff: Backoff | None = None,
    clock: Clock | None = None,
) -> Buffer:
    """Nothing runs yet: `manager.replay` and `flusher.run` are the two tasks."""
    deleted = DeletedSessions()
    sessions = RecordBuffer(SESSIONS, journal.release, deleted, metrics.dropped)
    tasks = RecordBuffer(TASKS, journal.release, deleted, metrics.dropped)
    tickets, spill = Tickets(), SpillQueue()
    room = Room((sessions, tasks), policies.bounds)
    letterbox = Letterbox(
        buffers=(sessions, tasks),
        backend=backend,
        files=letter_files,
        max_per_minute=policies.max_dead_letters_per_minute,
        timing=timing,
        metrics=metrics,
    )

    def intake(buffer: RecordBuffer[Any], kind: int) -> Intake[Any]:
        return Intake(buffer, kind, room=room, spill=spill, tickets=tickets, timing=timing)

    intakes = {KIND_SESSIONS: intake(sessions, KIND_SESSIONS), KIND_TASKS: intake(tasks, KIND_TASKS)}
    replay = JournalReplay(journal=journal, intakes=intakes, timing=timing)
    waiting = Waiting(
        sessions=sessions,
        tasks=tasks,
        spill=spill,
        refill=Refill(journal=journal, spill=spill, intakes=intakes, room=room),
        letterbox=letterbox,
        set_aside=SetAside(
            journal=journal,
            intakes=intakes,
            spill=spill,
            room=room,
            tickets=tickets,
            timing=timing,
        ),
        room=room,
        tickets=tickets,
    )
    orphans = Orphans(
        tasks,
        parents=sessions.collection,
        backend=backend,
        policy=policies.flush,
        room=room,
        set_aside=waiting.set_aside,
        timing=timing,
        is_replaying=lambda: replay.is_running,
    )
    flusher = Flusher(
        waiting,
        writer=ChunkWriter(RecordWriter(backend), parallel=backend.parallel_writes),
        orphans=orphans,
        policy=policies.flush,
        timing=timing,
        metrics=metrics,
        prepare=prepare,
        is_replaying=lambda: replay.is_running and not replay.is_failing,
        backoff=backoff,
    )
    for each in intakes.values():
        each.on_arrival = flusher.notice

    def note_return() -> None:
        waiting.set_aside.hasten()
        flusher.notice()

    orphans.search.on_end, orphans.patience.on_return = flusher.notice, note_return
    manager = BufferManager(
        waiting,
        journal=journal,
        intakes=intakes,
        flusher=flusher,
        replay=replay,
        clock=clock or EventClock(timing, journal.high_water_us),
        timing=timing,
        limits=limits,
        ack=policies.ack,
        unstored=Unstored(
            journal=journal,
            sessions=intakes[KIND_SESSIONS],
            tasks=intakes[KIND_TASKS],
            queues=(spill, waiting.set_aside.queue),
            deleted=deleted,
        ),
    )
    takeover = TakeOver(journal=journal, intakes=intakes)
    return Buffer(manager, flusher, waiting, deleted, orphans.patience, orphans.search, takeover)

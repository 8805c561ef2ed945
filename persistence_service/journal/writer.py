"""The journal's one writing thread: group commit, rotation, removal, and recovery from a failing disk."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from persistence_service.errors import Unavailable
from persistence_service.journal.format import encode_record
from persistence_service.journal.health import WriterHealth, WriterState, full_error, is_no_room
from persistence_service.journal.requests import AppendRequest, Barrier, Command, Delivery, Remove, Rotate, Stop
from persistence_service.journal.segment import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from persistence_service.journal.segment import Loss, Segment
    from persistence_service.journal.store import ActiveSegment, SegmentStore

log = structlog.get_logger(__name__)

GROUP_BYTES: Final = 8 * 1024 * 1024
SYNC_INTERVAL_S: Final = 1.0


class JournalWriter:
    """Writes what is submitted in the order of submission, and reports every outcome once, in that order.

    `deliver` is called in the writing thread. After a failed write or fsync the active segment is abandoned: nothing is
    acknowledged until its acknowledged records are on disk in another file. Attempts at that are paced by `retry_s`, first
    and longest pause.
    """

    def __init__(
        self,
        store: SegmentStore,
        deliver: Callable[[Delivery], None],
        *,
        min_free: int,
        segment_bytes: int,
        retry_s: tuple[float, float],
    ) -> None:
        self.state = WriterState()
        self._store = store
        self._files = store.files
        self._deliver = deliver
        self._health = WriterHealth(self.state, min_free=min_free, retry_s=retry_s)
        self._segment_bytes = segment_bytes
        self._queue: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._active: ActiveSegment | None = None
        self._abandoned: ActiveSegment | None = None
        self._in_hand: list[AppendRequest] = []
        self._sync_at: float | None = None

    def start(self) -> None:
        """The first segment is tried at once, in the caller's thread; then the thread takes over."""
        self._become_ready()
        self._thread.start()

    def submit(self, command: Command) -> None:
        self._queue.put(command)

    def join(self) -> None:
        self._thread.join()

    # -------------------------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        carried: Command | None = None
        while True:
            command = carried if carried is not None else self._next()
            carried = None
            if isinstance(command, Stop):
                self._finish(command)
                return
            try:
                carried = self._obey(command)
            except Exception:  # supervision: a mistake of ours must not leave requests waiting for ever
                log.exception("journal_writer_error")
                self._refuse(self._in_hand, self._health.error())

    def _next(self) -> Command | None:
        """The next command, or None when something else is due first."""
        due = [
            at for at in (self._sync_at, self._health.retry_at if self._is_waiting_to_retry else None) if at is not None
        ]
        if not due:
            return self._queue.get()
        try:
            return self._queue.get(timeout=max(0.0, min(due) - time.monotonic()))
        except queue.Empty:
            return None

    def _obey(self, command: Command | None) -> Command | None:
        carried: Command | None = None
        match command:
            case AppendRequest():
                carried = self._append(command)
            case Rotate():
                self._rotate()
            case Remove():
                self._store.remove(command.segment, self._active)
                self._report()
            case Barrier():
                self._sync()
                if self._active is None:
                    self._become_ready()
                self._report(done=command)
            case _:
                pass
        self._do_what_is_due()
        return carried

    @property
    def _is_waiting_to_retry(self) -> bool:
        return self._active is None or self._store.has_postponed_removals or self._health.is_in_trouble

    def _do_what_is_due(self) -> None:
        if self._sync_at is not None and time.monotonic() >= self._sync_at:
            self._sync()
        if not self._is_waiting_to_retry or not self._health.is_due:
            return
        self._sync()
        if self._active is None:
            self._become_ready()
        elif self._health.rotation_fails:
            self._rotate()
        elif self._has_room(self._health.wanted_bytes):
            self._health.works()
        if self._store.has_postponed_removals:
            self._store.remove_postponed(self._active)
            self._report()
        if self._is_waiting_to_retry:
            self._health.postpone()

    def _finish(self, command: Stop) -> None:
        self._sync()
        try:
            if command.leave_empty and self._abandoned is None:
                self._active = self._store.leave_empty(self._active)
        except OSError as error:
            log.warning("journal_not_tidied", error=str(error))
        for segment in (self._active, self._abandoned):
            if segment is not None:
                with contextlib.suppress(OSError):
                    self._files.close(segment.fd)
        self._report(done=command)

    # ------------------------------------------------------------------------------------------------- appending

    def _append(self, first: AppendRequest) -> Command | None:
        self._in_hand = [first]
        if self._active is None and self._health.is_due:
            self._become_ready()
        active = self._active
        if (
            active is not None
            and not active.segment.is_empty
            and active.segment.size + first.size > self._segment_bytes
        ):
            self._rotate()
            active = self._active
        room = self._segment_bytes - active.segment.size if active is not None else 0
        carried = self._gather(min(GROUP_BYTES, room) if room > 0 else first.size)
        if active is None:
            self._refuse(self._in_hand, self._health.error())
        elif self._has_room(sum(request.size for request in self._in_hand)):
            self._write(active)
        else:
            self._refuse(self._in_hand, full_error())
            self._rotate()
        return carried

    def _gather(self, limit: int) -> Command | None:
        """Takes what waits already, up to `limit` bytes; answers the command that did not fit or is none to gather."""
        size = self._in_hand[0].size
        while size < limit:
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return None
            if not isinstance(command, AppendRequest) or size + command.size > limit:
                return command
            self._in_hand.append(command)
            size += command.size
        return None

    def _has_room(self, size: int) -> bool:
        try:
            free = self._files.free_bytes(self._store.directory.path)
        except OSError:  # the write itself will tell
            return True
        return self._health.room_for(size, free)

    def _write(self, active: ActiveSegment) -> None:
        group = self._in_hand
        buffers, positions = self._encode(active, group)
        try:
            self._files.write_all(active.fd, buffers, active.segment.size)
            if not group[0].durable:  # acknowledged before the fsync, which looks after the name too
                self._files.require_name(active.fd)
        except OSError as error:
            if is_no_room(error) and self._undo(active):
                self._health.failed(error)
                self._refuse(group, full_error())
            else:
                self._abandon(active, error)
                self._refuse(group, self._health.error())
            return
        self.state.groups += 1
        waiting = next((index for index, request in enumerate(group) if request.durable), len(group))
        if waiting:
            active.unsynced = True
            self._accept(active, group[:waiting], positions[:waiting])
        if waiting == len(group):
            self._sync_at = self._sync_at or time.monotonic() + SYNC_INTERVAL_S
            return
        active.unsynced = True
        if self._sync():
            self._accept(active, group[waiting:], positions[waiting:])
        else:
            self._refuse(group[waiting:], self._health.error())

    def _encode(self, active: ActiveSegment, group: Sequence[AppendRequest]) -> tuple[list[bytes], list[Position]]:
        segment, home = active.segment, active.segment.home
        offset, sequence = segment.size, self._store.next_sequence
        buffers: list[bytes] = []
        positions: list[Position] = []
        for request in group:
            head = encode_record(
                home.keys,
                offset,
                sequence=sequence,
                accepted_at_us=request.accepted_at_us,
                high_water_us=request.high_water_us,
                kind=request.kind,
                items=request.items,
                payload=request.payload,
            )
            buffers += (head, request.payload)
            positions.append(Position(segment, offset - home.shift, request.size, sequence))
            offset += request.size
            sequence += 1
        return buffers, positions

    def _accept(self, active: ActiveSegment, requests: list[AppendRequest], positions: list[Position]) -> None:
        """These records are where they were promised to be; from here on they count."""
        segment, store = active.segment, self._store
        size = sum(request.size for request in requests)
        segment.size += size
        segment.last_sequence = positions[-1].sequence
        if segment.first_accepted_us is None:
            segment.first_accepted_us = requests[0].accepted_at_us
        store.next_sequence = positions[-1].sequence + 1
        store.high_water_us = max(
            store.high_water_us, *(max(request.high_water_us, request.accepted_at_us) for request in requests)
        )
        self.state.appended_records += len(requests)
        self.state.appended_bytes += size
        self._health.accepted()
        self._in_hand = self._in_hand[len(requests) :]
        self._report(written=list(zip(requests, positions, strict=True)))

    def _refuse(self, requests: list[AppendRequest], error: Unavailable) -> None:
        self._in_hand = []
        if requests:
            self._report(refused=requests, error=error)

    # ----------------------------------------------------------------------------------------- the active segment

    def _become_ready(self) -> None:
        """Tries to have an active segment, with the records of an abandoned one moved into it."""
        losses: list[Loss] = []
        try:
            self._store.claim_directory()
            if self._abandoned is not None:
                self._active, losses = self._store.relocate(self._abandoned)
                self._abandoned = None
            else:
                self._active = self._store.create()
        except OSError as error:
            self._health.failed(error)
            self._health.postpone()
            return
        self._health.began_segment()
        self._report(losses=losses)

    def _rotate(self) -> None:
        """The active segment is sealed and a new one begun, if it has records; else, or on failure, it stays.

        After a failure there is no other attempt until it is due.
        """
        active = self._active
        if active is None or active.segment.is_empty or (self._health.rotation_fails and not self._health.is_due):
            return
        if not self._sync():
            return
        try:
            self._active = self._store.create()
        except OSError as error:
            self._health.rotation_failed(error)
            return
        self._health.began_segment()
        with contextlib.suppress(OSError):
            self._files.close(active.fd)
        self._report(sealed=active.segment)

    def _sync(self) -> bool:
        """What was written to the active segment is on disk, where a later run finds it. False: it is abandoned."""
        self._sync_at = None
        active = self._active
        if active is None:
            return False
        try:
            if active.unsynced:
                self._sync_file(active)
            self._files.require_name(active.fd)
        except OSError as error:
            self._abandon(active, error)
            return False
        return True

    def _sync_file(self, active: ActiveSegment) -> None:
        started = time.perf_counter()
        try:
            self._files.sync(active.fd)
        finally:
            self.state.fsyncs += 1
            self.state.fsync_seconds_total += time.perf_counter() - started
        active.unsynced = False

    def _undo(self, active: ActiveSegment) -> bool:
        """A write that found no room has left nothing behind, so that the segment can go on."""
        try:
            self._files.require_name(active.fd)
            self._files.truncate(active.segment.home.path, active.segment.size)
        except OSError:
            return False
        return True

    def _abandon(self, active: ActiveSegment, error: OSError) -> None:
        """What the kernel says of this file is not to be trusted any more, or nobody will find it; it is only read again."""
        log.error("journal_segment_abandoned", segment=active.segment.number, error=str(error))
        self._abandoned = active
        self._active = None
        self._sync_at = None
        self._health.failed(error)
        self._health.abandoned()

    def _report(
        self,
        *,
        written: Sequence[tuple[AppendRequest, Position]] = (),
        refused: Sequence[AppendRequest] = (),
        error: Unavailable | None = None,
        sealed: Segment | None = None,
        losses: Sequence[Loss] = (),
        done: Barrier | Stop | None = None,
    ) -> None:
        self._deliver(
            Delivery(
                used_bytes=self._store.used_bytes,
                segments=len(self._store.live),
                written=written,
                refused=refused,
                error=error,
                sealed=sealed,
                losses=losses,
                done=done.future if done is not None else None,
            )
        )

"""The journal: what it is told to keep survives the process, and power loss where the disk honours fsync."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self, TypeVar

import structlog

from persistence_service.errors import BufferFull, JournalError, JournalFull, JournalUnavailable
from persistence_service.journal.budget import Budget, JournalRoom
from persistence_service.journal.files import Files
from persistence_service.journal.format import MAX_CALLER_KIND, MAX_PAYLOAD_BYTES, Record
from persistence_service.journal.opening import Opened, give_back, prepare
from persistence_service.journal.removal import remove
from persistence_service.journal.replay import SegmentScan, read_payloads
from persistence_service.journal.requests import (
    Acknowledgement,
    AppendRequest,
    Barrier,
    Delivery,
    Remove,
    Rotate,
    Stop,
)
from persistence_service.journal.segment import JournalStats, Loss, Position, Replayed, Segment
from persistence_service.journal.store import SegmentStore
from persistence_service.journal.writer import JournalWriter
from persistence_service.observability.logging import OncePer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
_LISTED_LOSSES: Final = 1000
_TOLD_EVERY_S: Final = 10.0


class Journal:
    """A write-ahead log in a directory of its own, owned by one process and used from one event loop.

    It knows nothing of what it keeps: a payload is bytes, with a kind and a number of items. A record's segment stays on disk
    while it is held: `append` and `replay` hold a record's items, and whoever stored them releases them.

    Of a failing or full disk it recovers by itself; meanwhile appends fail with JournalUnavailable or JournalFull, and
    everything acknowledged is kept.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        max_bytes: int,
        min_free: int,
        segment_bytes: int,
        clock: Callable[[], int],
        retry_s: tuple[float, float],
        budget: Budget | None,
    ) -> None:
        survey = opened.survey
        self._loop = asyncio.get_running_loop()
        self._directory = opened.directory
        self._lock = opened.lock
        self._high_water_us = survey.high_water_us
        self._survey = survey
        self._unread = [segment for segment in survey.segments if segment.pinned]
        self._replaying = False
        self._losses = list(survey.losses[:_LISTED_LOSSES])
        self._lost_ranges = len(survey.losses)
        self._damaged_regions = 0
        self._quarantined_bytes = survey.quarantined_bytes
        self._held: dict[Segment, None] = {}
        self._unstored_items = 0
        self._closing = False
        self._closed: asyncio.Task[None] | None = None
        self._rotation_asked = False
        self._given_up = OncePer(_TOLD_EVERY_S)
        store = SegmentStore(opened.directory, survey, clock, opened.lock)
        self._room = JournalRoom(max_bytes, budget, store.used_bytes)
        self._segments = len(store.live)
        self._writer = JournalWriter(
            store, self._deliver, min_free=min_free, segment_bytes=segment_bytes, retry_s=retry_s
        )
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        min_free: int,
        segment_bytes: int,
        clock: Callable[[], int],
        files: Files | None = None,
        retry_s: tuple[float, float] = (0.1, 5.0),
        budget: Budget | None = None,
    ) -> Self:
        """The directory's journal, ready to append at once; what earlier runs left waits for `replay`.

        The directory is created if need be. The last run's torn tail is cut off on disk, unreadable segments are set aside,
        and a new segment is begun (a full disk does not prevent opening). `clock` gives the wall clock in µs and is called
        in another thread. `retry_s` is the first and the longest pause between attempts on a failing disk. `budget` says what
        of `max_bytes` other journals take.

        Raises:
            ValueError: a pause of `retry_s` is not positive, or the longest is shorter than the first.
            JournalLocked: another process owns the directory.
            JournalVersionUnknown: a later version wrote it; nothing was changed.
            JournalUnavailable: the directory cannot be read or made ready.
        """
        if not 0 < retry_s[0] <= retry_s[1] < math.inf:
            raise ValueError(f"retry_s {retry_s} is not a positive first pause and a longest one")
        preparing = asyncio.ensure_future(asyncio.to_thread(prepare, directory, files or Files()))
        try:
            opened = await asyncio.shield(preparing)
        except asyncio.CancelledError:
            preparing.add_done_callback(give_back)
            raise
        journal = cls(
            opened,
            max_bytes=max_bytes,
            min_free=min_free,
            segment_bytes=segment_bytes,
            clock=clock,
            retry_s=retry_s,
            budget=budget,
        )
        await asyncio.to_thread(journal._writer.start)
        for segment in opened.survey.segments:
            journal._remove_if_done(segment)
        log.info(
            "journal_opened",
            directory=str(directory),
            segments=len(opened.survey.segments),
            next_sequence=opened.survey.next_sequence,
        )
        return journal

    async def close(self, *, for_good: bool = False) -> None:
        """Everything handed over is on disk, or its future has failed, and the directory is free for the next owner.

        If nothing is unstored and no damage has still to be copied to quarantine, one empty segment with the high-water mark
        is left, or with `for_good` nothing but the quarantine. Never raises for what the disk does: it is logged. Closing twice is no error, and closing is completed even
        if who waits for it is cancelled.
        """
        if self._closed is None:
            self._closing = True
            self._closed = self._loop.create_task(self._shut_down(for_good=for_good))
        await asyncio.shield(self._closed)

    async def _shut_down(self, *, for_good: bool) -> None:
        settled: asyncio.Future[None] = self._loop.create_future()
        self._writer.submit(Barrier(settled))
        await settled
        stopped: asyncio.Future[None] = self._loop.create_future()
        pinned = any(segment.pinned for segment in self._survey.segments)  # unread, or its damage has no copy yet
        is_empty = not self._held and not pinned
        self._writer.submit(Stop(leave_empty=is_empty, future=stopped))
        await stopped
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._reader.shutdown)
        if for_good and is_empty:
            await asyncio.to_thread(remove, self._directory)
        self._lock.release()
        log.info("journal_closed", unstored_items=self._unstored_items)

    # ------------------------------------------------------------------------------------------------- appending

    @property
    def used_bytes(self) -> int:
        """What the segments take on disk."""
        return self._room.used_bytes

    @property
    def service_bytes(self) -> int:
        """What all journals that share `max_bytes` take on disk."""
        return self._room.service_bytes

    @property
    def max_bytes(self) -> int:
        """What `service_bytes` may be."""
        return self._room.max_bytes

    @property
    def most_bytes(self) -> int:
        """What `service_bytes` can come to: `max_bytes`, or less where the volume had less room when it was last written."""
        room = self._writer.state.volume_room
        return self.max_bytes if room is None else min(self.max_bytes, self.service_bytes + room)

    @property
    def high_water_us(self) -> int:
        """The newest time stamp that any record, present or past, was accepted at or used. Survives restarts exactly."""
        return self._high_water_us

    def append(
        self,
        kind: int,
        payload: bytes,
        *,
        items: int,
        accepted_at_us: int,
        high_water_us: int,
        durable: bool = True,
        beyond_bounds: bool = False,
    ) -> asyncio.Future[Position]:
        """Hands a record to the writer; the future is done once it is fsynced, or with `durable=False` with the system.

        Records are written, and futures resolved, in the order of the calls. When the future resolves, `items` are already
        held on the position's segment. The future cannot be cancelled: await it through `asyncio.shield`. A record that was
        not durable is fsynced within a second.

        `kind` is the caller's own, 1 to 199; `items` says how many releases make the record unneeded (0 keeps nothing);
        `high_water_us` is the newest time stamp that its contents use. With `beyond_bounds` the record may go over
        `max_bytes`: one whose release of others makes room.

        Raises:
            JournalFull: over `max_bytes`, at once; under `min_free` of free room, through the future.
            BufferFull: too much waits to be written, at once.
            JournalUnavailable: closed, at once; the disk fails, through the future.
            ValueError: `kind` or the payload's length is out of range.
        """
        if not 1 <= kind <= MAX_CALLER_KIND:
            raise ValueError(f"kind {kind} is not within 1..{MAX_CALLER_KIND}")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
        if self._closing:
            raise JournalUnavailable("the journal is closed")
        future = Acknowledgement(loop=self._loop)
        mark = max(self._high_water_us, high_water_us, accepted_at_us)
        request = AppendRequest(kind, payload, items, accepted_at_us, mark, durable, future)
        size = request.size
        pending = self._room.pending_bytes
        if pending and pending + size > MAX_PENDING_BYTES:
            raise BufferFull("too much waits to be written to the journal; send the batch again", retry_after_s=1)
        if not beyond_bounds and not self._room.fits(size):
            self._room.refused_size = size
            self._ask_for_rotation()
            raise JournalFull("the journal has reached journal.max_bytes; it has room again when records are stored")
        self._room.begin(size)
        self._high_water_us = mark
        self._writer.submit(request)
        return future

    def hold(self, segment: Segment, items: int) -> None:
        """`items` more must be released before the segment may go."""
        segment.holds += items
        self._unstored_items += items
        if segment.holds:
            self._held[segment] = None

    def release(self, segment: Segment, items: int) -> None:
        """`items` of the segment are stored; when it is sealed and was their last keeper, its file is removed, elsewhere.

        Raises:
            ValueError: more than is held.
        """
        if items > segment.holds:
            raise ValueError(f"{items} items released, {segment.holds} held on {segment!r}")
        segment.holds -= items
        self._unstored_items -= items
        if not segment.holds:
            self._held.pop(segment, None)
            if not segment.sealed and self._room.is_worth_closing(segment.size):
                self._writer.submit(Rotate())
            self._remove_if_done(segment)

    def give_up(self, position: Position, items: int) -> None:
        """A record that is held can't be read any more: it is told as loss, and its `items` are released."""
        loss = Loss(position.segment.number, position.sequence, position.sequence, "damaged")
        if ranges := self._given_up.occurred():  # a volume that is gone takes all that waits with it
            log.error(
                "journal_loss",
                segment=loss.segment,
                first=loss.first_sequence,
                last=loss.last_sequence,
                reason="damaged",
                ranges=ranges,
            )
        self._note_losses([loss])
        self.release(position.segment, items)

    def items_until_room(self, size: int) -> int:
        """How many items must be released, oldest first, until a record of `size` bytes fits; all, if that is not enough."""
        over = self._room.own_excess(size)
        items = 0
        for segment in sorted(self._held, key=lambda segment: segment.first_sequence):
            items += segment.holds
            over -= segment.size
            if over <= 0:
                break
        return items

    def _ask_for_rotation(self) -> None:
        """Lets the active segment go too once it is stored; else a journal of one segment could stay full for ever."""
        if not self._rotation_asked:
            self._rotation_asked = True
            log.warning("journal_full", used_bytes=self.service_bytes, max_bytes=self.max_bytes)
            self._writer.submit(Rotate())

    def _remove_if_done(self, segment: Segment) -> None:
        if segment.is_removable:
            segment.removing = True
            self._writer.submit(Remove(segment))

    # ------------------------------------------------------------------------------------- news from the writer

    def _deliver(self, delivery: Delivery) -> None:
        """Called in the writer's thread: one wake-up of the loop, whatever the size of the group."""
        try:
            self._loop.call_soon_threadsafe(self._receive, delivery)
        except RuntimeError:  # the loop is closed: nobody is left to hear it, and the records are on disk
            log.warning("journal_loop_gone", written=len(delivery.written), refused=len(delivery.refused))

    def _receive(self, delivery: Delivery) -> None:
        for request in (*(request for request, _ in delivery.written), *delivery.refused):
            self._room.end(request.size)
        self._room.use(delivery.used_bytes)
        self._segments = delivery.segments
        for request, position in delivery.written:
            self._rotation_asked = False
            self._room.refused_size = 1
            self.hold(position.segment, request.items)
            request.future.set_result(position)
        error = delivery.error
        for request in delivery.refused:
            if error is not None:
                request.future.set_exception(type(error)(str(error)))
        self._note_losses(delivery.losses)
        if delivery.sealed is not None:
            delivery.sealed.sealed = True
            self._remove_if_done(delivery.sealed)
        if delivery.done is not None:
            delivery.done.set_result(None)

    def _note_losses(self, losses: Iterable[Loss]) -> None:
        for loss in losses:
            self._lost_ranges += 1
            if len(self._losses) < _LISTED_LOSSES:
                self._losses.append(loss)

    # --------------------------------------------------------------------------------------------------- reading

    async def replay(self) -> AsyncGenerator[Replayed, None]:
        """Every intact record that was there at `open`, in the order of sequences, each with its `items` held.

        Memory is bounded. Damage is copied to quarantine and counted, what is missing is added to `stats().losses`. After a
        disk failure records may come twice. An iteration that was broken off (close it: `contextlib.aclosing`) may be
        started again; it begins with the segment it was in.

        Raises:
            RuntimeError: another replay is running.
            JournalUnavailable: a segment cannot be opened, or the journal is closed; nothing is lost, try again.
        """
        if self._replaying:
            raise RuntimeError("a replay of this journal is running already")
        self._replaying = True
        try:
            while self._unread:
                segment = self._unread[0]
                async for replayed in self._replay_segment(segment):
                    yield replayed
                self._unread.remove(segment)
        finally:
            self._replaying = False

    async def _replay_segment(self, segment: Segment) -> AsyncGenerator[Replayed, None]:
        survey = self._survey
        scan = SegmentScan(
            self._directory,
            segment,
            expected_last=survey.expected_last.get(segment),
            unlisted=segment in survey.unlisted,
        )
        try:
            while batch := await self._run(scan.next_batch):
                for record in batch:
                    self.hold(segment, record.items)
                    segment.first_accepted_us = segment.first_accepted_us or record.accepted_at_us
                    yield _replayed(segment, record)
        except OSError as error:
            raise JournalUnavailable(f"segment {segment.number} of the journal cannot be read") from error
        finally:
            try:
                self._reader.submit(scan.close)
            except RuntimeError:  # closed; a batch that is being read just now still has the file, and lets it go
                with contextlib.suppress(ValueError):
                    scan.close()
        result = scan.result
        self._damaged_regions += result.damaged_regions
        self._quarantined_bytes += result.quarantined_bytes
        self._note_losses(result.losses)
        if result.kept:
            segment.pinned = False
            self._remove_if_done(segment)

    async def read(self, position: Position) -> bytes:
        """The payload again, verified; its segment must be held.

        Raises:
            JournalRecordDamaged: the record was damaged on disk.
            JournalError: its segment's file is gone; it was released, or somebody removed it.
            JournalUnavailable: see `read_many`.
        """
        (found,) = await self.read_many((position,))
        if isinstance(found, JournalError):
            raise found
        return found

    async def read_many(self, positions: Sequence[Position]) -> list[bytes | JournalError]:
        """The payloads at the positions, in their order, each verified; their segments must be held.

        A record that is damaged, or whose file is gone, is a JournalRecordDamaged, or a JournalError, in its place. All
        payloads are in memory at once, so the caller bounds what it asks for; positions near each other are read together.

        Raises:
            JournalUnavailable: the journal is closed, or a segment's file cannot be opened just now; nothing is lost.
        """
        if not positions and not self._closing:
            return []
        try:
            return await self._run(functools.partial(read_payloads, self._directory.files, positions))
        except OSError as error:
            raise JournalUnavailable("a segment of the journal cannot be opened for reading") from error

    async def _run(self, read: Callable[[], T]) -> T:
        if self._closing:
            raise JournalUnavailable("the journal is closed")
        return await self._loop.run_in_executor(self._reader, read)

    def stats(self) -> JournalStats:
        """Counters since open and the present state; costs no I/O."""
        state = self._writer.state
        oldest = min(self._held, key=lambda segment: segment.first_sequence, default=None)
        return JournalStats(
            bytes=self.used_bytes,
            segments=self._segments,
            unstored_items=self._unstored_items,
            pending_bytes=self._room.pending_bytes,
            appended_records=state.appended_records,
            appended_bytes=state.appended_bytes,
            groups=state.groups,
            fsyncs=state.fsyncs,
            fsync_seconds_total=state.fsync_seconds_total,
            failing=state.failing,
            full=state.full or not self._room.fits(self._room.refused_size),
            replaying=bool(self._unread),
            torn_tails=self._survey.torn_tails,
            damaged_regions=self._damaged_regions,
            quarantined_bytes=self._quarantined_bytes,
            quarantined_files=self._survey.quarantined_files,
            lost_ranges=self._lost_ranges,
            losses=tuple(self._losses),
            oldest_unstored_us=oldest.first_accepted_us if oldest is not None else None,
        )


def _replayed(segment: Segment, record: Record) -> Replayed:
    position = Position(segment, record.offset, record.length, record.sequence)
    return Replayed(position, record.kind, record.items, record.accepted_at_us, record.payload)

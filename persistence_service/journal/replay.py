"""Reading back what earlier runs left, with everything that is damaged kept and counted."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from persistence_service.errors import JournalError, JournalRecordDamaged
from persistence_service.journal.evidence import DamageCopy, note_loss
from persistence_service.journal.files import FileSource
from persistence_service.journal.format import Damage, Record, records_at, scan
from persistence_service.journal.segment import Loss

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from persistence_service.journal.directory import JournalDirectory
    from persistence_service.journal.files import Files
    from persistence_service.journal.segment import Home, Position, Segment

log = structlog.get_logger(__name__)

BATCH_BYTES: Final = 2 * 1024 * 1024
BATCH_RECORDS: Final = 512
_LOGGED_FINDINGS: Final = 20
_GAP_BYTES: Final = 4096


@dataclass(slots=True)
class ScanResult:
    """What is known of a segment once all of it was read; `kept` is false when its damage could not be set aside."""

    losses: list[Loss]
    damaged_regions: int = 0
    quarantined_bytes: int = 0
    kept: bool = True


class SegmentScan:
    """One pass over an earlier run's segment. Blocking; the batches are bounded, so the reader decides about memory.

    An `unlisted` segment's damage is no loss and is not kept: the same records were moved to another segment. Without
    `keeping` none is, nothing on disk is changed, and nothing is logged.
    """

    def __init__(
        self,
        directory: JournalDirectory,
        segment: Segment,
        *,
        expected_last: int | None,
        unlisted: bool,
        keeping: bool = True,
    ) -> None:
        self.segment = segment
        self.result = ScanResult([])
        self._directory = directory
        self._expected_last = expected_last
        self._unlisted = unlisted
        self._keeping = keeping
        self._next_sequence = segment.first_sequence
        self._items = self._scan()

    def next_batch(self) -> list[Record]:
        """The next records of callers; empty when the segment has been read to its end.

        Raises:
            OSError: the file cannot be opened.
        """
        batch: list[Record] = []
        size = 0
        for record in self._items:
            batch.append(record)
            size += record.length
            if size >= BATCH_BYTES or len(batch) >= BATCH_RECORDS:
                break
        return batch

    def close(self) -> None:
        self._items.close()

    def _scan(self) -> Generator[Record, None, None]:
        segment, files = self.segment, self._directory.files
        with FileSource(files, segment.home.path) as source, contextlib.ExitStack() as stack:
            evidence: DamageCopy | None = None
            for item in scan(source, segment.home.keys, end=min(source.size, segment.size)):
                if isinstance(item, Record):
                    if not item.is_control:
                        self._expect(item.sequence)
                        self._next_sequence = max(self._next_sequence, item.sequence + 1)
                        yield item
                elif not self._unlisted:
                    self._count(item)
                    if self._keeping:
                        evidence = evidence or stack.enter_context(DamageCopy(self._directory, segment, source))
                        evidence.keep(item)
            if evidence is not None:
                self.result.kept = evidence.finish()
        if self._expected_last is not None:
            self._expect(self._expected_last + 1)
        if self._keeping and evidence is None:  # it ends too early, and nothing of the rest is there to be kept
            for loss in self.result.losses:
                note_loss(self._directory, loss)

    def _count(self, damage: Damage) -> None:
        self.result.damaged_regions += 1
        self.result.quarantined_bytes += damage.length
        if self._keeping and self.result.damaged_regions <= _LOGGED_FINDINGS:
            log.error(
                "journal_damage",
                segment=self.segment.number,
                offset=damage.offset,
                bytes=damage.length,
                reason=str(damage.reason),
            )

    def _expect(self, sequence: int) -> None:
        """`sequence` is the next one there is, so those before it that were not seen are lost."""
        if sequence <= self._next_sequence or self._unlisted:
            return
        loss = Loss(self.segment.number, self._next_sequence, sequence - 1, "damaged")
        self.result.losses.append(loss)
        if self._keeping and len(self.result.losses) <= _LOGGED_FINDINGS:
            log.error(
                "journal_loss",
                segment=loss.segment,
                first=loss.first_sequence,
                last=loss.last_sequence,
                reason=loss.reason,
            )


def read_payloads(files: Files, positions: Sequence[Position]) -> list[bytes | JournalError]:
    """What is at each position, verified, wherever its segment has been moved, or what became of it. Blocking.

    Raises:
        OSError: a file cannot be opened that is there, or that the journal makes again before it writes the next record.
    """
    wanted: dict[Segment, list[int]] = {}
    for index, position in enumerate(positions):
        wanted.setdefault(position.segment, []).append(index)
    found: dict[int, bytes | JournalError] = {}
    for segment, indexes in wanted.items():
        indexes.sort(key=lambda index: positions[index].offset)
        found.update(zip(indexes, _read_segment(files, segment, [positions[index] for index in indexes]), strict=True))
    return [found[index] for index in range(len(positions))]


def _read_segment(files: Files, segment: Segment, positions: list[Position]) -> list[bytes | JournalError]:
    while True:
        home = segment.home
        found: list[bytes | JournalError]
        try:
            with FileSource(files, home.path) as source:
                found = [payload for run in _runs(positions) for payload in _read_run(source, home, run)]
        except OSError as error:
            if segment.home is not home:
                continue
            if not segment.sealed or not isinstance(
                error, FileNotFoundError
            ):  # it will be written again, or opened later
                raise
            found = [
                JournalError(f"record {position.sequence} is not in the journal any more") for position in positions
            ]
        if segment.home is home or not any(isinstance(item, JournalError) for item in found):
            return found


def _runs(positions: list[Position]) -> Iterator[list[Position]]:
    """Neighbours among the ascending positions together: reading over a short gap is cheaper than another call."""
    run: list[Position] = []
    end = 0
    for position in positions:
        if run and position.offset > end + _GAP_BYTES:
            yield run
            run = []
        run.append(position)
        end = position.offset + position.length
    if run:
        yield run


def _read_run(source: FileSource, home: Home, run: list[Position]) -> Iterator[bytes | JournalError]:
    offsets = [position.offset + home.shift for position in run]
    records = records_at(source, home.keys, offsets, end=offsets[-1] + run[-1].length)
    for position, found in zip(run, records, strict=True):
        if isinstance(found, Record) and found.sequence == position.sequence and not found.is_control:
            yield found.payload
        else:
            yield JournalRecordDamaged(position.sequence, home.number)

"""Writing one chunk: everything in it that can be stored is, whatever else is in it.

A chunk with a record that can't be stored is halved until that record is alone, which costs two statements for each
doubling of the chunk. Where one after the other is refused, the next few are written one by one, which costs half as many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.dead_letters import with_error
from persistence_service.buffer.entries import Entry, Refused
from persistence_service.buffer.record_writer import RecordWriter, Written
from persistence_service.errors import DataRejected, StorageUnavailable, UnclassifiedStorageError
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.storage.backend import RejectionReason

CONVINCING = 3
"""So many records alone that all fail with an unknown error, while nothing succeeds, are a matter of set-up."""

_FEW = 16
_LEAST_PART = 500  # of fewer rows, a transaction's own cost is the larger part


@dataclass(slots=True)
class ChunkReport:
    """What became of a chunk: records `stored`.

    `items` are the accepted ones that the written records were merged from. `stored_parents` are the keys of those stored,
    where records of the collection can be parents. `refused_in_row` counts those that were refused alone since the last
    that was stored.
    """

    stored: int = 0
    items: int = 0
    refused_in_row: int = 0
    stored_parents: list[str] = field(default_factory=list)
    suspects: list[tuple[Entry[Any], UnclassifiedStorageError]] = field(default_factory=list)


class ChunkWriter:
    """Writes what `RecordBuffer.take` gave, and settles, sets aside or refuses each entry of it."""

    def __init__(self, writer: RecordWriter, *, parallel: int = 1) -> None:
        self._writer = writer
        self._parallel = parallel

    async def write(
        self, buffer: RecordBuffer[Any], entries: Sequence[Entry[Any]], patience_s: float, report: ChunkReport
    ) -> None:
        """Write the chunk, and say in `report` how far that came, even if it fails. An orphan's patience begins at `patience_s`.

        A large one is written in `parallel` parts at once, each in a transaction of its own; all of them have ended when this
        returns or raises. No two entries of a chunk are of one key, so the parts are in nobody's way.

        A record that fails with an error of an unknown number is refused only if another one was stored meanwhile; else all
        that is left waits again, so that the next chunk may be another, and the error is raised.

        Raises:
            StorageUnavailable: what is left stays in flight.
            StorageSetupError, UnclassifiedStorageError: a person must act; what is left waits at the head.
        """
        try:
            await self._write_parts(buffer, entries, patience_s, report)
            if report.suspects and not report.stored:
                raise report.suspects[0][1]
        except UnclassifiedStorageError:
            buffer.put_back()
            raise
        for entry, error in report.suspects:
            detail = "the database refuses it for a reason that this version does not know"
            buffer.refuse(
                Refused(entry, DeadLetterReason.DATA_REJECTED, with_error(detail, error.number), error.number)
            )

    async def _write_parts(
        self, buffer: RecordBuffer[Any], entries: Sequence[Entry[Any]], patience_s: float, report: ChunkReport
    ) -> None:
        parts = min(self._parallel, len(entries) // _LEAST_PART)
        if parts <= 1:
            await self._write(buffer, entries, patience_s, report)
            return
        size = -(-len(entries) // parts)
        each = [entries[start : start + size] for start in range(0, len(entries), size)]
        ends = await asyncio.gather(
            *(self._write(buffer, part, patience_s, report) for part in each), return_exceptions=True
        )
        doubted = [isinstance(end, UnclassifiedStorageError) and report.stored > 0 for end in ends]
        failures = [end for end, is_doubted in zip(ends, doubted, strict=True) if end is not None and not is_doubted]
        if failures:  # one of which only a person can mend is told first: it does not pass by itself
            raise min(failures, key=lambda failure: isinstance(failure, StorageUnavailable))
        # A part that gave up before another had stored anything was about single records: as if it had come second.
        suspects = {id(entry) for entry, _ in report.suspects}
        for part in compress(each, doubted):
            left = [entry for entry in part if buffer.is_in_flight(entry) and id(entry) not in suspects]
            if left:
                await self._write(buffer, left, patience_s, report)

    async def _write(
        self, buffer: RecordBuffer[Any], entries: Sequence[Entry[Any]], patience_s: float, report: ChunkReport
    ) -> None:
        try:
            written = await self._writer.write(buffer.collection, [entry.record for entry in entries])
        except (DataRejected, UnclassifiedStorageError) as exc:
            if len(entries) > 1:
                for part in _parts(entries, report):
                    await self._write(buffer, part, patience_s, report)
            elif isinstance(exc, DataRejected):
                report.refused_in_row += 1
                detail = with_error("the database refuses it", exc.number, exc.column)
                reason = DeadLetterReason.DATA_REJECTED
                buffer.refuse(Refused(entries[0], reason, detail, exc.number, exc.column))
            else:
                report.suspects.append((entries[0], exc))
                if len(report.suspects) >= CONVINCING and not report.stored:
                    raise
            return
        report.refused_in_row = 0
        if buffer.collection.parent is None:
            left_out = {*written.dropped, *(rejection.index for rejection in written.rejected)}
            keys = (
                buffer.collection.key_of(entry.record) for index, entry in enumerate(entries) if index not in left_out
            )
            report.stored_parents.extend(keys)
        report.items += sum(items for entry in entries for _, items in entry.holds)
        _settle(buffer, entries, written, patience_s)
        report.stored += written.stored


def _parts(entries: Sequence[Entry[Any]], report: ChunkReport) -> list[Sequence[Entry[Any]]]:
    """What to write next of entries of which one at least was refused."""
    if len(entries) <= _FEW and report.refused_in_row >= _FEW:
        return [[entry] for entry in entries]
    middle = len(entries) // 2
    return [entries[:middle], entries[middle:]]


def _settle(buffer: RecordBuffer[Any], entries: Sequence[Entry[Any]], written: Written, patience_s: float) -> None:
    reasons = {rejection.index: rejection.reason for rejection in written.rejected}
    dropped = frozenset(written.dropped)
    for index, entry in enumerate(entries):
        if index in dropped:
            buffer.drop(entry)
            continue
        match reasons.get(index):
            case None:
                buffer.settle(entry)
            case RejectionReason.UNKNOWN_PARENT:
                buffer.set_orphan(entry, patience_s)
            case RejectionReason.FIXED_FIELD_CHANGED:
                detail = "a stored task of this id belongs to another session"
                buffer.refuse(Refused(entry, DeadLetterReason.TASK_ID_CONFLICT, detail))

"""Bringing what is in journals to another place, as the service that owned them would have stored it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import msgspec

from persistence_service.buffer.intake import KIND_SESSIONS, KIND_STAMP, KIND_TASKS
from persistence_service.buffer.letter_files import DIRECTORY_NAME, LetterFiles
from persistence_service.buffer.slices import slices
from persistence_service.journal.format import Record
from persistence_service.journal.reading import JournalReader
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.storage.collections import SESSIONS, TASKS, Collection

_AT_ONCE = 1000
_COLLECTIONS: dict[int, Collection[Any]] = {KIND_SESSIONS: SESSIONS, KIND_TASKS: TASKS}
_DECODERS: dict[int, msgspec.json.Decoder[list[Any]]] = {
    KIND_SESSIONS: msgspec.json.Decoder(list[Session]),
    KIND_TASKS: msgspec.json.Decoder(list[Task]),
}


class CopyReport(msgspec.Struct):
    """What was read, and what became of it.

    Of the `sessions` and `tasks`, `merged` went into others of their key, `stored` were taken by the target, also where it had
    them already, `dropped` were deleted, `dead_lettered` became dead letters there, and `refused` are nowhere but in the
    journal: the first of them are named. `unreadable` batches are of another version. `letter_files` are dead letters beside
    the journal, which stay there.
    """

    batches: int = 0
    sessions: int = 0
    tasks: int = 0
    merged: int = 0
    stored: int = 0
    dropped: int = 0
    dead_lettered: int = 0
    refused: int = 0
    unreadable: int = 0
    letter_files: int = 0
    refusals: list[str] = msgspec.field(default_factory=list)
    losses: list[str] = msgspec.field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Everything that was acknowledged is in the target."""
        return not (self.refused or self.unreadable or self.letter_files or self.losses)

    def note_refusal(self, text: str) -> None:
        """One more record that the target can't keep."""
        self.refused += 1
        if len(self.refusals) < 100:
            self.refusals.append(text)


class CopyTarget(Protocol):
    """Where records go."""

    async def write(self, collection: Collection[Any], records: Sequence[Any], report: CopyReport) -> None:
        """Keep the records, and say in `report` what became of each."""


class NoTarget:
    """Nothing is written: what a copy would read."""

    async def write(self, collection: Collection[Any], records: Sequence[Any], report: CopyReport) -> None:
        """Let go of them."""


async def copy_journals(
    readers: Sequence[JournalReader], target: CopyTarget, advance: Callable[[int], None] = lambda _: None
) -> CopyReport:
    """Bring everything in these journals to `target`: all sessions, and then all tasks, so that no task comes before its own.

    Doing so again changes nothing. Memory is bounded. `advance` is told the bytes that were read; each byte is read twice.

    Raises:
        JournalError, StorageUnavailable, StorageError, Unavailable: as of the reader and the target; it can be done again.
    """
    report = CopyReport()
    for kind in (KIND_SESSIONS, KIND_TASKS):
        batches = chain.from_iterable(_batches(reader, kind, report, advance) for reader in readers)
        parts = slices(_records(batches, kind, report), lambda sized: sized[1], max_items=_AT_ONCE)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            await target.write(_COLLECTIONS[kind], [record for record, _ in part], report)
    report.letter_files = sum(len(LetterFiles(reader.path / DIRECTORY_NAME).ids()) for reader in readers)
    report.losses = [f"{reader.path}: {loss}" for reader in readers for loss in reader.losses]
    return report


def _batches(reader: JournalReader, kind: int, report: CopyReport, advance: Callable[[int], None]) -> Iterator[Record]:
    for record in reader.records():
        advance(record.length)
        if record.kind == kind:
            report.batches += 1
            yield record
        elif kind == KIND_SESSIONS and record.kind not in (*_COLLECTIONS, KIND_STAMP):
            report.unreadable += 1


def _records(batches: Iterator[Record], kind: int, report: CopyReport) -> Iterator[tuple[Any, int]]:
    """Each record with about its bytes."""
    for batch in batches:
        try:
            records = _DECODERS[kind].decode(batch.payload)
        except msgspec.MsgspecError:
            report.unreadable += 1
            continue
        if kind == KIND_SESSIONS:
            report.sessions += len(records)
        else:
            report.tasks += len(records)
        for record in records:
            yield record, batch.length // len(records)

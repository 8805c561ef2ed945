"""A backend as the target of a copy: written as the flush writes, and with the dead letters that it would make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from persistence_service.buffer.dead_letters import Letter, new_letter, with_error, write_letters
from persistence_service.buffer.record_writer import RecordWriter
from persistence_service.errors import DataRejected
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.times import from_micros
from persistence_service.services.journal_copy import CopyReport
from persistence_service.storage.backend import RejectionReason, StorageBackend
from persistence_service.storage.collections import SETTLED_LETTERS, Collection
from persistence_service.storage.conflicts import repeating_conflicts

_WHY = {
    RejectionReason.UNKNOWN_PARENT: (DeadLetterReason.UNKNOWN_SESSION, "its session is not known"),
    RejectionReason.FIXED_FIELD_CHANGED: (
        DeadLetterReason.TASK_ID_CONFLICT,
        "a stored task of this id belongs to another session",
    ),
}


@dataclass(frozen=True, slots=True)
class _Refused:
    record: Any
    reason: DeadLetterReason
    detail: str
    number: int | None = None
    column: str | None = None


class BackendTarget:
    """Writes into an open backend. `clock` gives the time that dead letters are of, in µs."""

    def __init__(self, backend: StorageBackend, clock: Callable[[], int]) -> None:
        self._backend = backend
        self._writer = RecordWriter(backend)
        self._clock = clock

    async def write(self, collection: Collection[Any], records: Sequence[Any], report: CopyReport) -> None:
        """Merge the records into the backend; those that it refuses become dead letters."""
        refused: list[_Refused] = []
        merged = _merged(collection, records)
        report.merged += len(records) - len(merged)
        await self._write(collection, merged, report, refused)
        if refused:
            await self._bury(collection, refused, report)

    async def _write(
        self, collection: Collection[Any], records: Sequence[Any], report: CopyReport, refused: list[_Refused]
    ) -> None:
        """Halved where one can never be stored, until that is alone."""
        try:
            written = await self._writer.write(collection, records)
        except DataRejected as exc:
            if len(records) == 1:
                detail = with_error("the database refuses it", exc.number, exc.column)
                refused.append(_Refused(records[0], DeadLetterReason.DATA_REJECTED, detail, exc.number, exc.column))
                return
            middle = len(records) // 2
            await self._write(collection, records[:middle], report, refused)
            await self._write(collection, records[middle:], report, refused)
            return
        report.stored += len(records) - len(written.dropped) - len(written.rejected)
        report.dropped += len(written.dropped)
        refused += [_Refused(records[rejection.index], *_WHY[rejection.reason]) for rejection in written.rejected]

    async def _bury(self, collection: Collection[Any], refused: Sequence[_Refused], report: CopyReport) -> None:
        """Dead letters of all, but for those that a person has settled before."""
        now = from_micros(self._clock())
        letters = [
            new_letter(
                collection,
                each.record,
                reason=each.reason,
                detail=each.detail,
                number=each.number,
                column=each.column,
                now=now,
            )
            for each in refused
        ]
        ids = [letter.letter.letter_id for letter in letters]
        settled = {letter.letter_id for letter in await self._backend.read(SETTLED_LETTERS, ids)}
        report.dropped += len([letter_id for letter_id in ids if letter_id in settled])
        await self._keep([letter for letter in letters if letter.letter.letter_id not in settled], report)

    async def _keep(self, letters: Sequence[Letter], report: CopyReport) -> None:
        if not letters:
            return
        try:
            await repeating_conflicts(lambda: self._store(letters))
        except DataRejected:
            if len(letters) == 1:
                letter = letters[0].letter
                report.note_refusal(f"{letter.collection} {letter.record_key}: {letter.detail}, nor its dead letter")
                return
            middle = len(letters) // 2
            await self._keep(letters[:middle], report)
            await self._keep(letters[middle:], report)
            return
        report.dead_lettered += len(letters)

    async def _store(self, letters: Sequence[Letter]) -> None:
        async with self._backend.transaction() as transaction:
            await write_letters(transaction, letters)


def _merged(collection: Collection[Any], records: Sequence[Any]) -> list[Any]:
    """One record of each key, as the buffer would have merged them; those that differ in a fixed field stay apart."""
    merged: dict[tuple[Any, ...], Any] = {}
    for record in records:
        key = (collection.key_of(record), *(getattr(record, field) for field in collection.fixed))
        merged[key] = collection.merge(merged[key], record) if key in merged else record
    return list(merged.values())

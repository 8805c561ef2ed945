"""A backend as the target of a copy: written as the flush writes, and with the dead letters that it would make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.chunk_writer import CONVINCING, ChunkReport, ChunkWriter
from persistence_service.buffer.dead_letters import Letter, new_letter, write_letters
from persistence_service.buffer.entries import Entry, Refused
from persistence_service.buffer.record_writer import RecordWriter
from persistence_service.errors import DataRejected, UnclassifiedStorageError
from persistence_service.models.times import from_micros
from persistence_service.services.journal_copy import CopyReport
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SETTLED_LETTERS, Collection
from persistence_service.storage.conflicts import repeating_conflicts


class BackendTarget:
    """Writes into an open backend. `clock` gives the time that dead letters are of, in µs."""

    def __init__(self, backend: StorageBackend, clock: Callable[[], int]) -> None:
        self._backend = backend
        self._writer = ChunkWriter(RecordWriter(backend))
        self._clock = clock
        self._taking = ""

    async def write(self, collection: Collection[Any], records: Sequence[Any], report: CopyReport) -> None:
        """Merge the records into the backend; those that it refuses become dead letters.

        Raises:
            StorageUnavailable: the backend is away.
            StorageSetupError, UnclassifiedStorageError: a person must act; of the latter, nothing else was stored meanwhile.
        """
        dropped: list[str] = []
        buffer = RecordBuffer(
            collection, lambda *_: None, on_dropped=lambda name, count: dropped.extend([name] * count)
        )
        for ticket, record in enumerate(records):
            buffer.add(Entry(record, ticket, arrived_s=0.0, size=0, holds=()))
        while buffer.unflushed:  # twice or more where several of one key differ in a fixed field
            report.stored += await self._write_chunk(buffer)
            buffer.give_up(inf, room=0, room_bytes=0)  # all sessions came before: nobody's will come any more
        report.merged += buffer.merged
        report.dropped += len(dropped)
        await self._bury(collection, buffer.all_refused(), report)

    async def _write_chunk(self, buffer: RecordBuffer[Any]) -> int:
        """How many were stored. What fails with an unknown error at one end is tried once more from the other, as in a flush."""
        try:
            return await self._write_from(buffer, newest=False)
        except UnclassifiedStorageError:
            return await self._write_from(buffer, newest=True)

    async def _write_from(self, buffer: RecordBuffer[Any], *, newest: bool) -> int:
        entries = buffer.take(max_rows=buffer.unflushed, max_bytes=buffer.size_bytes, newest=newest)
        # So few can't show what is a matter of set-up: what was stored just before them counts, and only once.
        before = int(self._taking == buffer.collection.name and len(entries) < CONVINCING)
        chunk = ChunkReport(stored=before)
        try:
            await self._writer.write(buffer, entries, 0.0, chunk)
        finally:
            stored = chunk.stored - before
            self._taking = buffer.collection.name if stored else ""
        return stored

    async def _bury(self, collection: Collection[Any], refused: Sequence[Refused[Any]], report: CopyReport) -> None:
        """Dead letters of all, but for those that a person has settled before."""
        now = from_micros(self._clock())
        letters = [
            new_letter(
                collection,
                each.entry.record,
                reason=each.reason,
                detail=each.detail,
                number=each.number,
                column=each.column,
                now=now,
            )
            for each in refused
        ]
        ids = [letter.letter.letter_id for letter in letters]
        settled = {letter.letter_id for letter in await self._backend.read(SETTLED_LETTERS, ids)} if ids else set()
        report.dropped += len([letter_id for letter_id in ids if letter_id in settled])
        await self._keep([letter for letter in letters if letter.letter.letter_id not in settled], report)

    async def _keep(self, letters: Sequence[Letter], report: CopyReport) -> None:
        """Those that can't be stored either are named: their records stay in the journal."""
        if not letters:
            return
        try:
            await repeating_conflicts(lambda: self._store(letters))
        except (DataRejected, UnclassifiedStorageError):
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

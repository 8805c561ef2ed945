"""A chunk that is written in parts at once: each part's records are settled or kept as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.chunk_writer import CONVINCING, ChunkReport, ChunkWriter
from persistence_service.buffer.entries import Entry
from persistence_service.buffer.record_writer import RecordWriter, Written
from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.task import Task
from persistence_service.storage.collections import TASKS, Collection
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.samples import task_record

ROWS = 2000
Failing = Callable[[Sequence[str]], PersistenceError | None]


def _never(_: Sequence[str]) -> None:
    return None


class Together(RecordWriter):
    """Writes nothing before `parts` writes are under way; `failing` says which of them fail, by their keys."""

    def __init__(self, parts: int, failing: Failing = _never) -> None:
        super().__init__(MemoryBackend())
        self._missing = parts
        self._all_here = asyncio.Event()
        self._failing = failing
        self.stored: list[list[str]] = []

    async def write(self, collection: Collection[Any], records: Sequence[Any]) -> Written:
        keys = [collection.key_of(record) for record in records]
        self._missing -= 1
        if self._missing == 0:
            self._all_here.set()
        await self._all_here.wait()
        error = self._failing(keys)
        if error is not None:
            raise error
        self.stored.append(keys)
        return Written(len(keys))


def filled(rows: int = ROWS) -> RecordBuffer[Task]:
    buffer: RecordBuffer[Task] = RecordBuffer(TASKS, lambda *_: None)
    for number in range(rows):
        buffer.add(Entry(task_record(f"T{number:05}"), ticket=number, arrived_s=0.0, size=1, holds=()))
    return buffer


async def written(writer: ChunkWriter, buffer: RecordBuffer[Task]) -> ChunkReport:
    report = ChunkReport()
    async with asyncio.timeout(60):
        await writer.write(buffer, buffer.take(max_rows=ROWS, max_bytes=ROWS), 0.0, report)
    return report


def having(key: str, error: PersistenceError) -> Failing:
    return lambda keys: error if key in keys else None


async def test_the_parts_of_a_large_chunk_are_written_at_the_same_time() -> None:
    buffer, record_writer = filled(), Together(2)
    report = await written(ChunkWriter(record_writer, parallel=2), buffer)
    assert (report.stored, buffer.total) == (ROWS, 0)
    assert sorted(key for part in record_writer.stored for key in part) == [f"T{number:05}" for number in range(ROWS)]


@pytest.mark.parametrize("rows, parallel", [(ROWS, 1), (999, 2), (1, 2)])
async def test_a_small_chunk_or_one_for_a_backend_that_writes_alone_is_one_write(rows: int, parallel: int) -> None:
    buffer, record_writer = filled(rows), Together(1)
    await written(ChunkWriter(record_writer, parallel=parallel), buffer)
    assert [len(part) for part in record_writer.stored] == [rows]


async def test_what_a_part_could_not_write_stays_in_flight_and_the_rest_is_stored() -> None:
    buffer = filled()
    away = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await written(ChunkWriter(Together(2, having("T00000", away)), parallel=2), buffer)
    assert buffer.total == ROWS // 2
    again = [entry.record.task_id for entry in buffer.take(max_rows=ROWS, max_bytes=ROWS)]
    assert again == [f"T{number:05}" for number in range(ROWS // 2)]


@pytest.mark.parametrize("first", [True, False])
async def test_what_only_a_person_can_mend_is_told_before_what_passes_by_itself(first: bool) -> None:
    def failing(keys: Sequence[str]) -> PersistenceError:
        return StorageSetupError("no privilege") if ("T00000" in keys) is first else StorageUnavailable("away")

    buffer = filled()
    with pytest.raises(StorageSetupError):
        await written(ChunkWriter(Together(2, failing), parallel=2), buffer)
    assert buffer.total == ROWS


async def test_a_record_that_is_refused_in_one_part_is_alone_in_the_end() -> None:
    buffer = filled()
    report = await written(
        ChunkWriter(Together(2, having("T01234", DataRejected("no", number=1406))), parallel=2), buffer
    )
    assert (report.stored, buffer.unflushed) == (ROWS - 1, 0)
    assert [refused.entry.record.task_id for refused in buffer.all_refused()] == ["T01234"]


async def test_an_unknown_error_of_one_record_is_believed_when_the_other_part_was_stored() -> None:
    buffer = filled()
    odd = UnclassifiedStorageError("odd", number=7777)
    report = await written(ChunkWriter(Together(2, having("T01999", odd)), parallel=2), buffer)
    assert report.stored == ROWS - 1
    assert [refused.number for refused in buffer.all_refused()] == [7777]


async def test_unknown_errors_of_one_part_are_believed_though_the_other_part_was_stored_later() -> None:
    bad = {f"T{number:05}" for number in range(CONVINCING)}
    failed: set[str] = set()
    all_failed = asyncio.Event()

    class OtherPartLast(Together):
        async def write(self, collection: Collection[Any], records: Sequence[Any]) -> Written:
            if len(records) == ROWS // 2 and collection.key_of(records[-1]) == f"T{ROWS - 1:05}":
                await all_failed.wait()
            return await super().write(collection, records)

    def failing(keys: Sequence[str]) -> PersistenceError | None:
        if bad.isdisjoint(keys):
            return None
        failed.update(keys if len(keys) == 1 else ())
        if failed == bad:
            all_failed.set()
        return UnclassifiedStorageError("odd", number=7777)

    buffer = filled()
    report = await written(ChunkWriter(OtherPartLast(1, failing), parallel=2), buffer)
    assert (report.stored, buffer.unflushed) == (ROWS - len(bad), 0)
    assert {refused.entry.record.task_id for refused in buffer.all_refused()} == bad


async def test_cancelling_ends_all_parts_and_leaves_their_records_in_flight() -> None:
    buffer = filled()
    writing = asyncio.create_task(written(ChunkWriter(Together(3), parallel=2), buffer))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert buffer.total == len(buffer.take(max_rows=ROWS, max_bytes=ROWS)) == ROWS

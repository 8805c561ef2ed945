"""What backends tell of their sizes is what is there."""

from __future__ import annotations

from pathlib import Path

from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.powers import CollectionSize
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.samples import session_record, task_record


async def test_sqlite_tells_what_its_files_take(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    log = path.with_name("test.db-wal")
    backend = SqliteBackend(path)
    await backend.open()
    await backend.migrate()
    await backend.write(SESSIONS, [session_record()])
    tasks = [task_record(f"task-{number}", source_text="x" * 10_000) for number in range(800)]
    await backend.write(TASKS, tasks)
    full = await backend.sizes()
    assert full.log_bytes == log.stat().st_size > 8_000_000
    assert full.free_bytes == 0
    await backend._writer.run(
        lambda connection: connection.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    )
    settled = await backend.sizes()
    assert (settled.log_bytes, settled.total_bytes) == (0, path.stat().st_size)
    assert settled.total_bytes == full.total_bytes - full.log_bytes
    await backend.delete(SESSIONS, ())
    assert ((await backend.sizes()).free_bytes or 0) > 8_000_000
    await backend.close()


async def test_memory_tells_the_rows_of_each_collection() -> None:
    backend = MemoryBackend()
    await backend.open()
    await backend.write(SESSIONS, [session_record(), session_record("two")])
    sizes = await backend.sizes()
    assert sizes.total_bytes == 0
    assert sizes.collections[SESSIONS.name] == CollectionSize(rows=2)
    assert sizes.collections[TASKS.name] == CollectionSize(rows=0)
    await backend.close()

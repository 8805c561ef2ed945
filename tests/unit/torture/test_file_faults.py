"""The embedded database's file is locked against all writers while the fault lasts, and free after it, however it ends."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from persistence_service.torture import file_faults
from persistence_service.torture.faults import CouldNotRun
from persistence_service.torture.file_faults import FileLocked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "p.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (a)")
    return path


def can_write(path: Path) -> bool:
    """Whether anybody may write to it now."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def lasts(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for name, value in (("_SHORTEST_S", seconds), ("_LONGEST_S", seconds), ("_LONGEST_REST_S", 0)):
        monkeypatch.setattr(file_faults, name, value)


@contextmanager
def striking(fault: FileLocked) -> Iterator[asyncio.Task[None]]:
    """One strike, which is not left going on."""
    task = asyncio.create_task(fault.strike(Random(1)))
    try:
        yield task
    finally:
        task.cancel()


async def until_it_holds(fault: FileLocked) -> None:
    async with asyncio.timeout(60):
        while not fault.hits:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)


async def test_nobody_can_write_while_it_lasts_and_all_can_when_it_is_cut_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasts(monkeypatch, 1000)
    fault = FileLocked(path)
    with striking(fault) as task:
        await until_it_holds(fault)
        assert not can_write(path)
    await asyncio.wait([task])
    assert can_write(path)


async def test_all_can_write_when_it_is_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lasts(monkeypatch, 0)
    fault = FileLocked(path)
    for _ in range(3):
        await fault.strike(Random(1))
        assert can_write(path)
    assert fault.hits == 3


async def test_a_file_that_is_no_database_can_not_be_locked(tmp_path: Path) -> None:
    (tmp_path / "p.db").write_bytes(b"no database " * 1000)
    with pytest.raises(CouldNotRun, match="database: locked"):
        await FileLocked(tmp_path / "p.db").strike(Random(1))

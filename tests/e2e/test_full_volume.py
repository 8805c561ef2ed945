"""The journal's volume runs full, and the service is killed then: nothing is lost, and it goes on by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persistence_service.torture.ledger import Verdict
from tests.e2e.caller import Caller
from tests.e2e.conftest import StartService
from tests.e2e.database import SqliteFile
from tests.e2e.drill import Drill, workbook
from tests.e2e.killer import Killer
from tests.e2e.outside import fill, mounted_volume, until, used_bytes

_MIB = 1024 * 1024


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 16 MiB."""
    with mounted_volume(tmp_path / "volume", 16) as folder:
        yield folder


@pytest.mark.slow
async def test_a_full_volume_loses_nothing_that_was_acknowledged_and_is_no_full_one_for_ever(
    start_service: StartService, volume: Path, tmp_path: Path
) -> None:
    database = SqliteFile(tmp_path / "persistence.db")
    settings = database.settings() | {
        "journal.directory": volume / "journal",
        "journal.min_free": 0,
        "journal.segment_bytes": 2 * _MIB,
        "buffer.max_memory_bytes": 4 * _MIB,
        "buffer.flush_interval": 1,
        "sqlite.busy_timeout": 0.2,
    }
    service = await start_service(settings, measured=False)
    async with Caller.to(service) as caller, asyncio.timeout(500):
        drill, killer = Drill(caller, database), Killer(service)
        verdict = Verdict()
        for cause, full, cells_each in (
            ("a locked database", database.locked(), 200),
            ("a foreign file", _ballast(volume), 50),
        ):
            books = [workbook(f"{cause} {number}", cells_each, text="字" * 4000) for number in range(4)]
            async with asyncio.TaskGroup() as group:
                with full:
                    workers = [group.create_task(drill.worker(book).work()) for book in books]
                    await _kill_while_full(drill, killer)
                assert not any(worker.done() for worker in workers)
            await caller.client.flush()
            await until(_has_room_again(drill, volume), "the room on the volume is given back")
            verdict = await drill.sum_up(f"a volume that {cause} filled")
    drill.say_all(killer.kills, verdict)


@contextmanager
def _ballast(volume: Path) -> Iterator[None]:
    """Somebody else's file takes all the room."""
    file = fill(volume)
    yield
    file.unlink()


def _has_room_again(drill: Drill, volume: Path) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return (await drill.caller.health())["status"] == "healthy" and used_bytes(volume) < 4 * _MIB

    return has


async def _kill_while_full(drill: Drill, killer: Killer) -> None:
    """Wait until nothing is accepted any more, kill the service, start it, and find it so again."""

    async def is_full() -> bool:
        return bool((await drill.caller.health())["status"] == "unhealthy")

    await until(is_full, "the journal is full")
    await _check_refused(drill)
    await killer.kill(ready=False)
    await _check_refused(drill)
    assert await is_full()


async def _check_refused(drill: Drill) -> None:
    book = workbook("refused", 200, text="字" * 4000)
    tasks = [{"status": "pending", **task} for task in book.tasks]
    answer = await drill.caller.post_once("/tasks/batch", {"tasks": tasks})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "JOURNAL_FULL")
    assert int(answer.headers["Retry-After"]) >= 1

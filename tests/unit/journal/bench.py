"""A journal with a disk that can fail, opened as often as a test likes."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from persistence_service.journal import Journal, Position, Replayed
from persistence_service.journal.budget import Budget
from persistence_service.journal.requests import Barrier
from persistence_service.testing.faulty_files import FaultyFiles

NOW_US = 1_700_000_000_000_000


@dataclass
class Bench:
    """Opens journals and closes what a test leaves open."""

    path: Path
    files: FaultyFiles = field(default_factory=FaultyFiles)
    opened: list[Journal] = field(default_factory=list)

    async def open(
        self,
        path: Path | None = None,
        *,
        max_bytes: int = 1 << 30,
        min_free: int = 0,
        segment_bytes: int = 1 << 20,
        retry_s: tuple[float, float] = (0.0001, 0.0001),
        budget: Budget | None = None,
    ) -> Journal:
        journal = await Journal.open(
            path or self.path,
            max_bytes=max_bytes,
            min_free=min_free,
            segment_bytes=segment_bytes,
            clock=lambda: NOW_US,
            files=self.files,
            retry_s=retry_s,
            budget=budget,
        )
        self.opened.append(journal)
        return journal

    def crash(self, name: str = "after-crash", path: Path | None = None) -> Path:
        """The directory as a process that died now would leave it to the next one."""
        copy = self.path.parent / name
        with self.files.stopped():
            shutil.copytree(path or self.path, copy)
        return copy

    def segments(self, path: Path | None = None) -> list[Path]:
        return sorted((path or self.path).glob("*.seg"))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds, for as long as a slow machine may take."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  (the writer's thread has no event for what tests ask)
                await asyncio.sleep(0)


async def settle(journal: Journal) -> None:
    """Everything handed over so far has been done, removals that it led to included."""
    for _ in range(2):
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        journal._writer.submit(Barrier(done))
        await done


def put(
    journal: Journal, payload: bytes = b"payload", *, items: int = 1, at: int = 0, durable: bool = True
) -> asyncio.Future[Position]:
    return journal.append(
        1, payload, items=items, accepted_at_us=NOW_US + at, high_water_us=NOW_US + at, durable=durable
    )


async def replay_all(journal: Journal, *, release: bool = False) -> list[Replayed]:
    found = []
    async for replayed in journal.replay():
        found.append(replayed)
        if release:
            journal.release(replayed.position.segment, replayed.items)
    return found


def payloads(found: list[Replayed]) -> list[bytes]:
    return [replayed.payload for replayed in found]

"""Journals that have no worker any more, since there are fewer than there were: whoever gets a journal's lock takes it over.

Batch for batch, each is kept in the own journal before it is released there. A crash in the middle leaves some batches in
both, which merging makes harmless. What is empty then is removed; what a person has to look at stays, and is told.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

import structlog

from persistence_service.buffer.takeover import TakeOver
from persistence_service.buffer.timing import Clock, Timing
from persistence_service.errors import JournalLocked, JournalVersionUnknown, PersistenceError, Replaying
from persistence_service.fleet.shared import SharedBytes
from persistence_service.journal.directory import QUARANTINE_NAME
from persistence_service.journal.journal import Journal
from persistence_service.journal.segment import JournalStats, Replayed

_log = structlog.get_logger(__name__)
_DIRECTORY = re.compile(r"worker-([1-9][0-9]{0,8})")
_PAUSE_S: Final = 0.5
_PATIENT_ATTEMPTS: Final = 20
_GROUP_BYTES: Final = 4 * 1024 * 1024
_GROUP: Final = 256
_NAMED: Final = 3


def journals_below(root: Path) -> dict[int, Path]:
    """The directories of workers' journals beside that of the first, by slot."""
    try:
        names = [entry.name for entry in root.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return {}
    found = {int(match[1]) - 1: root / name for name in sorted(names) if (match := _DIRECTORY.fullmatch(name))}
    return {slot: path for slot, path in found.items() if slot > 0}


def bytes_on_disk(directory: Path) -> int:
    """What the segments of a journal take."""
    return sum(_sizes(directory))


def _sizes(directory: Path) -> Iterator[int]:
    for path in directory.glob("*.seg"):
        try:
            yield path.stat().st_size
        except OSError:  # its owner removed it meanwhile, or it is a link that leads nowhere
            continue


class Inheritance:
    """The journals of slots that have no worker. `run` is a task that takes them over, and ends when that is done.

    `open_journal` opens the journal of a slot in a directory.
    """

    def __init__(
        self,
        directories: dict[int, Path],
        *,
        open_journal: Callable[[int, Path], Awaitable[Journal]],
        shared: SharedBytes,
        clock: Clock,
        timing: Timing,
    ) -> None:
        self._open_journal = open_journal
        self._shared = shared
        self._clock = clock
        self._timing = timing
        self._news = asyncio.Event()
        self._obstacles: dict[Path, str] = {}
        self._findings: dict[Path, str] = {}
        self._locked: Counter[Path] = Counter()
        self._left: dict[int, Path] = {}
        for slot, path in sorted(directories.items()):
            shared.publish(slot, bytes_on_disk(path))
            if any(path.glob("*.seg")) or (path / "head").exists():
                self._left[slot] = path
            else:
                self._note_quarantine(path)

    @property
    def is_running(self) -> bool:
        """Whether such a journal may hold what is not known here yet."""
        return bool(self._left)

    @property
    def findings(self) -> list[str]:
        """In words, what of those journals could not be taken over, and what a person has to do."""
        return list(self._findings.values())

    async def done(self) -> None:
        """Return when all of it is taken over.

        Raises:
            Replaying: something is in the way.
        """
        while self._left:
            if self._obstacles:
                obstacle = next(iter(self._obstacles.values()))
                raise Replaying(f"a former worker's journal can't be read now: {obstacle}", retry_after_s=5)
            self._news.clear()
            await self._news.wait()

    async def run(self, takeover: TakeOver) -> None:
        """Take all of it over. What can't be had now is tried again until it can."""
        while self._left:
            for slot, path in list(self._left.items()):
                if await self._try(slot, path, takeover):
                    self._obstacles.pop(path, None)
                    del self._left[slot]
                self._news.set()
            if self._left:
                await self._timing.wait(asyncio.Event(), _PAUSE_S)
        self._news.set()

    async def _try(self, slot: int, path: Path, takeover: TakeOver) -> bool:
        """Whether nothing more is to be had from this journal."""
        if not _is_there(path):  # another worker was first
            self._shared.publish(slot, 0)
            return True
        try:
            journal = await self._open_journal(slot, path)
            await self._take_over(slot, path, journal, takeover)
        except JournalVersionUnknown as exc:
            self._find(path, f"{exc}; start the version that wrote it")
            return True
        except JournalLocked as exc:  # most often by a sibling that is just doing this
            self._locked[path] += 1
            if self._locked[path] > _PATIENT_ATTEMPTS:
                self._obstacles[path] = str(exc)
            return False
        except (PersistenceError, OSError) as exc:
            if self._obstacles.get(path) != str(exc):
                _log.error("inheritance.failing", journal=str(path), error=str(exc), now="it is tried again")
            self._obstacles[path] = str(exc)
            return False
        return True

    async def _take_over(self, slot: int, path: Path, journal: Journal, takeover: TakeOver) -> None:
        batches = 0
        is_complete = False
        unreadable: list[Replayed] = []
        try:
            self._clock.pass_over(journal.high_water_us)
            await takeover.keep_mark(journal.high_water_us)
            async with aclosing(_groups(journal)) as groups:
                async for group in groups:
                    left = await takeover.take(group)
                    for batch in group:
                        if batch not in left:
                            journal.release(batch.position.segment, batch.items)
                    unreadable += left
                    batches += len(group) - len(left)
            is_complete = True
        finally:
            await journal.close(for_good=is_complete)
        self._note_damage(path, journal.stats(), len(unreadable))
        self._shared.publish(slot, bytes_on_disk(path))
        self._note_quarantine(path)
        _log.info("inheritance.taken_over", journal=str(path), batches=batches)

    def _note_damage(self, path: Path, stats: JournalStats, unreadable: int) -> None:
        if stats.lost_ranges:
            ranges = "; ".join(map(str, stats.losses[:_NAMED]))
            self._find(path, f"damaged ranges, lost: {stats.lost_ranges} ({ranges})")
        if unreadable:
            self._find(path, f"batches that only another version can read: {unreadable}; start the one that wrote them")

    def _note_quarantine(self, path: Path) -> None:
        quarantine = path / QUARANTINE_NAME
        if path.exists() and path not in self._findings:
            files = len(list(quarantine.iterdir())) if quarantine.is_dir() else 0
            if files:
                self._find(path, f"{files} files in its quarantine; remove the directory when they are dealt with")
            else:
                self._find(path, "it could not be removed; remove the directory")

    def _find(self, path: Path, what: str) -> None:
        _log.error("inheritance.left", journal=str(path), detail=what)
        known = self._findings.get(path)
        self._findings[path] = f"{known}; {what}" if known else f"the journal of a former worker, {path.name}: {what}"


def _is_there(path: Path) -> bool:
    return path.exists()


async def _groups(journal: Journal) -> AsyncGenerator[list[Replayed], None]:
    """What the journal holds, by as much as is appended at once."""
    group: list[Replayed] = []
    size = 0
    async with aclosing(journal.replay()) as batches:
        async for batch in batches:
            group.append(batch)
            size += len(batch.payload)
            if len(group) == _GROUP or size >= _GROUP_BYTES:
                yield group
                group, size = [], 0
    if group:
        yield group

"""What a service under faults is told from outside: about its disk and its wall clock, over a Unix socket, a line each way."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

_ANSWER_S: Final = 20.0
_ATTEMPTS_TO_HEAL: Final = 3


class Fail(msgspec.Struct, frozen=True, tag="fail"):
    """Calls of this operation of `journal.files.Files` fail: all, or `times` of them, `after` some passed."""

    operation: str
    number: int
    """An errno."""
    after: int = 0
    times: int | None = None


class SlowDown(msgspec.Struct, frozen=True, tag="slow down"):
    """Each call of this operation takes so much longer."""

    operation: str
    seconds: float


class ShortenWrites(msgspec.Struct, frozen=True, tag="shorten writes"):
    """No system call writes more than so many bytes."""

    largest: int


class SetClock(msgspec.Struct, frozen=True, tag="set clock"):
    """The wall clock is wrong by so much; negative: it is behind."""

    offset_s: float


class Heal(msgspec.Struct, frozen=True, tag="heal"):
    """The disk works and the clock is right."""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Nothing is to be done."""


Order = Fail | SlowDown | ShortenWrites | SetClock | Heal | Look


class Figures(msgspec.Struct, frozen=True):
    """The answer to each: what has been done since the process began."""

    struck: dict[str, int]
    """By operation the calls that failed, were held up or cut short."""
    wrong_times: int
    """How often the wrong clock was asked."""


def notes_beside(socket: Path) -> Path:
    """Where the process that listens at `socket` notes what is on disk of its journal: see `unsynced`."""
    return socket.with_name(f"{socket.name}.synced")


def of_worker(socket: Path, number: int) -> Path:
    """Where one of several workers listens, if their supervisor was given `socket`."""
    return socket.with_name(f"{socket.name}.{number}")


class Orders:
    """The way to the processes that listen at `paths` at the moment: they have one disk and one clock, and obey alike."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    @classmethod
    def to_service(cls, socket: Path, workers: int) -> Orders:
        """To a service that was given `socket`."""
        return cls(socket) if workers == 1 else cls(*(of_worker(socket, number) for number in range(1, workers + 1)))

    async def give(self, order: Order) -> Figures | None:
        """Have it done; None if nobody is there to do it, and so nothing wrong with its disk and clock either."""
        return await self._all(lambda path: _give(path, order))

    async def heal(self) -> Figures | None:
        """As `give`, but one who does not answer at first is asked again: a fault that stays would be a finding."""
        return await self._all(_heal)

    async def _all(self, ask: Callable[[Path], Awaitable[Figures | None]]) -> Figures | None:
        answers = [answer for answer in await asyncio.gather(*map(ask, self.paths)) if answer is not None]
        if not answers:
            return None
        struck = sum((Counter(answer.struck) for answer in answers), Counter[str]())
        return Figures(dict(struck), sum(answer.wrong_times for answer in answers))


async def _give(path: Path, order: Order) -> Figures | None:
    with contextlib.suppress(TimeoutError):
        return await _answer(path, order)
    return None


async def _heal(path: Path) -> Figures | None:
    for _ in range(_ATTEMPTS_TO_HEAL):
        with contextlib.suppress(TimeoutError):
            return await _answer(path, Heal())
    return None


async def _answer(path: Path, order: Order) -> Figures | None:
    async with asyncio.timeout(_ANSWER_S):
        with contextlib.suppress(ConnectionError, FileNotFoundError, BlockingIOError, EOFError):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(msgspec.json.encode(order) + b"\n")
                return msgspec.json.decode(await reader.readuntil(b"\n"), type=Figures)
            finally:
                writer.close()
    return None

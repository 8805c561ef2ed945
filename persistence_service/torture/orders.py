"""What a service under faults is told from outside: about its disk and its wall clock, over a Unix socket, a line each way."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import msgspec

_ANSWER_S: Final = 5.0
_ATTEMPTS_TO_HEAL: Final = 12


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


class Orders:
    """The way to the process that listens at `path` at the moment."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def give(self, order: Order) -> Figures | None:
        """Have it done; None if nobody is there to do it, and so nothing wrong with its disk and clock either."""
        with contextlib.suppress(TimeoutError):
            return await self._answer(order)
        return None

    async def heal(self) -> Figures | None:
        """As `give`, but one who does not answer at first is asked again: a fault that stays would be a finding."""
        for _ in range(_ATTEMPTS_TO_HEAL):
            with contextlib.suppress(TimeoutError):
                return await self._answer(Heal())
        return None

    async def _answer(self, order: Order) -> Figures | None:
        async with asyncio.timeout(_ANSWER_S):
            with contextlib.suppress(ConnectionError, FileNotFoundError, BlockingIOError, EOFError):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write(msgspec.json.encode(order) + b"\n")
                    return msgspec.json.decode(await reader.readuntil(b"\n"), type=Figures)
                finally:
                    writer.close()
        return None

"""One of the other workers: the connections to it, how many may ask it at once, and since when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from persistence_service.errors import Replaying, ShuttingDown
from persistence_service.fleet.control import PULSE_S, Line
from persistence_service.fleet.messages import (
    FindNewest,
    FindSession,
    FindTasks,
    FindWaiting,
    Flush,
    FlushSessions,
    MessageError,
    Ping,
    Question,
    Refused,
    ReportHealth,
    ReportStatistics,
    Scrape,
)

A = TypeVar("A")
NOT_THERE = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, MessageError)
"""What asking one that is away raises."""
COMES_BACK = frozenset({Replaying.code, ShuttingDown.code})
"""The codes of refusals by one that starts or ends."""
SHORTEST_SILENCE_S: Final = 2 * PULSE_S

_GLANCE_S: Final = 0.1  # so long may one that goes on take to say so
_PROBE_S: Final = 3600.0
_IDLE_LINES: Final = 4
_AT_ONCE: Final = 16
_WRITING: Final = frozenset({Flush, FlushSessions})
_REPORTING: Final = frozenset({Ping, ReportHealth, ReportStatistics, Scrape})
_TELLING: Final = frozenset({Ping, FindSession, FindTasks, FindNewest, FindWaiting, Flush})
"""What only one that has read its journal answers."""


class _Turns:
    """Who may ask now; `alive_at` is when one of those who asked had a sign of life."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(_AT_ONCE)
        self.alive_at = -1.0

    @asynccontextmanager
    async def turn(self, silence_s: float, note_life: Callable[[], None]) -> AsyncIterator[float]:
        """What is left of `silence_s` when it is one's turn.

        Raises:
            TimeoutError: those whose turn it was had no sign of life for so long.
        """
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + silence_s
        while True:
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._permits.acquire()
            except TimeoutError:
                if self.alive_at + silence_s <= clock():
                    raise
                give_up_at = self.alive_at + silence_s
                note_life()
            else:
                break
        try:
            yield max(give_up_at - clock(), SHORTEST_SILENCE_S)
        finally:
            self._permits.release()


class Sibling:
    """Asks the worker at `path`, once; whoever asks next knows what that told of its being there."""

    def __init__(self, slot: int, path: Path) -> None:
        self.name = f"worker {slot + 1}"
        self._path = path
        self._idle: list[Line] = []
        # Those that write to the database must not hold up those that only look something up.
        self._lookups = _Turns()
        self._writes = _Turns()
        self._probe: asyncio.Task[bool] | None = None
        self._probed_at = 0.0
        self._seen_at: float | None = None
        self.is_lost = False
        """Whether it did not answer when it was asked last; then `is_there` is asked first, since that is for all."""
        self.missed_since: float | None = None
        """Since when it tells nobody what it has, None while it does; see `miss`."""

    async def ask(
        self, question: Question[A], *, silence_s: float, note_life: Callable[[], None] = lambda: None
    ) -> A | Refused:
        """Its answer, however long it takes, as long as there is a sign of life every `silence_s`; `note_life` is called then.

        Raises:
            NOT_THERE: there was none.
        """
        clock = asyncio.get_running_loop().time
        began = clock()

        def note_seen() -> None:
            self._seen_at = clock()
            note_life()

        try:
            answer = await self._ask_in_turn(question, silence_s, note_seen)
        except NOT_THERE:
            self.is_lost = True
            self._miss_if_seen(began)
            raise
        self.is_lost = False
        if isinstance(answer, Refused):
            if answer.code in COMES_BACK:
                self._miss_if_seen(began)
        elif type(question) in _TELLING:
            self._seen_at = clock()
            self.missed_since = None
        return answer

    def miss(self, since: float) -> None:
        """It is waited for in vain since then, or since its last sign of life.

        One that was seen before is missed from the first question on that it leaves open, whoever asked; one that was not may
        take long to start, and is missed only from when somebody waits for it.
        """
        if self.missed_since is None:
            self.missed_since = since if self._seen_at is None else max(since, self._seen_at)

    def _miss_if_seen(self, since: float) -> None:
        if self._seen_at is not None:
            self.miss(since)

    async def _ask_in_turn(self, question: Question[A], silence_s: float, note_life: Callable[[], None]) -> A | Refused:
        if type(question) in _REPORTING:  # who wants to know whether it is there does not queue for it
            return await self._ask_now(question, silence_s, note_life)
        turns = self._writes if type(question) in _WRITING else self._lookups
        clock = asyncio.get_running_loop().time

        def note_life_to_all() -> None:
            turns.alive_at = clock()
            note_life()

        async with turns.turn(silence_s, note_life) as left_s:
            answer = await self._ask_now(question, left_s, note_life_to_all)
        turns.alive_at = clock()
        return answer

    async def is_there(self, until: float = 0.0) -> bool:
        """Whether it answers by then, whatever it says; a sign of life is waited for in any case, as long as one may take.

        All who want to know that share one question, which goes on: so one that is stopped is found as soon as it is not, and
        until then is waited for but for a glance.
        """
        clock = asyncio.get_running_loop().time
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._look(), name=f"look for {self.name}")
            self._probed_at = clock()
        probe = self._probe  # the next one may have begun before this caller has its turn again
        until = max(until, self._probed_at + SHORTEST_SILENCE_S, clock() + _GLANCE_S)
        await asyncio.wait((probe,), timeout=until - clock())
        return probe.done() and not probe.cancelled() and probe.result()

    async def _look(self) -> bool:
        try:
            await self.ask(Ping(), silence_s=_PROBE_S)  # it ends with an answer, or with the connection
        except NOT_THERE:
            return False
        return True

    # -------------------------------------------------------------------------------------------------- connections

    async def _ask_now(self, question: Question[A], silence_s: float, note_life: Callable[[], None]) -> A | Refused:
        line = self._idle_line()
        if line is not None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):  # the worker was restarted since
                return await self._ask_over(line, question, silence_s, note_life)
            self._end_lines()
        return await self._ask_over(await Line.open(self._path), question, silence_s, note_life)

    async def _ask_over(
        self, line: Line, question: Question[A], silence_s: float, note_life: Callable[[], None]
    ) -> A | Refused:
        try:
            answer = await line.ask(question, silence_s=silence_s, note_life=note_life)
        except BaseException:
            line.close()
            raise
        if len(self._idle) < _IDLE_LINES:
            self._idle.append(line)
        else:
            line.close()
        return answer

    def _idle_line(self) -> Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.is_usable:
                return line
            line.close()
        return None

    def _end_lines(self) -> None:
        while line := self._idle_line():
            line.close()

    def close(self) -> None:
        """End what waits for the next question."""
        if self._probe is not None:
            self._probe.cancel()
        self._end_lines()

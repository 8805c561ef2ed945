"""The other workers of a service: asked one by one, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog

from persistence_service.errors import Replaying, ShuttingDown, Unavailable
from persistence_service.fleet.control import PULSE_S, Line
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.messages import Flush, FlushSessions, MessageError, Ping, Question, Refused, error_of
from persistence_service.observability.logging import OncePer

A = TypeVar("A")

_IDLE_LINES: Final = 4
_LINES: Final = 16
_AGAIN_S: Final = 0.02
_SHORTEST_SILENCE_S: Final = 2 * PULSE_S
_LOOK_EVERY_S: Final = 1.0
_RETRY_AFTER_S: Final = 1.0
_NOT_THERE = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, MessageError)
_TOLD_EVERY_S: Final = 60.0
_LONG = (Flush, FlushSessions)
_COMES_BACK = frozenset({Replaying.code, ShuttingDown.code})
_log = structlog.get_logger(__name__)


class Siblings:
    """Asks the other workers, and knows which of them are away; with no identity there are none.

    Every question may be asked again, so one that a restart interrupts is.
    """

    def __init__(self, identity: WorkerIdentity | None) -> None:
        """`of` is whose siblings these are."""
        slots = range(identity.workers) if identity is not None else ()
        self.of = identity
        self._lines: dict[int, list[Line]] = {slot: [] for slot in slots if identity and slot != identity.slot}
        # Those that write to the database must not hold up those that only look something up.
        self._lookups = {slot: asyncio.Semaphore(_LINES) for slot in self._lines}
        self._writes = {slot: asyncio.Semaphore(_LINES) for slot in self._lines}
        self._told = OncePer(_TOLD_EVERY_S)
        self._away: frozenset[int] = frozenset(self._lines)

    @property
    def slots(self) -> tuple[int, ...]:
        """Those of the others."""
        return tuple(self._lines)

    async def ask(self, slot: int, question: Question[A], *, patience_s: float) -> A:
        """The answer of one; one that is away or reads its journal is waited for, `patience_s` from its last sign of life.

        Raises:
            Replaying: it is away, or reads its journal still.
            Unavailable: what it said itself.
        """
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + patience_s

        def note_life() -> None:
            nonlocal give_up_at
            give_up_at = clock() + patience_s

        while True:
            silence_s = max(give_up_at - clock(), _SHORTEST_SILENCE_S)
            try:
                answer = await self._ask_once(slot, question, silence_s, note_life)
            except _NOT_THERE as exc:
                why = str(exc) or type(exc).__name__
            else:
                if not isinstance(answer, Refused):
                    return answer
                error = error_of(answer, _name(slot))
                if error is not None and error.code not in _COMES_BACK:
                    raise error
                why = answer.detail
            if clock() >= give_up_at:
                if times := self._told.occurred(str(slot)):
                    _log.warning("sibling.away", sibling=slot + 1, detail=why, times=times)
                raise missing_error([slot])
            await asyncio.sleep(_AGAIN_S)

    async def ask_all(self, question: Question[A], *, patience_s: float) -> dict[int, A]:
        """The answers of all, by slot; raises as `ask` does as soon as there is one that has none."""
        answers = await together(*(self.ask(slot, question, patience_s=patience_s) for slot in self._lines))
        return dict(zip(self._lines, answers, strict=True))

    async def ask_present(self, question: Question[A], *, patience_s: float) -> dict[int, A]:
        """The answers of those that have one, by slot; one that is away is not waited for."""
        answers = await asyncio.gather(*(self._asked(slot, question, patience_s) for slot in self._lines))
        return {slot: answer for slot, found in zip(self._lines, answers, strict=True) for answer in found}

    async def _asked(self, slot: int, question: Question[A], patience_s: float) -> list[A]:
        try:
            answer = await self._ask_once(slot, question, patience_s)
        except _NOT_THERE:
            return []
        return [] if isinstance(answer, Refused) else [answer]

    async def _ask_once(
        self, slot: int, question: Question[A], silence_s: float, note_life: Callable[[], None] = lambda: None
    ) -> A | Refused:
        permits = self._writes if isinstance(question, _LONG) else self._lookups
        async with permits[slot]:
            return await self._ask_now(slot, question, silence_s, note_life)

    async def _ask_now(
        self, slot: int, question: Question[A], silence_s: float, note_life: Callable[[], None]
    ) -> A | Refused:
        line = self._idle_line(slot)
        if line is not None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):  # the worker was restarted since
                return await self._ask_over(line, slot, question, silence_s, note_life)
            self._end(slot)
        assert self.of is not None, "who has siblings has an identity"  # noqa: S101  # for the type checker
        line = await Line.open(self.of.socket_of(slot))
        return await self._ask_over(line, slot, question, silence_s, note_life)

    async def _ask_over(
        self, line: Line, slot: int, question: Question[A], silence_s: float, note_life: Callable[[], None]
    ) -> A | Refused:
        try:
            answer = await line.ask(question, silence_s=silence_s, note_life=note_life)
        except BaseException:
            line.close()
            raise
        idle = self._lines[slot]
        if len(idle) < _IDLE_LINES:
            idle.append(line)
        else:
            line.close()
        return answer

    def _idle_line(self, slot: int) -> Line | None:
        idle = self._lines[slot]
        while idle:
            line = idle.pop()
            if line.is_usable:
                return line
            line.close()
        return None

    def _end(self, slot: int) -> None:
        while line := self._idle_line(slot):
            line.close()

    @property
    def are_all_there(self) -> bool:
        """Whether all answered when they were looked for last, and have read their journals."""
        return not self._away

    async def watch(self, tell: Callable[[], None]) -> None:
        """Look now and then who is there, for ever; and `tell` each time that it is known."""
        while True:
            there = await self.ask_present(Ping(), patience_s=_LOOK_EVERY_S)
            away = frozenset(self._lines) - there.keys()
            if away != self._away:
                _log.info("siblings.changed", away=[slot + 1 for slot in sorted(away)])
            self._away = away
            tell()
            await asyncio.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """End the connections that wait for the next question."""
        for slot in self._lines:
            self._end(slot)


def missing_error(slots: list[int]) -> Unavailable:
    """What a caller is told while workers are away."""
    who = " and ".join(_name(slot) for slot in slots)
    return Replaying(
        f"{who} of this service can't be asked now, it is starting or restarting; ask again in a moment",
        retry_after_s=_RETRY_AFTER_S,
    )


def named(slot: int, words: str) -> str:
    """What a worker says, with who it is."""
    return f"{_name(slot)}: {words}"


def _name(slot: int) -> str:
    return f"worker {slot + 1}"


async def together(*work: Coroutine[Any, Any, A]) -> list[A]:
    """The results of all, done at the same time; the first failure ends the others, and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""The other workers of a service: asked one by one, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from persistence_service.errors import Replaying, Unavailable
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.messages import ListDeleted, Ping, Question, Refused, error_of
from persistence_service.fleet.sibling import COMES_BACK, NOT_THERE, SHORTEST_SILENCE_S, Sibling
from persistence_service.observability.logging import OncePer

A = TypeVar("A")

_AGAIN_S: Final = 0.02
_LOOK_EVERY_S: Final = 1.0
_RETRY_AFTER_S: Final = 1.0
_TOLD_EVERY_S: Final = 60.0
_log = structlog.get_logger(__name__)


class Siblings:
    """Asks the other workers, and knows which of them are away; with no identity there are none.

    Every question may be asked again, so one that a restart interrupts is.
    """

    def __init__(self, identity: WorkerIdentity | None) -> None:
        """`of` is whose siblings these are."""
        self.of = identity
        self._each: dict[int, Sibling] = {}
        if identity is not None:
            others = (slot for slot in range(identity.workers) if slot != identity.slot)
            self._each = {slot: Sibling(slot, identity.socket_of(slot)) for slot in others}
        self._told = OncePer(_TOLD_EVERY_S)
        self._away: frozenset[int] = frozenset(self._each)

    @property
    def slots(self) -> tuple[int, ...]:
        """Those of the others."""
        return tuple(self._each)

    async def ask(self, slot: int, question: Question[A], *, patience_s: float) -> A:
        """The answer of one; one that is away or reads its journal is waited for, `patience_s` from its last sign of life.

        One that has been missed for as long is not waited for once more.

        Raises:
            Replaying: it is away, or reads its journal still.
            Unavailable: what it said itself.
        """
        sibling = self._each[slot]
        clock = asyncio.get_running_loop().time
        began = clock()

        def note_life() -> None:
            nonlocal began
            began = clock()

        def give_up_at() -> float:
            return patience_s + (began if sibling.missed_since is None else min(began, sibling.missed_since))

        why = "it does not answer"
        while True:
            if not sibling.is_lost or await sibling.is_there(give_up_at()):
                silence_s = max(began + patience_s - clock(), SHORTEST_SILENCE_S)
                try:
                    answer = await sibling.ask(question, silence_s=silence_s, note_life=note_life)
                except NOT_THERE as exc:
                    why = str(exc) or type(exc).__name__
                else:
                    if not isinstance(answer, Refused):
                        return answer
                    error = error_of(answer, sibling.name)
                    if error is not None and error.code not in COMES_BACK:
                        raise error
                    why = answer.detail
            sibling.miss(began)
            if clock() >= give_up_at():
                if times := self._told.occurred(str(slot)):
                    _log.warning("sibling.away", sibling=slot + 1, detail=why, times=times)
                raise missing_error([slot])
            await asyncio.sleep(_AGAIN_S)

    async def ask_all(self, question: Question[A], *, patience_s: float) -> dict[int, A]:
        """The answers of all, by slot; raises as `ask` does as soon as there is one that has none."""
        answers = await together(*(self.ask(slot, question, patience_s=patience_s) for slot in self._each))
        return dict(zip(self._each, answers, strict=True))

    async def tell_all(self, question: Question[None], *, patience_s: float) -> None:
        """Have all know that who can; raises as `ask` does if there is one that can't."""
        asked = (self.ask(slot, question, patience_s=patience_s) for slot in self._each)
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def ask_present(self, question: Question[A], *, patience_s: float) -> dict[int, A]:
        """The answers of those that have one, by slot; one that is away is not waited for."""
        answers = await asyncio.gather(*(self._asked(each, question, patience_s) for each in self._each.values()))
        return {slot: answer for slot, found in zip(self._each, answers, strict=True) for answer in found}

    async def _asked(self, sibling: Sibling, question: Question[A], patience_s: float) -> list[A]:
        # Who misses a deletion might bring a session back.
        if sibling.is_lost and not isinstance(question, ListDeleted) and not await sibling.is_there():
            return []
        try:
            answer = await sibling.ask(question, silence_s=patience_s)
        except NOT_THERE:
            return []
        return [] if isinstance(answer, Refused) else [answer]

    @property
    def are_all_there(self) -> bool:
        """Whether all answered when they were looked for last, and have read their journals."""
        return not self._away

    async def watch(self, tell: Callable[[], None]) -> None:
        """Look now and then who is there, for ever; and `tell` each time that it is known."""
        while True:
            there = await self.ask_present(Ping(), patience_s=_LOOK_EVERY_S)
            away = frozenset(self._each) - there.keys()
            if away != self._away:
                _log.info("siblings.changed", away=[slot + 1 for slot in sorted(away)])
            self._away = away
            tell()
            await asyncio.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """End the connections that wait for the next question."""
        for sibling in self._each.values():
            sibling.close()


def missing_error(slots: list[int]) -> Unavailable:
    """What a caller is told while workers are away."""
    who = " and ".join(_name(slot) for slot in slots)
    return Replaying(
        f"{who} of this service is away (it starts, restarts, or has failed: see its log); ask again in a moment",
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

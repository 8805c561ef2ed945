"""Adoption: the letters of orphans are replayed by themselves when their session is stored after all.

So they are when it is deleted, which drops those that are not newer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime

import structlog

from persistence_service.buffer.backoff import Backoff
from persistence_service.buffer.timing import Timing
from persistence_service.buffer.tombstones import deletions_of
from persistence_service.errors import (
    DeadLetterDamaged,
    DeadLetterNotFound,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.dead_letter import DeadLetter, DeadLetterReason
from persistence_service.models.tombstone import is_covered
from persistence_service.services.background import repeat
from persistence_service.services.dead_letters import DeadLetterService, LetterFilter, ReplayStatus
from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS
from persistence_service.storage.query import Query, Sort
from persistence_service.storage.registry import StorageRegistry

_log = structlog.get_logger(__name__)
_LETTERS_AT_ONCE = 100
_STEP_BYTES = 4 * 1024 * 1024
_ADOPT_EVERY_S = 30.0
_BEHIND_EVERY_ID = "~"
_ORPHANS = LetterFilter(reason=DeadLetterReason.UNKNOWN_SESSION)


class OrphanAdoption:
    """Replays letters of the reason `unknown_session` whose session is stored now, or deleted since."""

    def __init__(
        self, *, registry: StorageRegistry, letters: DeadLetterService, timing: Timing, backoff: Backoff | None = None
    ) -> None:
        self._backend = registry.backend_for(DEAD_LETTERS)
        self._letters = letters
        self._timing = timing
        self._backoff = backoff or Backoff(first_s=1)

    async def adopt(self) -> int:
        """Replay the letters of orphans whose session is stored or that are deleted; returns how many it stored.

        Raises:
            StorageUnavailable: the backend is away; the rest is adopted the next time.
        """
        adopted = 0
        async for page in self._adoptable():
            for some in _steps(page):
                adopted += await self._replay(some)
        return adopted

    async def _replay(self, letters: Sequence[DeadLetter]) -> int:
        done = await self._letters.replay_jointly([letter.letter_id for letter in letters])
        replayed = done.replayed
        for letter in letters:
            if letter.letter_id not in done.settled:
                replayed += await self._replay_alone(letter)
        return replayed

    async def _replay_alone(self, letter: DeadLetter) -> bool:
        try:
            outcome = await self._letters.replay(letter.letter_id)
        except (DeadLetterNotFound, DeadLetterDamaged):
            return False  # gone, or a person sees to it
        except StorageUnavailable as exc:
            if isinstance(exc.__cause__, UnclassifiedStorageError):
                return False  # perhaps it is about this letter alone, which is tried again the next time
            raise
        return outcome.status is ReplayStatus.REPLAYED

    async def _adoptable(self) -> AsyncIterator[list[DeadLetter]]:
        where = _ORPHANS.conditions()
        after: tuple[str, str] | None = None
        order = (Sort("session_id"), Sort(DEAD_LETTERS.key))
        while True:
            page = await self._backend.query(DEAD_LETTERS, Query(where, order, after=after, limit=_LETTERS_AT_ONCE))
            known = await self._known(page)
            yield [letter for letter in page if _is_ripe(letter, known)]
            if len(page) < _LETTERS_AT_ONCE:
                break
            last = page[-1]
            # A session that is not known may have very many letters; they are passed by.
            after = (last.session_id, last.letter_id if last.session_id in known else _BEHIND_EVERY_ID)
        in_files, _ = await self._letters.in_files(_ORPHANS)
        known = await self._known(in_files)
        for letter in in_files:  # each by itself: the backend could not hold it
            if _is_ripe(letter, known):
                yield [letter]

    async def _known(self, letters: Sequence[DeadLetter]) -> dict[str, datetime | None]:
        """The letters' sessions that are stored (None), or up to when they are deleted."""
        session_ids = sorted({letter.session_id for letter in letters})
        if not session_ids:
            return {}
        stored = await self._backend.read(SESSIONS, session_ids)
        deleted = await deletions_of(self._backend, session_ids)
        return deleted | {session.session_id: None for session in stored}

    async def run(self) -> None:
        """Adopt orphans' letters now and then, for ever."""
        await repeat(self._adopt, name="adoption", every_s=_ADOPT_EVERY_S, timing=self._timing, backoff=self._backoff)

    async def _adopt(self) -> None:
        adopted = await self.adopt()
        if adopted:
            _log.info("adoption.done", tasks=adopted)


def _is_ripe(letter: DeadLetter, known: Mapping[str, datetime | None]) -> bool:
    if letter.session_id not in known:
        return False
    deleted_up_to = known[letter.session_id]
    return deleted_up_to is None or is_covered(letter.event_time, deleted_up_to)


def _steps(letters: Sequence[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """`letters` in parts that one transaction writes; each is small in memory, but for a letter that is large by itself."""
    step: list[DeadLetter] = []
    size = 0
    for letter in letters:
        if step and size + letter.record_bytes > _STEP_BYTES:
            yield step
            step, size = [], 0
        step.append(letter)
        size += letter.record_bytes
    if step:
        yield step

"""Dead letters for a person: looked at, mended, replayed, discarded.

Letters lie in the backend, and in files beside the journal where the backend could not hold them; callers see no difference.
A replay is a write like any other: it obeys the merge rule and the tombstones, and the record keeps the stamps that it
was accepted with.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec
import structlog

from persistence_service.buffer.dead_letters import Letter, new_letter, read_letter, with_error, write_letters
from persistence_service.buffer.letter_files import DamagedFile, LetterFiles
from persistence_service.buffer.record_writer import write_records
from persistence_service.buffer.timing import Timing
from persistence_service.errors import (
    DataRejected,
    DeadLetterDamaged,
    DeadLetterNotFound,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.correction import accept_correction
from persistence_service.models.dead_letter import DeadLetter, DeadLetterReason, SettledLetter
from persistence_service.models.limits import Limits
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.models.times import from_micros
from persistence_service.observability.metrics import Metrics
from persistence_service.services.cursor import decode_cursor, encode_cursor, fingerprint_of
from persistence_service.services.joint_replay import JointReplay, replay_jointly
from persistence_service.services.query import MAX_INEXACT_TOTAL
from persistence_service.storage.backend import RejectionReason, Transaction
from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS, SETTLED_LETTERS, TASKS, Collection
from persistence_service.storage.conflicts import repeating_conflicts
from persistence_service.storage.query import Between, Condition, Equals, Query, Sort, Value
from persistence_service.storage.registry import StorageRegistry

_log = structlog.get_logger(__name__)
_LETTERS_AT_ONCE = 100
_A_MOMENT = timedelta(microseconds=1)
_COLLECTIONS: dict[str, Collection[Any]] = {SESSIONS.name: SESSIONS, TASKS.name: TASKS}
_REJECTIONS = {
    RejectionReason.UNKNOWN_PARENT: (DeadLetterReason.UNKNOWN_SESSION, "its session is not stored"),
    RejectionReason.FIXED_FIELD_CHANGED: (
        DeadLetterReason.TASK_ID_CONFLICT,
        "a stored task of this id belongs to another session",
    ),
}


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters: all given conditions hold."""

    reason: DeadLetterReason | None = None
    collection: str | None = None
    session_id: str | None = None

    def conditions(self) -> list[Condition]:
        """The filter as a backend understands it."""
        return [Equals(field, value) for field, value in self._given()]

    def matches(self, letter: DeadLetter) -> bool:
        """The filter, for a letter in a file."""
        return all(getattr(letter, field) == value for field, value in self._given())

    def _given(self) -> list[tuple[str, str]]:
        fields = {"reason": self.reason, "collection": self.collection, "session_id": self.session_id}
        return [(field, value) for field, value in fields.items() if value is not None]


@dataclass(frozen=True, slots=True)
class LetterPage:
    """One page of letters; `total` is of all that match, a lower bound unless `total_exact`, None if not asked for.

    `damaged` are the files of letters that can't be read, of all letters.
    """

    items: list[DeadLetter]
    next_cursor: str | None
    total: int | None
    total_exact: bool
    damaged: list[DamagedFile]


class ReplayStatus(StrEnum):
    """What became of a letter: stored, or dropped because its session was deleted since; or it stays one."""

    REPLAYED = "replayed"
    DROPPED = "dropped"
    STILL_REFUSED = "still_refused"


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of a replay; with why, if the record was refused again."""

    status: ReplayStatus
    reason: DeadLetterReason | None = None
    detail: str | None = None
    number: int | None = None
    column: str | None = None


@dataclass(slots=True)
class ReplayCounts:
    """Outcomes of a replay of many; of a dry run `matched` alone, since only a replay shows the others."""

    matched: int = 0
    replayed: int = 0
    dropped: int = 0
    still_refused: int = 0

    def count(self, replay: Replay) -> None:
        """Add an outcome."""
        self.matched += 1
        self.replayed += replay.status is ReplayStatus.REPLAYED
        self.dropped += replay.status is ReplayStatus.DROPPED
        self.still_refused += replay.status is ReplayStatus.STILL_REFUSED


Mend = Callable[[Session | Task], Session | Task]


def _as_it_is(record: Session | Task) -> Session | Task:
    return record


class DeadLetterService:
    """Lists, shows, replays and discards letters, wherever they lie."""

    def __init__(
        self,
        *,
        registry: StorageRegistry,
        files: LetterFiles,
        timing: Timing,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._backend = registry.backend_for(DEAD_LETTERS)
        self._files = files
        self._timing = timing
        self._limits = limits
        self._metrics = metrics

    # --------------------------------------------------------------------------------------------------- looking

    async def page(
        self, which: LetterFilter, *, limit: int, cursor: str | None = None, descending: bool = True, count: bool = True
    ) -> LetterPage:
        """One page of letters, the newest first, or last.

        Raises:
            ValidationFailed: the cursor belongs to another list.
            StorageUnavailable: the backend is away, so the truth can't be known.
        """
        where = which.conditions()
        order = Query(order=(Sort("created_at", descending),)).total_order(DEAD_LETTERS.key)
        fingerprint = fingerprint_of(DEAD_LETTERS.name, where, order)
        after = decode_cursor(cursor, fingerprint, order, DeadLetter) if cursor else None
        in_files, damaged = await self.in_files(which)
        rows = await self._backend.query(DEAD_LETTERS, Query(where, order, after=after, limit=limit + 1))
        rows += [letter for letter in in_files if after is None or _is_behind(letter, after, descending=descending)]
        rows.sort(key=_place, reverse=descending)
        last = rows[limit - 1] if len(rows) > limit else None
        total = total_exact = None
        if count:
            stored = await self._backend.count(DEAD_LETTERS, where, at_most=MAX_INEXACT_TOTAL + 1)
            total_exact = stored <= MAX_INEXACT_TOTAL
            total = min(stored, MAX_INEXACT_TOTAL) + len(in_files)
        next_cursor = encode_cursor(fingerprint, _place(last)) if last else None
        return LetterPage(rows[:limit], next_cursor, total, bool(total_exact), damaged)

    async def letter(self, letter_id: str) -> tuple[DeadLetter, Session | Task]:
        """The letter and its record.

        Raises:
            DeadLetterNotFound: there is none of this id.
            DeadLetterDamaged: it can't be read.
            StorageUnavailable: the backend is away.
        """
        found = await self._stored(letter_id) or await asyncio.to_thread(self._files.read, letter_id)
        if found is None:
            raise DeadLetterNotFound(letter_id)
        return found.letter, _record_of(found)

    async def _stored(self, letter_id: str) -> Letter | None:
        """As the backend has it; it may be settled after it was read and before its parts are."""
        found = await read_letter(self._backend, letter_id)
        if found is None or len(found.parts) == found.letter.parts:
            return found
        return await read_letter(self._backend, letter_id)

    async def in_files(self, which: LetterFilter) -> tuple[list[DeadLetter], list[DamagedFile]]:
        """The letters that lie in files alone, and the files that can't be read."""
        found = await asyncio.to_thread(lambda: list(self._files.all()))
        damaged = [each for each in found if isinstance(each, DamagedFile)]
        letters = [each for each in found if isinstance(each, DeadLetter) and which.matches(each)]
        if letters:
            stored = await self._backend.read(DEAD_LETTERS, [letter.letter_id for letter in letters])
            known = {letter.letter_id for letter in stored}
            letters = [letter for letter in letters if letter.letter_id not in known]
        return letters, damaged

    # ----------------------------------------------------------------------------------------- replaying, discarding

    async def replay(self, letter_id: str, corrected: bytes | None = None) -> Replay:
        """Write the letter's record, or the one that `corrected` is the JSON of; stored or dropped, the letter is gone.

        The write and the letter's removal are one transaction, but for a letter in a file: that is removed afterwards.
        Refused again, the letter stays and, if its own record was, has the new reason.

        Raises:
            DeadLetterNotFound, DeadLetterDamaged: there is none, or its record can't be read.
            MalformedBody, ValidationFailed: what is wrong with `corrected`.
            StorageUnavailable: the backend is away, or failed in a way that this version does not know, which says nothing
                about the record; the letter is as it was. Asking again is safe.
        """
        mend = _as_it_is
        if corrected is not None:
            mend = partial(accept_correction, corrected, limits=self._limits, now_us=self._timing.wall_us())
        try:
            return await self._replay(letter_id, mend)
        except UnclassifiedStorageError as exc:
            detail = f"the database failed with an error that this version does not know: {exc.number}"
            raise StorageUnavailable(detail, number=exc.number) from exc

    async def replay_jointly(self, letter_ids: Sequence[str]) -> JointReplay:
        """Write the tasks of these letters in one transaction. Those not `settled` stay as they are, and are to be replayed alone.

        Raises:
            StorageUnavailable: the backend is away; asking again is safe.
        """

        async def replay() -> JointReplay:
            async with self._backend.transaction() as transaction:
                return await replay_jointly(transaction, letter_ids)

        try:
            done = await repeating_conflicts(replay)
        except (DataRejected, UnclassifiedStorageError):  # perhaps it is one of them alone
            return JointReplay()
        await asyncio.to_thread(lambda: [self._files.remove(letter_id) for letter_id in done.settled])
        if done.dropped:
            self._metrics.dropped(TASKS.name, done.dropped)
        return done

    async def _replay(self, letter_id: str, mend: Mend) -> Replay:
        in_file: Letter | None = None
        if not await self._backend.read(DEAD_LETTERS, [letter_id]):
            in_file = await asyncio.to_thread(self._files.read, letter_id)
            if in_file is None:
                raise DeadLetterNotFound(letter_id)
        letter, outcome = await repeating_conflicts(lambda: self._write_again(letter_id, in_file, mend))
        if outcome.status is ReplayStatus.STILL_REFUSED:
            if mend is _as_it_is:
                await self._note(letter, outcome, in_file=in_file is not None)
            return outcome
        await asyncio.to_thread(self._files.remove, letter_id)  # one letter may lie in both places
        if outcome.status is ReplayStatus.DROPPED:
            self._metrics.dropped(letter.letter.collection, 1)
        return outcome

    async def _write_again(self, letter_id: str, in_file: Letter | None, mend: Mend) -> tuple[Letter, Replay]:
        """Write the record and remove the letter in one transaction; refused, the letter stays."""
        letter: Letter | None = None
        try:
            async with self._backend.transaction() as transaction:
                letter = in_file or await read_letter(transaction, letter_id)
                if letter is None:  # somebody else was quicker
                    raise DeadLetterNotFound(letter_id)
                outcome = await _write(transaction, letter.letter.collection, mend(_record_of(letter)))
                if outcome.status is not ReplayStatus.STILL_REFUSED:
                    await transaction.delete(DEAD_LETTERS, (Equals(DEAD_LETTERS.key, letter_id),))
                    if mend is not _as_it_is:
                        await self._settle(transaction, letter_id)
                return letter, outcome
        except DataRejected as exc:
            if letter is None:
                raise
            return letter, _refusal(exc)

    async def _settle(self, transaction: Transaction, letter_id: str) -> None:
        """The record never becomes a letter again: it may come once more, from the journal or from a worker."""
        await transaction.write(SETTLED_LETTERS, [SettledLetter(letter_id, from_micros(self._timing.wall_us()))])

    async def _note(self, letter: Letter, outcome: Replay, *, in_file: bool) -> None:
        """The letter says why its record was refused the last time, also if the clock was ahead when it was written."""
        assert outcome.reason is not None  # noqa: S101  # what is refused has a reason
        if (letter.letter.reason, letter.letter.detail) == (outcome.reason, outcome.detail):
            return
        now = max(from_micros(self._timing.wall_us()), letter.letter.updated_at + _A_MOMENT)
        renewed = new_letter(
            _COLLECTIONS[letter.letter.collection],
            letter.record,
            reason=outcome.reason,
            detail=outcome.detail or "",
            now=now,
            number=outcome.number,
            column=outcome.column,
        )
        if in_file:
            await asyncio.to_thread(self._files.write, renewed)
            return
        try:
            await repeating_conflicts(lambda: self._renew(renewed))
        except DataRejected as exc:  # about the letter, not its record: that one stays as it is
            _log.warning("dead_letter.not_renewed", letter_id=renewed.letter.letter_id, number=exc.number)

    async def _renew(self, renewed: Letter) -> None:
        async with self._backend.transaction() as transaction:
            if await transaction.read(DEAD_LETTERS, [renewed.letter.letter_id]):  # nobody has discarded it meanwhile
                await write_letters(transaction, [renewed])

    async def replay_all(self, which: LetterFilter, *, dry_run: bool = False) -> ReplayCounts:
        """Replay every letter that matches and was there when this began, oldest first, each in its own transaction.

        Raises:
            StorageUnavailable: the backend is away; some may be replayed, and asking again goes on.
        """
        counts = ReplayCounts()
        async for letter in self._matching(which):
            if dry_run:
                counts.matched += 1
                continue
            try:
                counts.count(await self._replay(letter.letter_id, _as_it_is))
            except DeadLetterNotFound:
                continue
            except DeadLetterDamaged as exc:
                _log.error("dead_letter.damaged", letter_id=exc.letter_id, detail=exc.detail)
                counts.count(Replay(ReplayStatus.STILL_REFUSED))
            except UnclassifiedStorageError as exc:  # perhaps it is about this letter alone
                _log.warning("dead_letter.not_replayed", letter_id=letter.letter_id, number=exc.number)
                counts.count(Replay(ReplayStatus.STILL_REFUSED))
        return counts

    async def _matching(self, which: LetterFilter) -> AsyncIterator[DeadLetter]:
        now = from_micros(self._timing.wall_us())
        where = (*which.conditions(), Between("created_at", None, now))
        async for page in self._pages(where, (Sort("created_at"),)):
            for letter in page:
                yield letter
        for letter in (await self.in_files(which))[0]:
            yield letter

    async def _pages(self, where: Sequence[Condition], order: Sequence[Sort]) -> AsyncIterator[list[DeadLetter]]:
        terms = Query(order=order).total_order(DEAD_LETTERS.key)
        after: Sequence[Value] | None = None
        while True:
            page = await self._backend.query(DEAD_LETTERS, Query(where, terms, after=after, limit=_LETTERS_AT_ONCE))
            yield page
            if len(page) < _LETTERS_AT_ONCE:
                return
            after = [getattr(page[-1], term.field) for term in terms]

    async def discard(self, letter_id: str) -> None:
        """Remove the letter and its record for good, a damaged one too.

        Raises:
            DeadLetterNotFound: there is none of this id.
            StorageUnavailable: the backend is away.
        """

        async def remove() -> int:
            async with self._backend.transaction() as transaction:
                stored = await transaction.delete(DEAD_LETTERS, (Equals(DEAD_LETTERS.key, letter_id),))
                if stored or await asyncio.to_thread(self._files.holds, letter_id):
                    await self._settle(transaction, letter_id)
                return stored

        stored = await repeating_conflicts(remove)
        if not await asyncio.to_thread(self._files.remove, letter_id) and not stored:
            raise DeadLetterNotFound(letter_id)


async def _write(transaction: Transaction, collection: str, record: Session | Task) -> Replay:
    written = await write_records(transaction, _COLLECTIONS[collection], [record])
    if written.rejected:
        return Replay(ReplayStatus.STILL_REFUSED, *_REJECTIONS[written.rejected[0].reason])
    return Replay(ReplayStatus.DROPPED if written.dropped else ReplayStatus.REPLAYED)


def _refusal(error: DataRejected) -> Replay:
    detail = with_error("the database refuses it", error.number, error.column)
    return Replay(ReplayStatus.STILL_REFUSED, DeadLetterReason.DATA_REJECTED, detail, error.number, error.column)


def _record_of(letter: Letter) -> Session | Task:
    try:
        return letter.record
    except (zlib.error, msgspec.MsgspecError, KeyError) as exc:
        raise DeadLetterDamaged(letter.letter.letter_id, "its parts are not what was written") from exc


def _place(letter: DeadLetter) -> tuple[Any, str]:
    return letter.created_at, letter.letter_id


def _is_behind(letter: DeadLetter, after: Sequence[Any], *, descending: bool) -> bool:
    return _place(letter) < tuple(after) if descending else _place(letter) > tuple(after)

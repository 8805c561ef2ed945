"""Dead letters as they are written and read: a record's JSON, compressed, in pieces that any database takes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from persistence_service.models.dead_letter import DeadLetter, DeadLetterPart, DeadLetterReason
from persistence_service.models.digest import digest_of
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.storage.backend import Reader, Transaction
from persistence_service.storage.collections import DEAD_LETTER_PARTS, DEAD_LETTERS, SESSIONS, TASKS, Collection

PART_BYTES = 256 * 1024
_TYPES: dict[str, type[Session | Task]] = {SESSIONS.name: Session, TASKS.name: Task}


class Letter(msgspec.Struct, frozen=True):
    """A dead letter with its record's pieces."""

    letter: DeadLetter
    parts: Sequence[DeadLetterPart]

    @property
    def record(self) -> Session | Task:
        """The record as it was accepted, with its stamps."""
        packed = b"".join(part.data for part in sorted(self.parts, key=lambda part: part.part_id))
        return msgspec.json.decode(zlib.decompress(packed), type=_TYPES[self.letter.collection])


def new_letter(
    collection: Collection[Any],
    record: Session | Task,
    *,
    reason: DeadLetterReason,
    detail: str,
    now: datetime,
    number: int | None = None,
    column: str | None = None,
) -> Letter:
    """The dead letter of `record`, found not to be storable at `now`."""
    content = msgspec.json.encode(record)
    packed = zlib.compress(content)
    pieces = [packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES)]
    letter_id = letter_id_of(collection, record)
    letter = DeadLetter(
        letter_id=letter_id,
        collection=collection.name,
        record_key=collection.key_of(record),
        session_id=record.session_id,
        reason=reason.value,
        detail=detail,
        error_number=number,
        error_column=column,
        event_time=record.event_time,
        record_bytes=len(content),
        parts=len(pieces),
        created_at=now,
        updated_at=now,
    )
    return Letter(letter, [DeadLetterPart(_part_id(letter_id, n), letter_id, piece) for n, piece in enumerate(pieces)])


def with_error(detail: str, number: int | None, column: str | None = None) -> str:
    """Our words for why a record is refused, with what is known of the driver's."""
    known = [f"error {number}" if number is not None else "", f"column {column}" if column else ""]
    return f"{detail} ({', '.join(filter(None, known))})" if any(known) else detail


def letter_id_of(collection: Collection[Any], record: Session | Task) -> str:
    """32 hexadecimal digits that identify a record by its contents, its service times aside."""
    values = [getattr(record, field) for field in collection.fields if field not in ("created_at", "updated_at")]
    return digest_of([collection.name, *values]).hex()


async def write_letters(transaction: Transaction, letters: Iterable[Letter]) -> None:
    """Keep `letters` in the backend; one that is there already takes the new reason.

    Raises:
        DataRejected: the backend can't hold one of them either.
    """
    letters = list(letters)
    await transaction.write(DEAD_LETTERS, [letter.letter for letter in letters])
    await transaction.write(DEAD_LETTER_PARTS, [part for letter in letters for part in letter.parts])


async def read_letter(reader: Reader, letter_id: str) -> Letter | None:
    """The letter with its record, None if there is none of this id."""
    found = await read_letters(reader, [letter_id])
    return found[0] if found else None


async def read_letters(reader: Reader, letter_ids: Sequence[str]) -> list[Letter]:
    """Those of these ids that there are, with their records."""
    letters = await reader.read(DEAD_LETTERS, letter_ids)
    part_ids = [_part_id(letter.letter_id, n) for letter in letters for n in range(letter.parts)]
    parts: dict[str, list[DeadLetterPart]] = {letter.letter_id: [] for letter in letters}
    for part in await reader.read(DEAD_LETTER_PARTS, part_ids):
        parts[part.letter_id].append(part)
    return [Letter(letter, parts[letter.letter_id]) for letter in letters]


def _part_id(letter_id: str, number: int) -> str:
    return f"{letter_id}-{number:06}"

"""Many dead letters of tasks written in one transaction, so that a session with very many of them is complete soon."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from persistence_service.buffer.dead_letters import Letter, read_letters
from persistence_service.buffer.record_writer import write_records
from persistence_service.models.task import Task
from persistence_service.storage.backend import Transaction
from persistence_service.storage.collections import DEAD_LETTERS, TASKS
from persistence_service.storage.query import OneOf


@dataclass(frozen=True, slots=True)
class JointReplay:
    """`settled` are the ids of the letters that are gone: `replayed` records are stored, `dropped` ones were deleted since."""

    settled: frozenset[str] = frozenset()
    replayed: int = 0
    dropped: int = 0


async def replay_jointly(transaction: Transaction, letter_ids: Sequence[str]) -> JointReplay:
    """Write the tasks of these letters and remove the letters; those that can't be written or read stay as they are.

    Raises:
        DataRejected: one of them can never be stored, and none was.
    """
    tasks = {
        letter.letter.letter_id: task
        for letter in await read_letters(transaction, letter_ids)
        if (task := _task_of(letter)) is not None
    }
    if not tasks:
        return JointReplay()
    written = await write_records(transaction, TASKS, list(tasks.values()))
    rejected = {rejection.index for rejection in written.rejected}
    settled = [letter_id for index, letter_id in enumerate(tasks) if index not in rejected]
    if settled:
        await transaction.delete(DEAD_LETTERS, (OneOf(DEAD_LETTERS.key, settled),))
    dropped = len(written.dropped)
    return JointReplay(frozenset(settled), replayed=len(settled) - dropped, dropped=dropped)


def _task_of(letter: Letter) -> Task | None:
    if letter.letter.collection != TASKS.name:
        return None
    try:
        record = letter.record
    except (zlib.error, msgspec.MsgspecError):  # damaged, which a replay of it alone tells
        return None
    return record if isinstance(record, Task) else None

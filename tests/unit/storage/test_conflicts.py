"""A transaction that was undone in favour of another one is repeated, and callers don't learn of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from persistence_service.errors import DataRejected, StorageUnavailable, TransactionConflict
from persistence_service.models.session import Session
from persistence_service.services.dead_letters import LetterFilter, ReplayStatus
from persistence_service.storage import conflicts
from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS
from persistence_service.storage.conflicts import repeating_conflicts
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.faulty_backend import FaultyBackend, When
from persistence_service.testing.samples import session_record
from tests.unit.buffer.harness import session_request, task_request
from tests.unit.services.rig import Rig, open_rig

CONFLICT = TransactionConflict("a deadlock", number=1213)


@pytest.fixture
async def backend() -> AsyncIterator[FaultyBackend]:
    backend = FaultyBackend(MemoryBackend())
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path) as opened:
        yield opened


async def test_it_is_repeated_until_it_comes_through(backend: FaultyBackend) -> None:
    backend.fail_next(CONFLICT, times=3)
    result = await repeating_conflicts(lambda: backend.write(SESSIONS, [session_record()]))

    assert result.stored == 1
    assert backend.transactions == 4


async def test_one_that_never_comes_through_ends_with_the_conflict(backend: FaultyBackend) -> None:
    backend.fail_next(CONFLICT, times=100)
    with pytest.raises(TransactionConflict):
        await repeating_conflicts(lambda: backend.write(SESSIONS, [session_record()]))

    assert 1 < backend.transactions < 10


async def test_no_attempt_begins_when_the_waits_for_locks_have_taken_too_long(
    backend: FaultyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "_LONGEST_S", 0.0)
    backend.fail_next(CONFLICT, times=100)
    with pytest.raises(TransactionConflict):
        await repeating_conflicts(lambda: backend.write(SESSIONS, [session_record()]))

    assert backend.transactions == 1


@pytest.mark.parametrize("error", [StorageUnavailable("away"), DataRejected("bad")])
async def test_whatever_else_goes_wrong_is_not_repeated(backend: FaultyBackend, error: Exception) -> None:
    backend.fail_next(error)
    with pytest.raises(type(error)):
        await repeating_conflicts(lambda: backend.write(SESSIONS, [session_record()]))

    assert backend.transactions == 1


async def test_a_flush_does_not_fail_because_of_a_conflict(rig: Rig) -> None:
    rig.backend.fail_next(CONFLICT, when=When.BEFORE_COMMIT)
    await rig.store(session_request("a"), task_request("t", "a"))

    assert await rig.stored() == (["a"], ["t"])


@pytest.mark.parametrize("when", [When.BEGIN, When.BEFORE_COMMIT])
async def test_a_deletion_does_not_fail_because_of_conflicts(rig: Rig, when: When) -> None:
    await rig.store(session_request("a"), task_request("t", "a"))
    rig.backend.fail_next(CONFLICT, times=3, when=when)
    await rig.deletion.delete("a")

    assert await rig.stored() == ([], [])
    tombstone = await rig.tombstone("a")
    assert tombstone is not None
    assert tombstone.removed_at is not None


async def test_a_cleanup_does_not_fail_because_of_conflicts(rig: Rig) -> None:
    await rig.store(session_request("a", status="completed"), task_request("t", "a"))
    rig.timing.advance(400 * 86_400)
    rig.backend.fail_next(CONFLICT, when=When.BEFORE_COMMIT)
    cleaned = await rig.cleanup.cleanup()

    assert (cleaned.deleted_sessions, cleaned.deleted_tasks) == (1, 1)


async def letter_of_refused_session(rig: Rig) -> str:
    """The id of the dead letter."""
    rig.backend.reject(lambda record: isinstance(record, Session))
    await rig.store(session_request("bad"))
    rig.backend.reject(None)
    page = await rig.letters.page(LetterFilter(), limit=10)
    return page.items[0].letter_id


async def test_a_dead_letter_is_kept_in_spite_of_conflicts(rig: Rig) -> None:
    rig.backend.fail_next(
        CONFLICT, times=2, when=When.BEFORE_COMMIT
    )  # what is refused never comes so far, but its letter
    letter_id = await letter_of_refused_session(rig)

    assert [letter.letter_id for letter in await rig.backend.inner.read(DEAD_LETTERS, [letter_id])] == [letter_id]


async def test_a_replay_does_not_fail_because_of_conflicts(rig: Rig) -> None:
    letter_id = await letter_of_refused_session(rig)
    rig.backend.fail_next(CONFLICT, times=2, when=When.BEFORE_COMMIT)
    replay = await rig.letters.replay(letter_id)

    assert replay.status is ReplayStatus.REPLAYED
    assert await rig.stored() == (["bad"], [])


async def test_a_discard_does_not_fail_because_of_conflicts(rig: Rig) -> None:
    letter_id = await letter_of_refused_session(rig)
    rig.backend.fail_next(CONFLICT, times=2, when=When.BEFORE_COMMIT)
    await rig.letters.discard(letter_id)

    assert await rig.backend.inner.count(DEAD_LETTERS) == 0

"""Adoption: an orphan whose session comes after all is stored by itself, whatever its letter went through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.dead_letters import Letter, new_letter, write_letters
from persistence_service.errors import StorageUnavailable, UnclassifiedStorageError
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.services import adoption as module
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.samples import at, session_record, task_record
from tests.unit.buffer.harness import let_all_run
from tests.unit.services.rig import Rig, open_rig

AWAY = StorageUnavailable("gone", number=2006)


@pytest.fixture(params=["memory", "sqlite"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    made: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    await made.open()
    await made.migrate()
    async with open_rig(tmp_path, made) as opened:
        yield opened
    await made.close()


@pytest.fixture(params=["backend", "file"])
def place(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def put(rig: Rig, place: str, *letters: Letter) -> None:
    if place == "backend":
        async with rig.backend.inner.transaction() as transaction:
            await write_letters(transaction, letters)
    else:
        for letter in letters:
            rig.files.write(letter)


async def left(rig: Rig) -> int:
    return len((await rig.letters.page(LetterFilter(), limit=1000)).items)


def letter_of(task_id: str, session_id: str, reason: DeadLetterReason = DeadLetterReason.UNKNOWN_SESSION) -> Letter:
    return new_letter(TASKS, task_record(task_id, session_id), reason=reason, detail="in our words", now=at(0))


def orphans(session_id: str, number: int) -> Sequence[Letter]:
    return [letter_of(f"{session_id}-{n}", session_id) for n in range(number)]


async def test_orphans_are_adopted_when_their_session_is_stored(rig: Rig, place: str) -> None:
    await put(rig, place, *orphans("a", 3), *orphans("b", 2), letter_of("a-9", "a", DeadLetterReason.DATA_REJECTED))
    assert await rig.adoption.adopt() == 0
    await rig.write([session_record("a")])
    assert await rig.adoption.adopt() == 3
    assert (await rig.stored())[1] == ["a-0", "a-1", "a-2"]
    assert await left(rig) == 3  # what the database refused waits for a person
    assert await rig.adoption.adopt() == 0


async def test_an_error_that_nobody_knows_delays_an_adoption_and_does_not_prevent_it(rig: Rig, place: str) -> None:
    await put(rig, place, *orphans("a", 3))
    await rig.write([session_record("a")])
    rig.backend.fail_next(UnclassifiedStorageError("odd", number=4711), times=5)
    first = await rig.adoption.adopt()
    second = await rig.adoption.adopt()
    third = await rig.adoption.adopt()
    assert (first + second + third, await left(rig)) == (3, 0)
    assert first < 3


async def test_letters_of_sessions_that_never_come_cost_a_page_each_at_most(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LETTERS_AT_ONCE", 5)
    await put(rig, "backend", *orphans("a", 7), *orphans("never", 40), *orphans("z", 12))
    await rig.write([session_record("a"), session_record("z")])
    before = rig.backend.reads
    assert await rig.adoption.adopt() == 7 + 12
    lookups = 7 + 12  # each replay looks its letter up
    assert rig.backend.reads - before - lookups <= 2 * 7
    assert await left(rig) == 40


async def test_the_background_adopts_by_itself_and_survives_outages(rig: Rig) -> None:
    await put(rig, "backend", *orphans("a", 2))
    await rig.write([session_record("a")])
    with capture_logs() as logged:
        rig.backend.go_away(AWAY)
        for _ in range(3):
            rig.timing.advance(31)
            await let_all_run()
        rig.backend.come_back()
        rig.timing.advance(31)
        for _ in range(2000):
            if (await rig.stored())[1] == ["a-0", "a-1"] and await left(rig) == 0:
                break
            await asyncio.sleep(0.001)
    assert (await rig.stored())[1] == ["a-0", "a-1"]
    assert await left(rig) == 0
    events = [event["event"] for event in logged]
    assert events.count("adoption.failing") == 1
    assert "adoption.unexpected_error" not in events

"""Adoption: an orphan whose session comes after all is stored by itself, whatever its letter went through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from persistence_service.buffer.dead_letters import Letter, new_letter, write_letters
from persistence_service.errors import StorageUnavailable, UnclassifiedStorageError
from persistence_service.models.dead_letter import DeadLetterPart, DeadLetterReason
from persistence_service.models.tombstone import Tombstone
from persistence_service.services import adoption as module
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import DEAD_LETTER_PARTS, TASKS, TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.samples import at, session_record, task_record
from tests.unit.buffer.harness import let_all_run
from tests.unit.services.rig import Rig, open_rig

ORPHAN = DeadLetterReason.UNKNOWN_SESSION
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


def damaged(part: DeadLetterPart) -> DeadLetterPart:
    return replace(part, data=b"not what was written")


async def test_orphans_are_adopted_when_their_session_is_stored(rig: Rig, place: str) -> None:
    await put(rig, place, *orphans("a", 3), *orphans("b", 2), letter_of("a-9", "a", DeadLetterReason.DATA_REJECTED))
    assert await rig.adoption.adopt() == 0
    await rig.write([session_record("a")])
    assert await rig.adoption.adopt() == 3
    assert (await rig.stored())[1] == ["a-0", "a-1", "a-2"]
    assert await left(rig) == 3  # what the database refused waits for a person
    assert await rig.adoption.adopt() == 0


async def test_very_many_of_one_session_are_adopted_in_few_transactions(rig: Rig) -> None:
    await put(rig, "backend", *orphans("a", 250))
    await rig.write([session_record("a")])
    before = rig.backend.transactions
    assert await rig.adoption.adopt() == 250
    assert rig.backend.transactions - before == 3
    assert await left(rig) == 0
    assert await rig.backend.inner.count(DEAD_LETTER_PARTS) == 0


async def test_large_ones_are_adopted_a_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = orphans("a", 7)
    monkeypatch.setattr(module, "_STEP_BYTES", 2 * letters[0].letter.record_bytes)
    await put(rig, "backend", *letters)
    await rig.write([session_record("a")])
    before = rig.backend.transactions
    assert await rig.adoption.adopt() == 7
    assert rig.backend.transactions - before == 4


async def test_what_is_deleted_is_dropped_although_its_session_is_stored_no_more(
    rig: Rig, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LETTERS_AT_ONCE", 2)
    times = [at(4), at(6), at(5), at(7), at(5)]
    records = [task_record(f"a-{number}", "a", event_time=time) for number, time in enumerate(times)]
    await put(
        rig,
        place,
        *(new_letter(TASKS, record, reason=ORPHAN, detail="in our words", now=at(0)) for record in records),
        *orphans("nobody", 3),
    )
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(5), at(5), at(5), at(5))])
    assert await rig.adoption.adopt() == 0
    kept = (await rig.letters.page(LetterFilter(session_id="a"), limit=10)).items
    assert sorted(letter.record_key for letter in kept) == ["a-1", "a-3"]
    assert await left(rig) == 5
    assert b'persistence_records_dropped_total{collection="translation_tasks"} 3.0' in rig.services.metrics.render()


async def test_one_that_is_refused_keeps_no_other_from_being_adopted(rig: Rig, place: str) -> None:
    await put(rig, place, *orphans("a", 5))
    await rig.write([session_record("a")])
    rig.timing.advance(1)
    rig.backend.reject(lambda record: getattr(record, "task_id", "") == "a-3")
    assert await rig.adoption.adopt() == 4
    (kept,) = (await rig.letters.page(LetterFilter(), limit=10)).items
    assert (kept.record_key, kept.reason) == ("a-3", DeadLetterReason.DATA_REJECTED)


async def test_conflicts_and_what_is_deleted_among_them_are_told_apart(rig: Rig) -> None:
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("a", at(5), at(5), at(5), at(5))])
    await rig.write([session_record("a", event_time=at(6)), session_record("b", event_time=at(6))])
    await rig.write([task_record("theirs", "b", event_time=at(6))])
    for task_id, time in (("old", at(5)), ("new", at(6)), ("theirs", at(6))):
        record = task_record(task_id, "a", event_time=time)
        await put(rig, "backend", new_letter(TASKS, record, reason=ORPHAN, detail="in our words", now=at(0)))
    rig.timing.advance(1)
    assert await rig.adoption.adopt() == 1
    assert (await rig.stored())[1] == ["new", "theirs"]
    (kept,) = (await rig.letters.page(LetterFilter(), limit=10)).items
    assert (kept.record_key, kept.reason) == ("theirs", DeadLetterReason.TASK_ID_CONFLICT)
    assert b'persistence_records_dropped_total{collection="translation_tasks"} 1.0' in rig.services.metrics.render()


async def test_a_damaged_one_is_left_for_a_person_and_the_others_are_adopted(rig: Rig) -> None:
    letters = orphans("a", 3)
    await put(rig, "backend", letters[0], letters[1], Letter(letters[2].letter, [damaged(letters[2].parts[0])]))
    await rig.write([session_record("a")])
    assert await rig.adoption.adopt() == 2
    assert await left(rig) == 1


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
    assert rig.backend.reads - before <= 3 * 7
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
        async with asyncio.timeout(60):
            while (await rig.stored())[1] != ["a-0", "a-1"] or await left(rig):  # noqa: ASYNC110  # there is no event
                await asyncio.sleep(0.001)
    events = [event["event"] for event in logged]
    assert events.count("adoption.failing") == 1
    assert "adoption.unexpected_error" not in events

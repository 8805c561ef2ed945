"""Dead letters: the same wherever they lie, replayed by the rules of every write, and never lost but by a person's word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from persistence_service.buffer.dead_letters import Letter, letter_id_of, new_letter, write_letters
from persistence_service.buffer.letter_files import DIRECTORY_NAME
from persistence_service.errors import (
    DataRejected,
    DeadLetterDamaged,
    DeadLetterNotFound,
    MalformedBody,
    StorageUnavailable,
    UnclassifiedStorageError,
    ValidationFailed,
)
from persistence_service.models.correction import request_of
from persistence_service.models.dead_letter import DeadLetter, DeadLetterReason
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.models.times import format_time, to_micros
from persistence_service.models.tombstone import Tombstone
from persistence_service.services import dead_letters as module
from persistence_service.services.dead_letters import LetterFilter, Replay, ReplayStatus
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import (
    DEAD_LETTER_PARTS,
    DEAD_LETTERS,
    SESSIONS,
    TASKS,
    TOMBSTONES,
    Collection,
)
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Query
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.faulty_backend import When
from persistence_service.testing.samples import at, session_record, task_record
from tests.unit.buffer.harness import session_request, task_request
from tests.unit.services.rig import Rig, open_rig

AWAY = StorageUnavailable("gone", number=2006)
UNKNOWN, CONFLICT, DATA = (
    DeadLetterReason.UNKNOWN_SESSION,
    DeadLetterReason.TASK_ID_CONFLICT,
    DeadLetterReason.DATA_REJECTED,
)
REPLAYED, DROPPED = Replay(ReplayStatus.REPLAYED), Replay(ReplayStatus.DROPPED)


@pytest.fixture(params=["memory", "sqlite"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    made: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    await made.open()
    await made.migrate()
    async with open_rig(tmp_path, made) as opened:
        yield opened
    await made.close()


def letter_of(record: Session | Task, reason: DeadLetterReason = DATA, *, seconds: float = 0) -> Letter:
    collection = SESSIONS if isinstance(record, Session) else TASKS
    return new_letter(collection, record, reason=reason, detail="in our words", now=at(seconds), number=1, column="x")


async def put(rig: Rig, *letters: Letter) -> None:
    """Letters in the backend, as the flusher leaves them."""
    async with rig.backend.inner.transaction() as transaction:
        await write_letters(transaction, letters)


@pytest.fixture(params=["backend", "file"])
def place(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def put_in(rig: Rig, place: str, *letters: Letter) -> None:
    if place == "backend":
        await put(rig, *letters)
    else:
        for letter in letters:
            rig.files.write(letter)


async def left(rig: Rig) -> list[str]:
    """The ids of all letters there are, sorted."""
    page = await rig.letters.page(LetterFilter(), limit=1000)
    return sorted(letter.letter_id for letter in page.items)


async def walk(rig: Rig, which: LetterFilter, *, limit: int, descending: bool = True) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    cursor = None
    while True:
        page = await rig.letters.page(which, limit=limit, cursor=cursor, descending=descending)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


# ---------------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11])
async def test_a_walk_shows_each_letter_once_in_order_wherever_it_lies(rig: Rig, limit: int, descending: bool) -> None:
    letters = [letter_of(task_record(f"t{number}"), seconds=number // 3) for number in range(10)]
    await put(rig, *letters[::2])
    for letter in letters[1::2]:
        rig.files.write(letter)
    found = await walk(rig, LetterFilter(), limit=limit, descending=descending)
    expected = sorted((each.letter for each in letters), key=lambda each: (each.created_at, each.letter_id))
    assert found == (expected[::-1] if descending else expected)


async def test_a_letter_in_both_places_is_one(rig: Rig) -> None:
    letter = letter_of(task_record())
    await put(rig, letter)
    rig.files.write(letter)
    page = await rig.letters.page(LetterFilter(), limit=10)
    assert (page.items, page.total) == ([letter.letter], 1)


@pytest.mark.parametrize(
    "which, expected",
    [
        (LetterFilter(), "abcd"),
        (LetterFilter(reason=UNKNOWN), "ab"),
        (LetterFilter(collection="translation_sessions"), "d"),
        (LetterFilter(session_id="s2"), "bcd"),
        (LetterFilter(reason=UNKNOWN, session_id="s2"), "b"),
        (LetterFilter(reason=CONFLICT, collection="translation_sessions"), ""),
    ],
)
async def test_a_filter_means_all_of_its_conditions(rig: Rig, place: str, which: LetterFilter, expected: str) -> None:
    letters = {
        "a": letter_of(task_record("a", "s1"), UNKNOWN),
        "b": letter_of(task_record("b", "s2"), UNKNOWN),
        "c": letter_of(task_record("c", "s2"), CONFLICT),
        "d": letter_of(session_record("s2"), DATA),
    }
    await put_in(rig, place, *letters.values())
    page = await rig.letters.page(which, limit=10)
    assert {letter.letter_id for letter in page.items} == {letters[name].letter.letter_id for name in expected}
    assert (page.total, page.total_exact) == (len(expected), True)
    assert (await rig.letters.page(which, limit=10, count=False)).total is None


async def test_a_cursor_belongs_to_its_list(rig: Rig) -> None:
    await put(rig, *(letter_of(task_record(f"t{number}")) for number in range(3)))
    cursor = (await rig.letters.page(LetterFilter(), limit=1)).next_cursor
    for which, descending in ((LetterFilter(reason=DATA), True), (LetterFilter(), False)):
        with pytest.raises(ValidationFailed):
            await rig.letters.page(which, limit=1, cursor=cursor, descending=descending)


async def test_damaged_files_are_told_and_the_others_listed(rig: Rig, tmp_path: Path) -> None:
    good, bad = letter_of(task_record("good")), letter_of(task_record("bad"))
    rig.files.write(good)
    rig.files.write(bad)
    (tmp_path / "journal" / DIRECTORY_NAME / f"{bad.letter.letter_id}.json").write_bytes(b"{")
    page = await rig.letters.page(LetterFilter(), limit=10)
    assert (page.items, [each.letter_id for each in page.damaged]) == ([good.letter], [bad.letter.letter_id])
    with pytest.raises(DeadLetterDamaged):
        await rig.letters.letter(bad.letter.letter_id)
    with pytest.raises(DeadLetterDamaged):
        await rig.letters.replay(bad.letter.letter_id)
    await rig.letters.discard(bad.letter.letter_id)
    assert (await rig.letters.page(LetterFilter(), limit=10)).damaged == []


async def test_a_list_without_the_backend_is_no_list(rig: Rig) -> None:
    rig.files.write(letter_of(task_record()))
    rig.backend.go_away(AWAY)
    with pytest.raises(StorageUnavailable):
        await rig.letters.page(LetterFilter(), limit=10)
    rig.backend.come_back()


# -------------------------------------------------------------------------------------------------------- one letter


async def test_a_letter_is_shown_with_its_record(rig: Rig, place: str) -> None:
    letter = letter_of(task_record(source_text="語" * 40_000, end_time=at(1)))
    await put_in(rig, place, letter)
    assert await rig.letters.letter(letter.letter.letter_id) == (letter.letter, letter.record)


async def test_a_letter_that_is_settled_while_it_is_read_is_not_found_and_not_damaged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MariaDB, three workers, seed 17: the letter of an orphan was adopted between the reading of it and of its record.
    letter = letter_of(task_record())
    await put(rig, letter)
    read = rig.backend.read

    async def settled_meanwhile(collection: Collection[Any], keys: Sequence[str]) -> list[Any]:
        found = await read(collection, keys)
        if collection is DEAD_LETTERS and found:
            await rig.letters.discard(letter.letter.letter_id)
        return found

    monkeypatch.setattr(rig.backend, "read", settled_meanwhile)
    with pytest.raises(DeadLetterNotFound):
        await rig.letters.letter(letter.letter.letter_id)


@pytest.mark.parametrize("letter_id", ["0" * 32, "nothing", "../head", ""])
async def test_another_id_is_not_found(rig: Rig, letter_id: str) -> None:
    await put(rig, letter_of(task_record()))
    for call in (rig.letters.letter, rig.letters.replay, rig.letters.discard):
        with pytest.raises(DeadLetterNotFound):
            await call(letter_id)
    assert len(await left(rig)) == 1


async def test_a_discarded_letter_is_gone_with_its_record(rig: Rig, place: str) -> None:
    letter, other = letter_of(task_record("a")), letter_of(task_record("b"))
    await put_in(rig, place, letter, other)
    await rig.letters.discard(letter.letter.letter_id)
    assert await left(rig) == [other.letter.letter_id]
    parts = await rig.backend.inner.query(DEAD_LETTER_PARTS, Query())
    assert len(parts) == (1 if place == "backend" else 0)
    with pytest.raises(DeadLetterNotFound):
        await rig.letters.discard(letter.letter.letter_id)


async def test_a_letter_in_both_places_is_discarded_in_both(rig: Rig) -> None:
    letter = letter_of(task_record("a"))
    await put(rig, letter)
    rig.files.write(letter)
    await rig.letters.discard(letter.letter.letter_id)
    assert await left(rig) == []


@pytest.mark.parametrize("is_corrected", [False, True])
async def test_a_record_whose_letter_a_person_has_settled_never_becomes_one_again(rig: Rig, is_corrected: bool) -> None:
    request = task_request(source_text="poison", event_time="2026-01-01T00:00:00Z")
    rig.backend.reject(lambda record: getattr(record, "source_text", "") == "poison")
    await rig.store(session_request(), request)
    (letter_id,) = await left(rig)
    if is_corrected:
        record = (await rig.letters.letter(letter_id))[1]
        assert await rig.letters.replay(letter_id, corrected(record, source_text="mended")) == REPLAYED
    else:
        await rig.letters.discard(letter_id)
    await rig.store(request)  # from a part of the journal that was read once more, or from a worker
    assert await left(rig) == []
    assert rig.services.buffer.stats().total_count == 0
    stored = await rig.backend.inner.read(TASKS, ["T"])
    assert [task.source_text for task in stored] == (["mended"] if is_corrected else [])


# ----------------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize("is_corrected", [False, True])
async def test_a_letter_in_both_places_is_gone_from_both_when_it_is_stored(rig: Rig, is_corrected: bool) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record())
    await put(rig, letter)
    rig.files.write(letter)
    body = corrected(letter.record, source_text="mended") if is_corrected else None
    assert await rig.letters.replay(letter.letter.letter_id, body) == REPLAYED
    assert await left(rig) == []


async def test_a_replayed_record_is_stored_as_it_was_accepted_and_its_letter_is_gone(rig: Rig, place: str) -> None:
    await rig.write([session_record()])
    record = task_record(event_time=at(3), created_at=at(4), updated_at=at(4), target_text="x", status=Status.COMPLETED)
    letter = letter_of(record)
    await put_in(rig, place, letter)
    rig.timing.advance(1000)
    assert await rig.letters.replay(letter.letter.letter_id) == REPLAYED
    assert await rig.backend.inner.query(TASKS, Query()) == [record]
    assert await left(rig) == []
    with pytest.raises(DeadLetterNotFound):
        await rig.letters.replay(letter.letter.letter_id)


async def test_a_session_is_replayed_too(rig: Rig, place: str) -> None:
    record = session_record(game_info='{"a":1}', total_tasks=3)
    letter = letter_of(record)
    await put_in(rig, place, letter)
    assert await rig.letters.replay(letter.letter.letter_id) == REPLAYED
    assert await rig.backend.inner.query(SESSIONS, Query()) == [record]


async def test_a_replay_obeys_the_merge_rule(rig: Rig, place: str) -> None:
    stored = task_record(status=Status.COMPLETED, target_text="done", event_time=at(1))
    await rig.write([session_record()])
    await rig.write([stored])
    letter = letter_of(task_record(status=Status.PROCESSING, event_time=at(9)))
    await put_in(rig, place, letter)
    assert await rig.letters.replay(letter.letter.letter_id) == REPLAYED
    assert await rig.backend.inner.query(TASKS, Query()) == [stored]


async def test_what_was_deleted_since_is_dropped(rig: Rig, place: str) -> None:
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("session-1", at(5), at(5), at(5), at(5))])
    letter = letter_of(task_record(event_time=at(5)))
    await put_in(rig, place, letter)
    assert await rig.letters.replay(letter.letter.letter_id) == DROPPED
    counted = b'persistence_records_dropped_total{collection="translation_tasks"} 1.0'
    assert counted in rig.services.metrics.render()
    assert await rig.stored() == ([], [])
    assert await left(rig) == []


async def test_what_is_refused_again_stays_a_letter_with_the_new_reason(rig: Rig, place: str) -> None:
    letter = letter_of(task_record())
    await put_in(rig, place, letter)
    rig.timing.advance(1000)
    outcome = await rig.letters.replay(letter.letter.letter_id)
    assert outcome == Replay(ReplayStatus.STILL_REFUSED, UNKNOWN, "its session is not stored")
    (kept,) = (await rig.letters.page(LetterFilter(), limit=10)).items
    assert (kept.reason, kept.detail, kept.error_number, kept.error_column) == (UNKNOWN, outcome.detail, None, None)
    assert (kept.created_at, kept.event_time) == (letter.letter.created_at, letter.letter.event_time)
    assert (await rig.letters.letter(kept.letter_id))[1] == letter.record


async def test_the_new_reason_is_kept_also_if_the_clock_was_ahead_when_it_became_a_letter(rig: Rig, place: str) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record(), UNKNOWN)
    await put_in(rig, place, letter)
    rig.timing.set_wall(to_micros(letter.letter.updated_at) - 3_600_000_000)
    rig.backend.fail_next(DataRejected("driver's words"))
    outcome = await rig.letters.replay(letter.letter.letter_id)
    assert (outcome.status, outcome.reason) == (ReplayStatus.STILL_REFUSED, DATA)
    assert [kept.reason for kept in (await rig.letters.page(LetterFilter(), limit=10)).items] == [DATA]


async def test_a_letter_whose_new_reason_the_database_refuses_stays_as_it_was_and_stops_no_other(rig: Rig) -> None:
    letters = [letter_of(task_record(f"t{number}"), DATA) for number in range(2)]
    await put(rig, *letters)
    rig.timing.advance(1000)
    rig.backend.reject(lambda record: isinstance(record, DeadLetter))
    counts = await rig.letters.replay_all(LetterFilter())
    assert (counts.matched, counts.still_refused) == (2, 2)
    assert [kept.reason for kept in (await rig.letters.page(LetterFilter(), limit=10)).items] == [DATA, DATA]


async def test_a_conflict_stays_one(rig: Rig, place: str) -> None:
    await rig.write([session_record("a"), session_record("b")])
    await rig.write([task_record("t", "a")])
    letter = letter_of(task_record("t", "b"), CONFLICT)
    await put_in(rig, place, letter)
    outcome = await rig.letters.replay(letter.letter.letter_id)
    assert (outcome.status, outcome.reason) == (ReplayStatus.STILL_REFUSED, CONFLICT)
    assert len(await left(rig)) == 1


@pytest.mark.parametrize(
    "error, detail",
    [
        (
            DataRejected("driver's words", number=1406, column="context"),
            "the database refuses it (error 1406, column context)",
        ),
        (DataRejected("driver's words"), "the database refuses it"),
    ],
)
async def test_what_the_database_refuses_again_is_told_in_our_words(
    rig: Rig, place: str, error: Exception, detail: str
) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record())
    await put_in(rig, place, letter)
    rig.timing.advance(1000)
    rig.backend.fail_next(error)
    outcome = await rig.letters.replay(letter.letter.letter_id)
    assert (outcome.status, outcome.reason, outcome.detail) == (ReplayStatus.STILL_REFUSED, DATA, detail)
    (kept,) = (await rig.letters.page(LetterFilter(), limit=10)).items
    assert kept.detail == detail
    assert await rig.stored() == (["session-1"], [])
    assert await rig.letters.replay(letter.letter.letter_id) == REPLAYED


async def test_an_error_that_nobody_knows_says_nothing_about_the_record(rig: Rig, place: str) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record(), CONFLICT)
    await put_in(rig, place, letter)
    rig.timing.advance(1000)
    rig.backend.fail_next(UnclassifiedStorageError("driver's words", number=9999))
    with pytest.raises(StorageUnavailable) as caught:
        await rig.letters.replay(letter.letter.letter_id)
    assert caught.value.number == 9999
    assert "driver" not in str(caught.value)
    assert (await rig.letters.page(LetterFilter(), limit=10)).items == [letter.letter]
    assert await rig.letters.replay(letter.letter.letter_id) == REPLAYED


async def test_an_error_that_nobody_knows_stops_no_replay_of_the_others(rig: Rig, place: str) -> None:
    await rig.write([session_record()])
    letters = [letter_of(task_record(f"t{number}"), CONFLICT) for number in range(3)]
    await put_in(rig, place, *letters)
    rig.timing.advance(1000)
    rig.backend.fail_next(UnclassifiedStorageError("driver's words", number=9999))
    counts = await rig.letters.replay_all(LetterFilter())
    assert (counts.matched, counts.replayed, counts.still_refused) == (3, 2, 1)
    (kept,) = (await rig.letters.page(LetterFilter(), limit=10)).items
    assert kept in [letter.letter for letter in letters]


@pytest.mark.parametrize("when", [When.BEGIN, When.WRITE, When.BEFORE_COMMIT, When.AFTER_COMMIT])
async def test_an_outage_in_a_replay_loses_neither_record_nor_letter(rig: Rig, place: str, when: When) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record())
    await put_in(rig, place, letter)
    rig.backend.fail_next(AWAY, when=when)
    with pytest.raises(StorageUnavailable):
        await rig.letters.replay(letter.letter.letter_id)
    is_stored = (await rig.stored())[1] == ["task-1"]
    assert is_stored == (when is When.AFTER_COMMIT)
    assert is_stored or await left(rig) == [letter.letter.letter_id]
    if await left(rig):
        assert await rig.letters.replay(letter.letter.letter_id) == REPLAYED
    assert (await rig.stored())[1] == ["task-1"]
    assert await left(rig) == []


async def test_of_replays_at_the_same_moment_one_finds_the_letter(rig: Rig) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record())
    await put(rig, letter)
    outcomes = await asyncio.gather(
        *(rig.letters.replay(letter.letter.letter_id) for _ in range(4)), return_exceptions=True
    )
    assert outcomes.count(REPLAYED) == 1
    assert sum(isinstance(outcome, DeadLetterNotFound) for outcome in outcomes) == 3


async def test_a_letter_discarded_during_its_replay_does_not_come_back(rig: Rig) -> None:
    letter = letter_of(task_record())
    await put(rig, letter)
    rig.timing.advance(1000)
    note = rig.letters._note

    async def discarded_first(*arguments: Any, **more: Any) -> None:  # noqa: ANN401  # passed on as they are
        await rig.letters.discard(letter.letter.letter_id)
        await note(*arguments, **more)

    rig.letters._note = discarded_first  # type: ignore[method-assign]  # the race
    assert (await rig.letters.replay(letter.letter.letter_id)).status is ReplayStatus.STILL_REFUSED
    assert await left(rig) == []


# ------------------------------------------------------------------------------------------------------- corrections


def corrected(record: Session | Task, **changes: Any) -> bytes:  # noqa: ANN401  # JSON
    body = json.loads(msgspec.json.encode(request_of(record)))
    body |= changes
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


async def test_what_is_shown_is_what_can_be_sent_back(rig: Rig, place: str) -> None:
    session = session_record(game_info='{"a":[1,2.5,null]}', metadata='{"ü":"x"}', total_tasks=7, event_time=at(2))
    task = task_record(
        confidence=0.1234, start_time=at(1), end_time=at(2), duration_ms=5, retry_count=1, status=Status.FAILED,
        target_text="", context="c", error_message="e", event_time=at(3),
    )  # fmt: skip
    for record in (session, task):
        letter = letter_of(record)
        await put_in(rig, place, letter)
        (_, shown) = await rig.letters.letter(letter.letter.letter_id)
        assert await rig.letters.replay(letter.letter.letter_id, msgspec.json.encode(request_of(shown))) == REPLAYED
    assert await rig.backend.inner.query(SESSIONS, Query()) == [session]
    assert await rig.backend.inner.query(TASKS, Query()) == [task]


async def test_a_correction_takes_the_letter_s_place_and_keeps_its_times(rig: Rig, place: str) -> None:
    await rig.write([session_record("right")])
    record = task_record("t", "wrong", event_time=at(3), created_at=at(4), updated_at=at(4))
    letter = letter_of(record, UNKNOWN)
    await put_in(rig, place, letter)
    rig.timing.advance(1000)
    body = corrected(record, session_id="right", event_time=..., confidence=0.12345)
    assert await rig.letters.replay(letter.letter.letter_id, body) == REPLAYED
    (stored,) = await rig.backend.inner.query(TASKS, Query())
    assert (stored.session_id, stored.event_time, stored.created_at, stored.updated_at) == (
        "right",
        at(3),
        at(4),
        at(4),
    )
    assert stored.confidence == 0.1234
    assert stored == task_record("t", "right", event_time=at(3), created_at=at(4), updated_at=at(4), confidence=0.1234)
    assert await left(rig) == []


async def test_a_correction_may_name_another_event_time(rig: Rig) -> None:
    record = session_record(event_time=at(3), created_at=at(4), updated_at=at(4))
    letter = letter_of(record)
    await put(rig, letter)
    body = corrected(record, filename="short.xlsx", event_time=format_time(at(9)), game_info={"a": 1})
    assert await rig.letters.replay(letter.letter.letter_id, body) == REPLAYED
    (stored,) = await rig.backend.inner.query(SESSIONS, Query())
    assert (stored.filename, stored.event_time, stored.game_info_time, stored.created_at) == (
        "short.xlsx", at(9), at(9), at(4),
    )  # fmt: skip


@pytest.mark.parametrize(
    "body, error",
    [
        (b"", MalformedBody),
        (b"{", MalformedBody),
        (b"\xff", MalformedBody),
        (b"[" * 100_000, MalformedBody),
        (b"[]", ValidationFailed),
        (b"{}", ValidationFailed),
        (msgspec.json.encode(request_of(session_record())), ValidationFailed),
        (corrected(task_record(), confidence=2), ValidationFailed),
        (corrected(task_record(), unknown=1), ValidationFailed),
        (corrected(task_record(), task_id=" x"), ValidationFailed),
        (corrected(task_record(), event_time="2999-01-01T00:00:00Z"), ValidationFailed),
        (corrected(task_record(), start_time="yesterday"), ValidationFailed),
        (corrected(task_record(), source_text="x" * 1_048_577), ValidationFailed),
        (corrected(task_record()) + corrected(task_record()), MalformedBody),
    ],
    ids=range(14),
)
async def test_a_correction_is_checked_like_an_item_of_a_batch(
    rig: Rig, place: str, body: bytes, error: type[Exception]
) -> None:
    await rig.write([session_record()])
    letter = letter_of(task_record())
    await put_in(rig, place, letter)
    with pytest.raises(error) as caught:
        await rig.letters.replay(letter.letter.letter_id, body)
    if isinstance(caught.value, ValidationFailed):
        assert all(problem.index is None for problem in caught.value.problems)
    assert await left(rig) == [letter.letter.letter_id]
    assert await rig.stored() == (["session-1"], [])


async def test_a_correction_that_is_refused_leaves_the_letter_as_it_was(rig: Rig, place: str) -> None:
    letter = letter_of(task_record())
    await put_in(rig, place, letter)
    rig.timing.advance(1000)
    outcome = await rig.letters.replay(letter.letter.letter_id, corrected(task_record(), session_id="nobody's"))
    assert (outcome.status, outcome.reason) == (ReplayStatus.STILL_REFUSED, UNKNOWN)
    assert await rig.letters.letter(letter.letter.letter_id) == (letter.letter, letter.record)


# --------------------------------------------------------------------------------------------------------- replay all


async def test_all_that_match_are_replayed_and_counted(rig: Rig, place: str) -> None:
    await rig.write([session_record("s")])
    await rig.backend.inner.write(TOMBSTONES, [Tombstone("gone", at(5), at(5), at(5), at(5))])
    letters = [
        *(letter_of(task_record(f"ok{number}", "s")) for number in range(3)),
        *(letter_of(task_record(f"dropped{number}", "gone")) for number in range(2)),
        letter_of(task_record("orphan", "nobody")),
    ]
    other = letter_of(task_record("other", "s"), CONFLICT)
    await put_in(rig, place, *letters, other)
    rig.timing.advance(1000)
    which = LetterFilter(reason=DATA)
    dry = await rig.letters.replay_all(which, dry_run=True)
    assert (dry.matched, dry.replayed, dry.dropped, dry.still_refused) == (6, 0, 0, 0)
    assert len(await left(rig)) == 7
    counts = await rig.letters.replay_all(which)
    assert (counts.matched, counts.replayed, counts.dropped, counts.still_refused) == (6, 3, 2, 1)
    assert await left(rig) == sorted([letters[-1].letter.letter_id, other.letter.letter_id])
    assert (await rig.stored())[1] == ["ok0", "ok1", "ok2"]


async def test_many_are_replayed_in_bounded_steps_past_those_that_stay(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LETTERS_AT_ONCE", 3)
    await rig.write([session_record("s")])
    letters = [letter_of(task_record(f"t{n:02}", "s" if n % 2 else "nobody"), seconds=n // 4) for n in range(20)]
    await put(rig, *letters)
    rig.timing.advance(1000)
    async with asyncio.timeout(60):
        counts = await rig.letters.replay_all(LetterFilter())
    assert (counts.matched, counts.replayed, counts.still_refused) == (20, 10, 10)


async def test_one_letter_that_can_not_be_read_stops_no_other(rig: Rig) -> None:
    await rig.write([session_record()])
    good, bad = letter_of(task_record("good")), letter_of(task_record("bad"))
    await put(rig, good, bad)
    inner = rig.backend.inner
    broken = [replace(part, data=b"not zlib") for part in bad.parts]
    async with inner.transaction() as transaction:
        await transaction.delete(DEAD_LETTERS, ())
        await transaction.write(DEAD_LETTERS, [good.letter, bad.letter])
        await transaction.write(DEAD_LETTER_PARTS, [*good.parts, *broken])
    rig.timing.advance(1)
    with capture_logs() as logged:
        counts = await rig.letters.replay_all(LetterFilter())
    assert (counts.matched, counts.replayed, counts.still_refused) == (2, 1, 1)
    assert [event["letter_id"] for event in logged if event["event"] == "dead_letter.damaged"] == [bad.letter.letter_id]
    assert await left(rig) == [bad.letter.letter_id]
    with pytest.raises(DeadLetterDamaged):
        await rig.letters.letter(bad.letter.letter_id)


async def test_letters_that_come_during_a_replay_wait_for_the_next(rig: Rig) -> None:
    await put(rig, letter_of(task_record("later"), seconds=10**6))
    assert (await rig.letters.replay_all(LetterFilter())).matched == 0


async def test_the_letter_of_what_the_database_refused_can_be_mended_and_replayed(rig: Rig) -> None:
    rig.backend.reject(lambda record: getattr(record, "source_text", "") == "bad")
    await rig.store(session_request("S"), task_request("good", "S"), task_request("T", "S", source_text="bad"))
    (letter,) = (await rig.letters.page(LetterFilter(session_id="S"), limit=10)).items
    assert (letter.reason, letter.record_key) == (DATA, "T")
    (_, record) = await rig.letters.letter(letter.letter_id)
    assert isinstance(record, Task)
    assert letter_id_of(TASKS, record) == letter.letter_id
    assert await rig.letters.replay(letter.letter_id, corrected(record, source_text="mended")) == REPLAYED
    (stored,) = await rig.backend.inner.read(TASKS, ["T"])
    assert (stored.source_text, stored.event_time) == ("mended", record.event_time)

"""What a backend can't store of a copied journal becomes a dead letter, as the flush would have it; all else is stored."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from persistence_service.buffer.dead_letters import read_letters
from persistence_service.errors import UnclassifiedStorageError
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.dead_letter import DeadLetter, DeadLetterReason
from persistence_service.models.limits import Limits
from persistence_service.models.task import Task
from persistence_service.models.tombstone import Tombstone
from persistence_service.services.backend_target import BackendTarget
from persistence_service.services.journal_copy import CopyReport
from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS, TASKS, TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Query
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.unit.buffer.harness import session_request, task_request, task_requests

NOW_US = 1_700_000_000_000_000
ACCEPTANCE = Acceptance(NOW_US, NOW_US)


@pytest.fixture
async def backend() -> AsyncIterator[FaultyBackend]:
    made = FaultyBackend(MemoryBackend())
    await made.open()
    yield made
    await made.close()


def is_bad(record: Any) -> bool:  # noqa: ANN401  # a record of any collection
    return isinstance(record, Task) and record.task_id == "bad"


def tasks() -> list[Task]:
    requests = [*task_requests(40), task_request("bad"), task_request("lonely", "nobody")]
    return accept_tasks(requests, ACCEPTANCE, Limits())


async def copied(backend: FaultyBackend) -> CopyReport:
    target, report = BackendTarget(backend, lambda: NOW_US), CopyReport()
    await target.write(SESSIONS, accept_sessions([session_request()], ACCEPTANCE, Limits()), report)
    await target.write(TASKS, tasks(), report)
    return report


async def letters(backend: FaultyBackend) -> list[DeadLetter]:
    return sorted(await backend.inner.query(DEAD_LETTERS, Query(limit=10)), key=lambda letter: letter.record_key)


async def test_the_bad_one_and_the_orphan_become_letters_and_all_others_are_stored(backend: FaultyBackend) -> None:
    backend.reject(is_bad)
    for _ in range(2):
        report = await copied(backend)
        assert (report.stored, report.dead_lettered, report.refused) == (41, 2, 0)
        kept = await letters(backend)
        assert [(letter.record_key, letter.reason) for letter in kept] == [
            ("bad", DeadLetterReason.DATA_REJECTED.value),
            ("lonely", DeadLetterReason.UNKNOWN_SESSION.value),
        ]
        assert [letter.record for letter in await read_letters(backend.inner, [kept[0].letter_id])] == [tasks()[40]]


async def test_one_whose_letter_cannot_be_stored_either_is_named(backend: FaultyBackend) -> None:
    backend.reject(lambda record: is_bad(record) or (isinstance(record, DeadLetter) and record.record_key == "bad"))
    report = await copied(backend)
    assert (report.stored, report.dead_lettered, report.refused) == (41, 1, 1)
    assert "bad" in report.refusals[0]
    assert not report.is_whole


async def test_what_was_deleted_stays_deleted(backend: FaultyBackend) -> None:
    deleted_up_to = tasks()[-1].event_time + timedelta(seconds=1)
    await backend.inner.write(TOMBSTONES, [Tombstone("S", deleted_up_to, *[deleted_up_to] * 3)])
    report = await copied(backend)
    assert (report.stored, report.dropped, report.dead_lettered) == (0, 42, 1)
    assert await backend.inner.read(SESSIONS, ["S"]) == []


async def test_updates_of_one_record_are_merged_as_they_would_be(backend: FaultyBackend) -> None:
    (session,) = accept_sessions([session_request()], ACCEPTANCE, Limits())
    report = CopyReport()
    newer = replace(session, event_time=session.event_time + timedelta(seconds=1), filename="newer.xlsx")
    await BackendTarget(backend, lambda: NOW_US).write(SESSIONS, [newer, session], report)
    assert (report.stored, report.merged) == (1, 1)
    (stored,) = await backend.inner.read(SESSIONS, ["S"])
    assert stored.filename == "newer.xlsx"


UNKNOWN = UnclassifiedStorageError("what?", number=4711)


def fails_unknown(record: Any) -> bool:  # noqa: ANN401  # a record of any collection
    """A predicate for `FaultyBackend.reject` that raises instead."""
    if isinstance(record, Task) and record.task_id.startswith("bad"):
        raise UNKNOWN
    return False


async def copied_tasks(backend: FaultyBackend, *slices: list[str]) -> CopyReport:
    target, report = BackendTarget(backend, lambda: NOW_US), CopyReport()
    await target.write(SESSIONS, accept_sessions([session_request()], ACCEPTANCE, Limits()), report)
    for ids in slices:
        await target.write(TASKS, accept_tasks([task_request(one) for one in ids], ACCEPTANCE, Limits()), report)
    return report


@pytest.mark.parametrize("bad", [[0], [20], [39], [0, 1, 2, 3], [36, 37, 38, 39]], ids=str)
async def test_errors_of_an_unknown_number_cost_no_other_task_wherever_they_stand(
    backend: FaultyBackend, bad: list[int]
) -> None:
    backend.reject(fails_unknown)
    report = await copied_tasks(backend, [f"bad{n:02}" if n in bad else f"good{n:02}" for n in range(40)])
    assert (report.stored, report.dead_lettered, report.refused) == (41 - len(bad), len(bad), 0)
    assert {letter.error_number for letter in await letters(backend)} == {4711}


async def test_a_last_one_that_fails_with_an_unknown_number_is_believed_after_others_of_its_kind(
    backend: FaultyBackend,
) -> None:
    backend.reject(fails_unknown)
    report = await copied_tasks(backend, ["good"], ["bad"])
    assert (report.stored, report.dead_lettered) == (2, 1)


@pytest.mark.parametrize(
    "slices", [[["bad"]], [["good"], ["bad1"], ["bad2"]], [["good"], ["bad1", "bad2", "bad3"]]], ids=str
)
async def test_where_nothing_else_is_stored_meanwhile_an_unknown_number_is_a_matter_of_set_up(
    backend: FaultyBackend, slices: list[list[str]]
) -> None:
    backend.reject(fails_unknown)
    with pytest.raises(UnclassifiedStorageError):
        await copied_tasks(backend, *slices)
    assert "bad3" not in {letter.record_key for letter in await letters(backend)}


async def test_one_whose_letter_fails_with_an_unknown_number_too_is_named(backend: FaultyBackend) -> None:
    def fails(record: Any) -> bool:  # noqa: ANN401  # a record of any collection
        if isinstance(record, DeadLetter):
            raise UNKNOWN
        return is_bad(record)

    backend.reject(fails)
    report = await copied(backend)
    assert (report.stored, report.dead_lettered, report.refused) == (41, 0, 2)


async def test_a_task_id_that_an_unknown_session_claims_too_goes_to_the_one_that_is_known(
    backend: FaultyBackend,
) -> None:
    claims = [task_request("contested", "nobody"), task_request("contested", "S"), task_request("contested", "nobody")]
    target, report = BackendTarget(backend, lambda: NOW_US), CopyReport()
    await target.write(SESSIONS, accept_sessions([session_request()], ACCEPTANCE, Limits()), report)
    await target.write(TASKS, accept_tasks(claims, ACCEPTANCE, Limits()), report)
    assert (report.stored, report.merged + report.dead_lettered) == (2, 2)
    (stored,) = await backend.inner.read(TASKS, ["contested"])
    assert stored.session_id == "S"

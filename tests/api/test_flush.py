"""Flushing on demand."""

from __future__ import annotations

import pytest

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable, UnclassifiedStorageError
from persistence_service.testing.faulty_backend import When
from tests.api.conftest import Api, a_session, a_task, assert_error


async def test_a_flush_stores_what_was_accepted_before_it(api: Api) -> None:
    await api.keep([a_session()], [a_task("t1"), a_task("t2")])
    answer = (await api.post("/flush")).json()
    assert answer.pop("duration_ms") >= 0
    assert answer == {
        "status": "flushed",
        "sessions_written": 1,
        "tasks_written": 2,
        "waiting": 0,
        "dead_lettered": 0,
    }
    again = (await api.post("/flush")).json()
    assert (again["sessions_written"], again["tasks_written"]) == (0, 0)


async def test_tasks_without_their_session_wait_and_are_stored_when_it_comes(api: Api) -> None:
    await api.keep(tasks=[a_task()])
    answer = (await api.post("/flush")).json()
    assert (answer["tasks_written"], answer["waiting"]) == (0, 1)
    await api.keep([a_session()])
    answer = (await api.post("/flush")).json()
    assert (answer["tasks_written"], answer["waiting"]) == (1, 0)


async def test_records_that_can_not_be_stored_are_counted_and_stop_nobody(api: Api) -> None:
    api.backend.reject(lambda record: getattr(record, "task_id", "") == "t2")
    await api.keep([a_session()], [a_task(f"t{n}") for n in range(5)])
    answer = (await api.post("/flush")).json()
    assert (answer["tasks_written"], answer["dead_lettered"]) == (4, 1)


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailable("connect to db-7.internal:3306 failed", number=2003),
        StorageSetupError("Access denied for user 'root'@'db-7.internal'", number=1045),
        UnclassifiedStorageError("db-7.internal said something", number=9999),
    ],
)
async def test_a_flush_that_fails_says_so_and_loses_nothing(api: Api, error: PersistenceError) -> None:
    await api.keep([a_session()], [a_task()])
    api.backend.go_away(error)
    response = await api.post("/flush")
    assert_error(response, 503, "STORAGE_UNAVAILABLE")
    assert "db-7" not in response.text
    api.backend.come_back()
    answer = (await api.post("/flush")).json()
    assert (answer["sessions_written"], answer["tasks_written"]) == (1, 1)


async def test_a_commit_of_unknown_outcome_stores_once(api: Api) -> None:
    await api.keep([a_session()])
    api.backend.fail_next(StorageUnavailable("connection lost at commit"), when=When.AFTER_COMMIT)
    assert_error(await api.post("/flush"), 503, "STORAGE_UNAVAILABLE")
    assert (await api.post("/flush")).status_code == 200
    assert (await api.get("/sessions")).json()["total"] == 1


async def test_flush_takes_no_parameters(api: Api) -> None:
    (problem,) = assert_error(await api.post("/flush", None, now=1), 422, "VALIDATION_ERROR")
    assert problem["field"] == "now"

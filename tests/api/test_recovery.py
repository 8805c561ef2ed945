"""What is unfinished, and what is left to do of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence_service.errors import StorageUnavailable
from persistence_service.journal.journal import Journal
from tests.api.conftest import Api, StartApi, a_session, a_task, assert_error


@pytest.fixture
async def interrupted(api: Api) -> Api:
    """Four sessions, accepted and not flushed: all but `done` are unfinished."""
    await api.keep(
        [
            a_session("open", status="processing"),
            a_session("done", status="completed"),
            a_session("waiting", status="pending"),
            a_session("forgotten", status="completed"),
        ],
        [
            a_task("o1", "open", status="processing", row_index=3),
            a_task("o2", "open", status="pending", row_index=1),
            a_task("o3", "open", status="completed", row_index=2),
            a_task("o4", "open", status="failed", row_index=4),
            a_task("d1", "done", status="completed"),
            a_task("f1", "forgotten", status="pending"),
        ],
    )
    return api


async def test_unfinished_sessions_are_those_by_status_or_by_tasks(interrupted: Api) -> None:
    answer = (await interrupted.get("/recovery/incomplete-sessions")).json()
    assert [session["session_id"] for session in answer["sessions"]] == ["forgotten", "open", "waiting"]
    assert (answer["count"], answer["next_cursor"]) == (3, None)
    assert (answer["complete"], answer["missing"]) == (True, [])
    open_one = answer["sessions"][1]
    assert open_one["unfinished_tasks"] == {"pending": 1, "processing": 1}
    assert open_one["last_activity"] > open_one["updated_at"]
    assert open_one["status"] == "processing"


async def test_unfinished_sessions_are_walked_by_cursor(interrupted: Api) -> None:
    first = (await interrupted.get("/recovery/incomplete-sessions", limit=2)).json()
    rest = (await interrupted.get("/recovery/incomplete-sessions", limit=2, cursor=first["next_cursor"])).json()
    found = [session["session_id"] for answer in (first, rest) for session in answer["sessions"]]
    assert found == ["forgotten", "open", "waiting"]
    assert (first["count"], rest["count"], rest["next_cursor"]) == (3, 3, None)
    other = await interrupted.get("/recovery/incomplete-sessions", cursor=first["next_cursor"], idle_seconds=1)
    assert_error(other, 422, "VALIDATION_ERROR")


async def test_what_another_version_journaled_is_said_to_be_missing(start_api: StartApi, tmp_path: Path) -> None:
    journal = await Journal.open(
        tmp_path / "journal", max_bytes=1 << 20, min_free=0, segment_bytes=1 << 16, clock=lambda: 1
    )
    await journal.append(150, b"from the future", items=1, accepted_at_us=1, high_water_us=1)
    await journal.close()
    answer = (await (await start_api()).get("/recovery/incomplete-sessions")).json()
    assert (answer["count"], answer["complete"]) == (0, False)
    assert "another version" in answer["missing"][0]


async def test_sessions_with_recent_activity_can_be_left_out(interrupted: Api) -> None:
    assert (await interrupted.get("/recovery/incomplete-sessions", idle_seconds=0)).json()["count"] == 3
    assert (await interrupted.get("/recovery/incomplete-sessions", idle_seconds=3600)).json()["count"] == 0


@pytest.mark.parametrize(
    "query,field",
    [
        ("idle_seconds=NaN", "idle_seconds"),
        ("idle_seconds=inf", "idle_seconds"),
        ("idle_seconds=-1", "idle_seconds"),
        ("idle_seconds=1e300", "idle_seconds"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("cursor=", "cursor"),
        ("page=1", "page"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_a_wrong_parameter_is_named(api: Api, query: str, field: str) -> None:
    response = await api.client.get(f"/api/v1/translation/recovery/incomplete-sessions?{query}")
    (problem,) = assert_error(response, 422, "VALIDATION_ERROR")
    assert problem["field"] == field


async def test_restoring_gives_the_session_and_what_is_left_in_order(interrupted: Api) -> None:
    answer = (await interrupted.post("/recovery/restore/open")).json()
    assert answer["session_id"] == answer["session"]["session_id"] == "open"
    assert [task["task_id"] for task in answer["tasks"]] == ["o2", "o1"]
    assert (answer["tasks_count"], answer["next_cursor"]) == (2, None)
    assert answer["restored_at"].endswith("Z")


async def test_restoring_may_include_what_failed(interrupted: Api) -> None:
    answer = (await interrupted.post("/recovery/restore/open", include_failed=True)).json()
    assert [task["task_id"] for task in answer["tasks"]] == ["o2", "o1", "o4"]
    assert answer["tasks_count"] == 3


async def test_restoring_goes_on_by_cursor(interrupted: Api) -> None:
    first = (await interrupted.post("/recovery/restore/open", limit=1)).json()
    rest = (await interrupted.post("/recovery/restore/open", limit=1, cursor=first["next_cursor"])).json()
    assert [task["task_id"] for answer in (first, rest) for task in answer["tasks"]] == ["o2", "o1"]
    assert (first["tasks_count"], rest["next_cursor"]) == (2, None)
    other = await interrupted.post("/recovery/restore/open", include_failed=True, cursor=first["next_cursor"])
    assert_error(other, 422, "VALIDATION_ERROR")


async def test_a_finished_session_has_nothing_left(interrupted: Api) -> None:
    answer = (await interrupted.post("/recovery/restore/done")).json()
    assert (answer["tasks"], answer["tasks_count"]) == ([], 0)


async def test_an_unknown_session_is_not_found(interrupted: Api) -> None:
    assert_error(await interrupted.post("/recovery/restore/nobody"), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("query", ["limit=10001", "limit=0", "include_failed=perhaps", "worker=w1", "cursor=zzz"])
async def test_a_wrong_parameter_of_restoring_is_refused(interrupted: Api, query: str) -> None:
    response = await interrupted.client.post(f"/api/v1/translation/recovery/restore/open?{query}")
    assert_error(response, 422, "VALIDATION_ERROR")


async def test_recovery_says_nothing_while_the_database_is_away(interrupted: Api) -> None:
    interrupted.backend.go_away(StorageUnavailable("gone"))
    assert_error(await interrupted.get("/recovery/incomplete-sessions"), 503, "STORAGE_UNAVAILABLE")
    assert_error(await interrupted.post("/recovery/restore/open"), 503, "STORAGE_UNAVAILABLE")
    interrupted.backend.come_back()
    assert (await interrupted.get("/recovery/incomplete-sessions")).json()["count"] == 3


@pytest.mark.parametrize("limit", [1, 63, 64, 65, 128, 199, 200, 201, 10_000])
async def test_what_is_left_to_do_is_given_once_each_whatever_the_limit(api: Api, limit: int) -> None:
    await api.store([a_session()], [a_task(f"t{number:03}", row_index=number) for number in range(200)])
    found: list[str] = []
    cursor: str | None = None
    for _ in range(200):
        after: dict[str, str] = {"cursor": cursor} if cursor else {}
        answer = (await api.post("/recovery/restore/s1", limit=limit, **after)).json()
        assert len(answer["tasks"]) == min(limit, 200 - len(found))
        found += [task["task_id"] for task in answer["tasks"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert found == [f"t{number:03}" for number in range(200)]


@pytest.fixture
async def heavy(api: Api) -> Api:
    """A session with 36 unfinished tasks of 1 MiB each."""
    await api.keep([a_session()])
    text = "x" * 1024 * 1024
    for first in range(0, 36, 12):
        tasks = [a_task(f"t{number:02}", row_index=number, source_text=text) for number in range(first, first + 12)]
        await api.store([], tasks)
    return api


async def test_an_answer_ends_early_when_it_would_be_over_32_mib(heavy: Api) -> None:
    first = await heavy.post("/recovery/restore/s1")
    assert 30 * 1024 * 1024 < len(first.content) < 33 * 1024 * 1024
    one, rest = first.json(), (await heavy.post("/recovery/restore/s1", cursor=first.json()["next_cursor"])).json()
    assert [task["row_index"] for answer in (one, rest) for task in answer["tasks"]] == list(range(36))
    assert (one["tasks_count"], rest["tasks_count"], rest["next_cursor"]) == (36, 36, None)


async def test_a_list_that_would_be_over_32_mib_is_refused_rather_than_cut_short(heavy: Api) -> None:
    for path in ("/tasks", "/sessions/s1/tasks"):
        (problem,) = assert_error(await heavy.get(path, page_size=100), 422, "VALIDATION_ERROR")
        assert problem["field"] == "page_size"
        assert len((await heavy.get(path, page_size=20)).json()["items"]) == 20

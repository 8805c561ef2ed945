"""Reading: filters, orders, pages, cursors, totals; and single records from wherever they are."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable
from tests.api.conftest import BASE, Api, Json, a_session, a_task, assert_error


def ids(response: httpx.Response) -> list[str]:
    """The ids of a page, in its order."""
    assert response.status_code == 200, response.text
    return [item.get("task_id") or item["session_id"] for item in response.json()["items"]]


async def walk(api: Api, path: str, **parameters: Json) -> list[str]:
    """The ids of a whole list, by cursor."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        response = await api.get(path, **parameters, **cursor)
        found += ids(response)
        if response.json()["next_cursor"] is None:
            return found
        cursor = {"cursor": response.json()["next_cursor"]}


@pytest.fixture
async def filled(api: Api) -> Api:
    """Three sessions, and tasks of two of them, stored."""
    await api.store(
        [
            a_session("s1", filename="items.xlsx", status="processing", total_tasks=3),
            a_session("s2", filename="100%_real.xlsx", status="completed", llm_provider="gemini", total_tasks=2),
            a_session("s3", filename="ITEMS.xlsx", status="failed", total_tasks=1),
        ],
        [
            a_task("t1", row_index=2, status="completed", target_text="药水\u0000\n", confidence=0.12345),
            a_task("t2", row_index=1, column_name="zh"),
            a_task("t3", row_index=1, column_name="en", batch_id="b2", status="failed"),
            a_task("t4", "s2", sheet_name="Quests"),
        ],
    )
    return api


async def test_a_session_comes_back_as_it_was_sent(api: Api) -> None:
    sent = a_session(
        "会话 1",
        game_info={"source_lang": "en", "n": [1, 2.5, None, {"深": True}]},
        event_time="2026-01-31T12:00:00+02:00",
    )
    await api.keep([sent])
    answer = (await api.get(f"/sessions/{quote('会话 1')}")).json()
    assert sent.items() <= {**answer, "event_time": sent["event_time"]}.items()
    assert answer["event_time"] == "2026-01-31T10:00:00Z"
    assert answer["metadata"] is None
    assert answer["created_at"] == answer["updated_at"]
    await api.post("/flush")
    assert (await api.get(f"/sessions/{quote('会话 1')}")).json() == answer


async def test_a_task_comes_back_as_it_was_sent(api: Api) -> None:
    sent = a_task(
        target_text="a\u0000b\r\n\U0001f9ea",
        confidence=0.12345,
        duration_ms=2**53 - 1,
        end_time="2026-01-01T00:00:00.1234567Z",
    )
    await api.keep([a_session()], [sent])
    answer = (await api.get("/tasks/t1")).json()
    rounded = {"confidence": 0.1234, "end_time": "2026-01-01T00:00:00.123456Z"}
    assert {**sent, **rounded}.items() <= answer.items()
    await api.post("/flush")
    assert (await api.get("/tasks/t1")).json() == answer


@pytest.mark.parametrize(
    "task_id",
    [
        "a/b",
        "/a/",
        "a//b",
        "a?b",
        "a#b",
        "a%2Fb",
        "%",
        "%25",
        "a b",
        "a+b",
        "任务/1",
        "é",
        "a;b=c&d",
        "a\\b",
        "...",
        "batch",
        "🧪",
        "a%ff",
    ],
)
async def test_every_task_id_works_in_its_address(api: Api, task_id: str) -> None:
    await api.keep(tasks=[a_task(task_id)])
    response = await api.client.get(f"{BASE}/tasks/{quote(task_id, safe='')}")
    assert response.json()["task_id"] == task_id


@pytest.mark.parametrize("session_id", ["a?b", "a%2Fb", "任务 1", "batch", "a;b", "...", "tasks", "T1", "ｔ1"])
async def test_every_session_id_works_in_its_address(api: Api, session_id: str) -> None:
    await api.store([a_session(session_id), a_session("t1")])
    path = f"{BASE}/sessions/{quote(session_id, safe='')}"
    assert (await api.client.get(path)).json()["session_id"] == session_id
    assert (await api.client.get(f"{path}/tasks")).json()["total"] == 0
    restored = await api.client.post(f"{BASE}/recovery/restore/{quote(session_id, safe='')}")
    assert restored.json()["session_id"] == session_id


@pytest.mark.parametrize("path", ["/tasks/a%ff", "/sessions/%C3%28", "/sessions/%ff/tasks"])
async def test_an_id_that_is_not_utf8_is_refused_and_not_guessed(api: Api, path: str) -> None:
    await api.keep([a_session("\ufffd")], [a_task("a\ufffd")])
    assert_error(await api.get(path), 422, "VALIDATION_ERROR")
    assert_error(await api.client.get(f"{BASE}/tasks?sheet_name=%ff"), 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "path", ["/sessions/nobody", "/sessions/nobody/tasks", "/sessions/%00", "/sessions/" + "x" * 5000]
)
async def test_an_unknown_session_is_not_found(filled: Api, path: str) -> None:
    assert_error(await filled.get(path), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("task_id", ["T1", "t1%20", "%74%31%00", "t11", "x" * 5000])
async def test_an_unknown_task_is_not_found(filled: Api, task_id: str) -> None:
    assert_error(await filled.get(f"/tasks/{task_id}"), 404, "TASK_NOT_FOUND")


async def test_a_single_read_shows_buffered_and_stored_merged(api: Api) -> None:
    await api.store([a_session(total_tasks=5)], [a_task(status="completed", target_text="药水")])
    await api.keep([a_session(status="completed", completed_tasks=1)], [a_task(status="pending")])
    session = (await api.get("/sessions/s1")).json()
    assert (session["status"], session["total_tasks"], session["completed_tasks"]) == ("completed", 5, 1)
    assert (await api.get("/tasks/t1")).json()["status"] == "completed"
    assert (await api.get("/sessions")).json()["items"][0]["status"] == "processing"
    fresh = await api.get("/sessions", fresh=True)
    assert fresh.json()["items"][0]["status"] == "completed"


@pytest.mark.parametrize("error", [StorageUnavailable("gone"), StorageSetupError("no such table")])
async def test_with_the_backend_away_what_is_here_is_shown_and_what_is_not_is_open(
    api: Api, error: PersistenceError
) -> None:
    await api.keep([a_session()], [a_task()])
    api.backend.go_away(error)
    assert (await api.get("/sessions/s1")).status_code == 200
    assert (await api.get("/tasks/t1")).status_code == 200
    for path in ("/sessions/other", "/tasks/other", "/sessions", "/tasks", "/sessions/s1/tasks"):
        assert_error(await api.get(path), 503, "STORAGE_UNAVAILABLE")
    assert_error(await api.get("/sessions", fresh=True), 503, "STORAGE_UNAVAILABLE")
    api.backend.come_back()


@pytest.mark.parametrize(
    "parameters,expected",
    [
        ({}, {"s1", "s2", "s3"}),
        ({"status": "completed"}, {"s2"}),
        ({"filename": "items"}, {"s1"}),
        ({"filename": "ITEMS"}, {"s3"}),
        ({"filename": "%_"}, {"s2"}),
        ({"filename": "\u0000"}, set()),
        ({"filename": "' OR 1=1 --"}, set()),
        ({"llm_provider": "gemini"}, {"s2"}),
        ({"llm_provider": "gemini", "status": "failed"}, set()),
        ({"from_date": "2000-01-01", "to_date": "9999-12-31"}, {"s1", "s2", "s3"}),
        ({"from_date": "9999-12-31T23:59:59.999999Z"}, set()),
        ({"to_date": "1000-01-01"}, set()),
        ({"from_date": "2026-01-02", "to_date": "2026-01-01"}, set()),
    ],
)
async def test_sessions_are_filtered(filled: Api, parameters: dict[str, str], expected: set[str]) -> None:
    response = await filled.get("/sessions", **parameters)
    assert set(ids(response)) == expected
    assert (response.json()["total"], response.json()["total_exact"]) == (len(expected), True)


@pytest.mark.parametrize(
    "parameters,expected",
    [
        ({}, {"t1", "t2", "t3", "t4"}),
        ({"session_id": "s1"}, {"t1", "t2", "t3"}),
        ({"session_id": "S1"}, set()),
        ({"batch_id": "b2"}, {"t3"}),
        ({"sheet_name": "Quests"}, {"t4"}),
        ({"status": "failed", "session_id": "s1"}, {"t3"}),
        ({"to_date": "1999-12-31"}, set()),
        ({"sheet_name": ""}, set()),
    ],
)
async def test_tasks_are_filtered(filled: Api, parameters: dict[str, str], expected: set[str]) -> None:
    response = await filled.get("/tasks", **parameters)
    assert set(ids(response)) == expected
    assert response.json()["total"] == len(expected)


async def test_a_date_means_its_whole_day(filled: Api) -> None:
    created = (await filled.get("/sessions/s1")).json()["created_at"]
    day = created[:10]
    for parameters in ({"from_date": day}, {"to_date": day}, {"from_date": day, "to_date": day}):
        assert (await filled.get("/sessions", **parameters)).json()["total"] == 3
    exact = await filled.get("/sessions", from_date=created, to_date=created)
    assert "s1" in ids(exact)
    for form in (created.replace("Z", "%2B00:00"), created.replace("Z", "+00:00"), created.replace("T", "+")):
        url = f"{BASE}/sessions?from_date={form}&to_date={form}"
        assert ids(await filled.client.get(url)) == ids(exact)


@pytest.mark.parametrize(
    "path,parameters,expected",
    [
        ("/sessions", {}, ["s3", "s2", "s1"]),
        ("/sessions", {"order": "asc"}, ["s1", "s2", "s3"]),
        ("/sessions", {"sort_by": "filename", "order": "asc"}, ["s2", "s3", "s1"]),
        ("/sessions", {"sort_by": "total_tasks"}, ["s1", "s2", "s3"]),
        ("/sessions", {"sort_by": "status", "order": "asc"}, ["s2", "s3", "s1"]),
        ("/sessions", {"sort_by": "updated_at", "order": "asc"}, ["s1", "s2", "s3"]),
        ("/sessions/s1/tasks", {}, ["t3", "t2", "t1"]),
        ("/sessions/s1/tasks", {"order": "desc"}, ["t1", "t2", "t3"]),
        ("/sessions/s1/tasks", {"sort_by": "task_id"}, ["t3", "t2", "t1"]),
        ("/sessions/s1/tasks", {"sort_by": "created_at", "order": "asc"}, ["t1", "t2", "t3"]),
        ("/sessions/s1/tasks", {"status": "failed", "sheet_name": "Items"}, ["t3"]),
        ("/tasks", {}, ["t4", "t3", "t2", "t1"]),
        ("/tasks", {"sort_by": "task_id", "order": "asc"}, ["t1", "t2", "t3", "t4"]),
    ],
)
async def test_lists_are_in_the_order_asked_for_by_page_and_by_cursor(
    filled: Api, path: str, parameters: dict[str, str], expected: list[str]
) -> None:
    assert ids(await filled.get(path, **parameters)) == expected
    assert await walk(filled, path, page_size=1, **parameters) == expected
    pages = [await filled.get(path, page=page, page_size=1, **parameters) for page in range(1, len(expected) + 1)]
    assert [one for page in pages for one in ids(page)] == expected


async def test_a_page_says_where_it_stands(filled: Api) -> None:
    page = (await filled.get("/sessions", page=2, page_size=2)).json()
    assert (page["total"], page["total_pages"], page["page"], page["page_size"]) == (3, 2, 2, 2)
    assert page["next_cursor"] is None
    beyond = (await filled.get("/sessions", page=9)).json()
    assert (beyond["items"], beyond["total"]) == ([], 3)
    uncounted = (await filled.get("/sessions", count=False)).json()
    assert (uncounted["total"], uncounted["total_exact"], uncounted["total_pages"]) == (None, False, None)
    first = (await filled.get("/sessions", page_size=1)).json()
    second = (await filled.get("/sessions", page_size=1, cursor=first["next_cursor"])).json()
    assert (second["page"], second["total"]) == (None, 3)


@pytest.mark.parametrize(
    "query,field",
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=1.5", "page"),
        ("page=x", "page"),
        ("page=1_0", "page"),
        ("page=%2B1", "page"),
        ("page=%201", "page"),
        ("page_size=1_0", "page_size"),
        ("page=", "page"),
        ("page=99999999999999999999999999", "page"),
        ("page=" + "9" * 5000, "page"),
        ("page=1001&page_size=100", "page"),
        ("page_size=0", "page_size"),
        ("page_size=101", "page_size"),
        ("sort_by=1;DROP TABLE translation_sessions", "sort_by"),
        ("sort_by=digest", "sort_by"),
        ("sort_by=CREATED_AT", "sort_by"),
        ("order=up", "order"),
        ("status=done", "status"),
        ("status=pending,failed", "status"),
        ("status=failed&status=pending", "status"),
        ("status=", "status"),
        ("count=maybe", "count"),
        ("fresh=2", "fresh"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=é", "cursor"),
        ("cursor=" + "kZGR" * 5000, "cursor"),
        ("from_date=2026-02-30", "from_date"),
        ("from_date=2026-13-01", "from_date"),
        ("from_date=0001-01-01", "from_date"),
        ("from_date=yesterday", "from_date"),
        ("from_date=2026-01-01T25:00:00Z", "from_date"),
        ("from_date=", "from_date"),
        ("to_date=9999-12-31T23:59:59-01:00", "to_date"),
        ("to_date=NaN", "to_date"),
        ("filename=" + "x" * 256, "filename"),
        ("limit=5", "limit"),
        ("Status=failed", "Status"),
        ("x%00y=1", "x\u0000y"),
    ],
)
async def test_a_wrong_parameter_is_named(filled: Api, query: str, field: str) -> None:
    problems = assert_error(await filled.client.get(f"{BASE}/sessions?{query}"), 422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in problems] == [field]
    assert "DROP" not in str(problems)
    assert problems[0]["index"] is None


@pytest.mark.parametrize("query", ["page=1001&page_size=100", "page=100001&page_size=1", "page=" + "9" * 26])
async def test_who_asks_for_a_page_too_deep_is_told_of_the_cursor(filled: Api, query: str) -> None:
    (problem,) = assert_error(await filled.client.get(f"{BASE}/sessions?{query}"), 422, "VALIDATION_ERROR")
    assert "next_cursor" in problem["reason"]


@pytest.mark.parametrize("path", ["/sessions/s1", "/tasks/t1"])
async def test_single_reads_take_no_parameters(filled: Api, path: str) -> None:
    assert_error(await filled.get(path, fresh=True), 422, "VALIDATION_ERROR")


async def test_a_cursor_is_bound_to_its_list(filled: Api) -> None:
    cursor = (await filled.get("/sessions", page_size=1)).json()["next_cursor"]
    mismatches: list[tuple[str, dict[str, Any]]] = [
        ("/sessions", {"order": "asc"}),
        ("/sessions", {"sort_by": "filename"}),
        ("/sessions", {"status": "failed"}),
        ("/tasks", {}),
        ("/sessions/s1/tasks", {}),
        ("/recovery/incomplete-sessions", {}),
    ]
    for path, parameters in mismatches:
        (problem,) = assert_error(await filled.get(path, cursor=cursor, **parameters), 422, "VALIDATION_ERROR")
        assert problem["field"] == "cursor"
    for changed in (cursor[:-2], cursor[::-1], cursor + "AAAA"):
        assert_error(await filled.get("/sessions", cursor=changed), 422, "VALIDATION_ERROR")
    assert (await filled.get("/sessions", cursor=cursor, page_size=50)).status_code == 200


async def test_a_deep_page_is_refused_with_the_way_out(filled: Api) -> None:
    (problem,) = assert_error(await filled.get("/tasks", page=5001, page_size=20), 422, "VALIDATION_ERROR")
    assert "next_cursor" in problem["reason"]
    assert (await filled.get("/tasks", page=5000, page_size=20)).status_code == 200

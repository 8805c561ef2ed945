"""Taking batches in: all or nothing, bounded, and as safe as asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from persistence_service.errors import DataRejected, StorageUnavailable
from tests.api.conftest import Api, Json, StartApi, a_session, a_task, assert_error


async def test_a_batch_is_acknowledged_with_its_count_time_and_durability(api: Api) -> None:
    response = await api.post("/sessions/batch", {"sessions": [a_session("a"), a_session("b")]})
    assert response.status_code == 200
    answer = response.json()
    assert answer | {"timestamp": ""} == {"status": "accepted", "count": 2, "timestamp": "", "durability": "journal"}
    assert datetime.fromisoformat(answer["timestamp"]).utcoffset() is not None
    assert answer["timestamp"].endswith("Z")


@pytest.mark.parametrize("kind", ["sessions", "tasks"])
async def test_an_empty_batch_is_accepted(api: Api, kind: str) -> None:
    answer = (await api.post(f"/{kind}/batch", {kind: []})).json()
    assert (answer["status"], answer["count"]) == ("accepted", 0)


async def test_items_of_one_id_are_merged_and_counted_each(api: Api) -> None:
    tasks = [a_task(status="pending"), a_task(status="processing"), a_task(status="completed", target_text="药水")]
    assert (await api.post("/tasks/batch", {"tasks": tasks})).json()["count"] == 3
    assert (await api.get("/tasks/t1")).json()["target_text"] == "药水"
    await api.keep([a_session()])
    assert (await api.post("/flush")).json()["tasks_written"] == 1


@pytest.mark.parametrize(
    "item,field,reason",
    [
        (a_task(task_id=""), "task_id", "length"),
        (a_task(task_id=" t"), "task_id", "white space"),
        (a_task(task_id="t\u3000"), "task_id", "white space"),
        (a_task(task_id="t\n"), "task_id", "control characters"),
        (a_task(task_id="t\u0000"), "task_id", "control characters"),
        (a_task(task_id=".."), "task_id", "'.' or '..'"),
        (a_task(task_id="t" * 65), "task_id", "length"),
        (a_task(session_id="a/b"), "session_id", "no '/'"),
        (a_task(row_index=-1), "row_index", ">= 0"),
        (a_task(row_index=2**31), "row_index", "<= 2147483647"),
        (a_task(row_index=1.5), "row_index", "int"),
        (a_task(row_index=True), "row_index", "int"),
        (a_task(status="done"), "status", "one of pending"),
        (a_task(confidence=1.01), "confidence", "<= 1"),
        (a_task(duration_ms=2**53), "duration_ms", "<= 9007199254740991"),
        (a_task(start_time="2026-02-30T00:00:00Z"), "start_time", "RFC 3339"),
        (a_task(start_time="0999-12-31T00:00:00Z"), "start_time", "1000"),
        (a_task(event_time="9999-01-01T00:00:00Z"), "event_time", "future"),
        (a_task(sheet_name="x" * 256), "sheet_name", "length"),
        (a_task(source_text=None), "source_text", "str"),
        (a_task(targettext="x"), "targettext", "not a known field"),
        ({}, "task_id", "is required"),
        (None, "", "object"),
        ([], "", "object"),
    ],
)
async def test_a_bad_item_is_named_and_nothing_of_its_batch_is_kept(
    api: Api, item: Json, field: str, reason: str
) -> None:
    response = await api.post("/tasks/batch", {"tasks": [a_task("good"), item]})
    (problem,) = assert_error(response, 422, "VALIDATION_ERROR")
    assert (problem["index"], problem["field"]) == (1, field)
    assert reason in problem["reason"]
    assert_error(await api.get("/tasks/good"), 404, "TASK_NOT_FOUND")


@pytest.mark.parametrize(
    "fields,field",
    [
        ({"metadata": "text"}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"game_info": {"n": 2**64}}, "game_info"),
        ({"metadata": {"x": "y" * (256 * 1024)}}, "metadata"),
        ({"llm_provider": "x" * 51}, "llm_provider"),
        ({"total_tasks": -1}, "total_tasks"),
        ({"updated_at": "2026-01-01T00:00:00Z"}, "updated_at"),
    ],
)
async def test_a_bad_session_is_named(api: Api, fields: dict[str, Any], field: str) -> None:
    response = await api.post("/sessions/batch", {"sessions": [a_session(**fields)]})
    (problem,) = assert_error(response, 422, "VALIDATION_ERROR")
    assert (problem["index"], problem["field"]) == (0, field)


async def test_json_deeper_than_thirty_levels_is_refused(api: Api) -> None:
    deep: Any = 1
    for _ in range(31):
        deep = {"x": deep}
    response = await api.post("/sessions/batch", {"sessions": [a_session(metadata=deep)]})
    assert assert_error(response, 422, "VALIDATION_ERROR")[0]["field"] == "metadata"


async def test_every_bad_item_is_named_but_no_more_than_a_hundred(api: Api) -> None:
    tasks = [a_task(f"t{n}", row_index=-1 if n % 2 else n) for n in range(300)]
    problems = assert_error(await api.post("/tasks/batch", {"tasks": tasks}), 422, "VALIDATION_ERROR")
    assert [problem["index"] for problem in problems] == list(range(1, 201, 2))


@pytest.mark.parametrize("body", [{}, {"sessions": []}, {"tasks": [], "more": 1}, {"tasks": None}, [], 1, "x"])
async def test_a_body_that_is_no_batch_is_refused(api: Api, body: Json) -> None:
    response = await api.client.post("/api/v1/translation/tasks/batch", json=body)
    (problem,) = assert_error(response, 422, "VALIDATION_ERROR")
    assert problem["index"] is None


async def test_a_validation_error_repeats_no_text_of_the_cells(api: Api) -> None:
    tasks = [a_task(source_text="the-secret-text", target_text=["the-secret-text"], confidence=7)]
    assert "the-secret-text" not in (await api.post("/tasks/batch", {"tasks": tasks})).text


async def test_more_items_than_allowed_are_too_many(start_api: StartApi) -> None:
    api = await start_api(limits={"max_batch_items": 2})
    await api.keep(tasks=[a_task("a"), a_task("b")])
    tasks: list[Any] = [a_task(str(n)) for n in range(3)]
    assert "at most 2 items" in assert_error(await api.post("/tasks/batch", {"tasks": tasks}), 413, "PAYLOAD_TOO_LARGE")
    # also when the items are wrong: they are not looked at
    assert_error(await api.post("/tasks/batch", {"tasks": [None] * 3}), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("ack", ["memory", "journal", "storage"])
async def test_the_durability_asked_for_is_given(api: Api, ack: str) -> None:
    response = await api.post("/sessions/batch", {"sessions": [a_session()]}, ack=ack)
    assert (response.status_code, response.json()["durability"]) == (200, ack)
    if ack == "storage":
        assert (await api.get("/sessions")).json()["total"] == 1


async def test_less_than_the_least_durability_is_not_given(start_api: StartApi) -> None:
    api = await start_api(buffer={"min_ack": "journal"})
    response = await api.post("/sessions/batch", {"sessions": [a_session()]}, ack="memory")
    assert response.json()["durability"] == "journal"


@pytest.mark.parametrize("query", ["ack=disk", "ack=", "ack=journal&ack=memory", "akc=storage", "ack=JOURNAL"])
async def test_a_wrong_parameter_is_refused_before_anything_is_kept(api: Api, query: str) -> None:
    url = f"/api/v1/translation/sessions/batch?{query}"
    (problem,) = assert_error(await api.client.post(url, json={"sessions": [a_session()]}), 422, "VALIDATION_ERROR")
    assert problem["field"] in ("ack", "akc")
    assert_error(await api.get("/sessions/s1"), 404, "SESSION_NOT_FOUND")


async def test_storage_is_not_claimed_for_a_task_whose_session_is_unknown(api: Api) -> None:
    await api.keep([a_session()])
    tasks = [a_task("t1"), a_task("t2", session_id="nobody")]
    response = await api.post("/tasks/batch", {"tasks": tasks}, ack="storage")
    assert response.status_code == 202
    answer = response.json()
    assert answer["durability"] == "journal"
    assert answer["waiting"] == [{"index": 1, "reason": "unknown_session"}]
    assert "dead_lettered" not in answer


async def test_storage_is_not_claimed_for_a_record_that_can_never_be_stored(api: Api) -> None:
    await api.keep([a_session()])
    api.backend.reject(lambda record: getattr(record, "task_id", "") == "bad")
    response = await api.post("/tasks/batch", {"tasks": [a_task("bad"), a_task("good")]}, ack="storage")
    assert response.status_code == 202
    assert response.json()["dead_lettered"] == [{"index": 0, "reason": "data_rejected"}]
    assert (await api.get("/tasks/good")).status_code == 200


async def test_storage_is_not_claimed_while_the_database_is_away(start_api: StartApi) -> None:
    api = await start_api(buffer={"ack_timeout": 0.02})
    api.backend.go_away(StorageUnavailable("gone"))
    response = await api.post("/sessions/batch", {"sessions": [a_session()]}, ack="storage")
    assert (response.status_code, response.json()["durability"]) == (202, "journal")
    assert response.json()["waiting"] == [{"index": 0, "reason": "storage_unavailable"}]


async def test_a_task_of_another_session_is_a_conflict(api: Api) -> None:
    await api.store([a_session("s1"), a_session("s2")], [a_task("t1", "s1")])
    response = await api.post("/tasks/batch", {"tasks": [a_task("t1", "s2")]}, ack="storage")
    assert response.json()["dead_lettered"] == [{"index": 0, "reason": "task_id_conflict"}]
    assert (await api.get("/tasks/t1")).json()["session_id"] == "s1"


async def test_what_has_no_room_in_memory_waits_in_the_journal_and_is_read_from_there(start_api: StartApi) -> None:
    api = await start_api(buffer={"max_memory_records": 2, "max_buffer_size": 2})
    await api.store([a_session("s0")])
    api.backend.go_away(StorageUnavailable("gone"))
    await api.keep([a_session(f"s{n}") for n in range(1, 3)])
    await api.keep([a_session(f"s{n}") for n in range(3, 6)])
    assert (await api.client.get("/health")).json()["buffer"]["spilled_records"] == 3
    assert (await api.get("/sessions/s5")).json()["session_id"] == "s5"
    api.backend.come_back()
    assert (await api.post("/flush")).json()["sessions_written"] == 5


async def test_an_error_of_the_backend_never_speaks_in_its_own_words(api: Api) -> None:
    await api.keep([a_session()])
    api.backend.go_away(DataRejected("INSERT INTO translation_tasks VALUES ('the-secret-text') at /var/lib/db"))
    response = await api.get("/sessions")
    detail = assert_error(response, 500, "INTERNAL_ERROR")
    assert "log" in detail
    assert "INSERT" not in response.text
    api.backend.come_back()

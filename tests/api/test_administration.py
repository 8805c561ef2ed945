"""Deletion, cleanup and dead letters over HTTP."""

from __future__ import annotations

import gzip
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from persistence_service.buffer.letter_files import DIRECTORY_NAME
from persistence_service.errors import StorageUnavailable
from persistence_service.models.times import format_time, from_micros, parse_time
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.api.conftest import BASE, Api, Json, a_session, a_task, assert_error

AWAY = StorageUnavailable("gone", number=2006)


async def delete(api: Api, path: str, **parameters: Json) -> Any:  # noqa: ANN401  # a response
    return await api.client.delete(BASE + path, params=parameters)


def refuse_bad(backend: FaultyBackend) -> None:
    backend.reject(lambda record: getattr(record, "source_text", "") == "bad")


async def letters(api: Api, **parameters: Json) -> list[Json]:
    response = await api.get("/dead-letters", **parameters)
    assert response.status_code == 200, response.text
    items: list[Json] = response.json()["items"]
    return items


@pytest.fixture
async def refused(api: Api) -> str:
    """The id of the letter of a task that the database refuses, in a session that is stored."""
    refuse_bad(api.backend)
    await api.store([a_session()], [a_task(source_text="bad", event_time="2026-01-31T12:00:00Z")])
    (letter,) = await letters(api)
    letter_id: str = letter["letter_id"]
    return letter_id


# ----------------------------------------------------------------------------------------------------------- delete


async def test_a_session_is_deleted_with_its_tasks(api: Api) -> None:
    await api.store([a_session("s1"), a_session("s2")], [a_task("t1", "s1"), a_task("t2", "s2")])
    await api.keep([a_session("s1", status="completed")], [a_task("t3", "s1")])
    response = await delete(api, "/sessions/s1")
    assert response.status_code == 200
    deleted_up_to = response.json().pop("deleted_up_to")
    assert response.json() == {"status": "deleted", "session_id": "s1", "deleted_up_to": deleted_up_to}
    assert deleted_up_to.endswith("Z")
    for path in ("/sessions/s1", "/sessions/s1/tasks"):
        assert_error(await api.get(path), 404, "SESSION_NOT_FOUND")
    for task_id in ("t1", "t3"):
        assert_error(await api.get(f"/tasks/{task_id}"), 404, "TASK_NOT_FOUND")
    assert_error(await delete(api, "/sessions/s1"), 404, "SESSION_NOT_FOUND")
    assert (await api.post("/flush")).json()["waiting"] == 0
    assert (await api.get("/tasks/t2")).status_code == 200
    assert (await api.get("/sessions")).json()["total"] == 1


@pytest.mark.parametrize("session_id", ["cleanup", "batch", "a%2Bb", "%E8%AA%9E", "q%3F%23%25"])
async def test_every_id_can_be_deleted(api: Api, session_id: str) -> None:
    name = {"a%2Bb": "a+b", "%E8%AA%9E": "語", "q%3F%23%25": "q?#%"}.get(session_id, session_id)
    await api.keep([a_session(name)])
    response = await api.client.delete(f"{BASE}/sessions/{session_id}")
    assert (response.json()["status"], response.json()["session_id"]) == ("deleted", name)


async def test_a_delete_tells_up_to_when_records_stay_deleted_and_what_is_newer_begins_anew(api: Api) -> None:
    ahead = from_micros(time.time_ns() // 1000) + timedelta(seconds=100)
    await api.store([a_session("s1", event_time=format_time(ahead))])
    deleted_up_to = (await delete(api, "/sessions/s1")).json()["deleted_up_to"]
    assert parse_time(deleted_up_to) == ahead
    await api.store([a_session("s1", event_time=deleted_up_to)])
    assert_error(await api.get("/sessions/s1"), 404, "SESSION_NOT_FOUND")
    await api.store([a_session("s1", event_time=format_time(ahead + timedelta(microseconds=1)))])
    assert (await api.get("/sessions/s1")).status_code == 200


async def test_a_delete_without_the_database_is_503(api: Api) -> None:
    await api.store([a_session()])
    api.backend.go_away(AWAY)
    assert_error(await delete(api, "/sessions/s1"), 503, "STORAGE_UNAVAILABLE")
    assert_error(await delete(api, "/sessions/unknown"), 503, "STORAGE_UNAVAILABLE")
    api.backend.come_back()
    assert (await api.get("/sessions/s1")).status_code == 200


async def test_a_delete_takes_no_parameters(api: Api) -> None:
    assert_error(await delete(api, "/sessions/s1", force=True), 422, "VALIDATION_ERROR")


# ----------------------------------------------------------------------------------------------------------- cleanup


async def test_cleanup_deletes_what_a_dry_run_counts(api: Api) -> None:
    await api.store(
        [a_session("s1", status="completed"), a_session("s2", status="failed"), a_session("s3")],
        [a_task("t1", "s1", status="completed"), a_task("t2", "s1", status="failed"), a_task("t3", "s3")],
    )
    assert (await api.post("/sessions/cleanup")).json() == {
        "deleted_sessions": 0, "deleted_tasks": 0, "dry_run": False,
    }  # fmt: skip
    dry = await api.post("/sessions/cleanup", completed_days=0, dry_run=True)
    assert dry.json() == {"deleted_sessions": 1, "deleted_tasks": 2, "dry_run": True}
    done = await api.post("/sessions/cleanup", completed_days=0, age_of="created_at")
    assert done.json() == {"deleted_sessions": 1, "deleted_tasks": 2, "dry_run": False}
    done = await api.post("/sessions/cleanup", failed_days=0)
    assert done.json() == {"deleted_sessions": 1, "deleted_tasks": 0, "dry_run": False}
    assert (await api.get("/sessions")).json()["total"] == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"completed_days": -1},
        {"failed_days": "x"},
        {"cancelled_days": 10**9},
        {"completed_days": 0.5},
        {"age_of": "updated_at"},
        {"dry_run": "perhaps"},
        {"days": 3},
    ],
    ids=str,
)
async def test_cleanup_without_sane_parameters_deletes_nothing(api: Api, parameters: dict[str, Json]) -> None:
    await api.store([a_session("s1", status="completed")])
    everything = {"completed_days": 0, **parameters}
    (problem,) = assert_error(await api.post("/sessions/cleanup", **everything), 422, "VALIDATION_ERROR")
    assert problem["field"] in parameters
    assert (await api.get("/sessions/s1")).status_code == 200


async def test_cleanup_without_the_database_is_503(api: Api) -> None:
    api.backend.go_away(AWAY)
    assert_error(await api.post("/sessions/cleanup"), 503, "STORAGE_UNAVAILABLE")
    api.backend.come_back()


# -------------------------------------------------------------------------------------------------------- dead letters


async def test_a_refused_record_is_listed_and_shown(api: Api, refused: str) -> None:
    listed = (await api.get("/dead-letters")).json()
    (letter,) = listed.pop("items")
    assert listed == {"total": 1, "total_exact": True, "page_size": 20, "next_cursor": None, "damaged": []}
    assert {name: letter[name] for name in ("letter_id", "collection", "record_key", "session_id", "reason")} == {
        "letter_id": refused,
        "collection": "translation_tasks",
        "record_key": "t1",
        "session_id": "s1",
        "reason": "data_rejected",
    }
    assert "bad" not in letter["detail"]
    shown = (await api.get(f"/dead-letters/{refused}")).json()
    record = shown.pop("record")
    assert shown == letter
    assert record | a_task(source_text="bad", event_time="2026-01-31T12:00:00.000000Z") == record


async def test_a_shown_record_can_be_mended_and_sent_back(api: Api, refused: str) -> None:
    record = (await api.get(f"/dead-letters/{refused}")).json()["record"]
    again = await api.post(f"/dead-letters/{refused}/replay")
    assert again.json() == {
        "status": "still_refused",
        "letter_id": refused,
        "reason": "data_rejected",
        "detail": "the database refuses it (error -1)",
    }
    mended = await api.post(f"/dead-letters/{refused}/replay", {**record, "source_text": "good"})
    assert mended.json() == {"status": "replayed", "letter_id": refused, "reason": None, "detail": None}
    task = (await api.get("/tasks/t1")).json()
    assert (task["source_text"], task["event_time"]) == ("good", "2026-01-31T12:00:00Z")
    assert await letters(api) == []
    assert_error(await api.post(f"/dead-letters/{refused}/replay"), 404, "DEAD_LETTER_NOT_FOUND")


async def test_a_letter_is_replayed_without_a_body_in_any_form_of_none(api: Api, refused: str) -> None:
    api.backend.reject(None)
    response = await api.client.post(f"{BASE}/dead-letters/{refused}/replay", content=b"")
    assert response.json()["status"] == "replayed"


async def test_a_correction_may_be_compressed(api: Api, refused: str) -> None:
    body = gzip.compress(msgspec.json.encode(a_task(source_text="good")))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await api.client.post(f"{BASE}/dead-letters/{refused}/replay", content=body, headers=headers)
    assert response.json()["status"] == "replayed"
    assert (await api.get("/tasks/t1")).json()["event_time"] == "2026-01-31T12:00:00Z"


async def test_a_bad_correction_is_told_and_the_letter_stays(api: Api, refused: str) -> None:
    path = f"/dead-letters/{refused}/replay"
    (problem,) = assert_error(await api.post(path, a_task(confidence=3)), 422, "VALIDATION_ERROR")
    assert (problem["index"], problem["field"]) == (None, "confidence")
    for body in (b"{", b"\xff"):
        headers = {"Content-Type": "application/json"}
        response = await api.client.post(BASE + path, content=body, headers=headers)
        assert_error(response, 400, "MALFORMED_BODY")
    text = await api.client.post(BASE + path, content=b"{}", headers={"Content-Type": "text/plain"})
    assert_error(text, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert len(await letters(api)) == 1


async def test_a_letter_is_discarded(api: Api, refused: str) -> None:
    response = await delete(api, f"/dead-letters/{refused}")
    assert (response.status_code, response.json()) == (200, {"status": "discarded", "letter_id": refused})
    assert await letters(api) == []
    assert_error(await delete(api, f"/dead-letters/{refused}"), 404, "DEAD_LETTER_NOT_FOUND")


@pytest.mark.parametrize("letter_id", ["replay", "0" * 32, "..%2Fhead", "%00"])
async def test_an_unknown_letter_is_404_in_every_call(api: Api, refused: str, letter_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/replay")):
        response = await api.client.request(method, f"{BASE}/dead-letters/{letter_id}{path}")
        if response.json()["error_code"] != "HTTP_404":  # an encoded slash makes another address of it
            assert_error(response, 404, "DEAD_LETTER_NOT_FOUND")
        assert response.status_code == 404
    assert len(await letters(api)) == 1


async def test_lists_are_filtered_and_walked(api: Api) -> None:
    refuse_bad(api.backend)
    await api.store(
        [a_session("s1"), a_session("s2")],
        [a_task(f"t{n}", f"s{1 + n % 2}", row_index=n, source_text="bad") for n in range(7)],
    )
    assert len(await letters(api, session_id="s1")) == 4
    assert await letters(api, reason="unknown_session") == []
    assert await letters(api, collection="translation_sessions") == []
    found, cursor = [], None
    while True:
        page = (
            await api.get("/dead-letters", page_size=2, order="asc", **({"cursor": cursor} if cursor else {}))
        ).json()
        found += [letter["record_key"] for letter in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(found) == [f"t{n}" for n in range(7)]
    assert len(found) == 7
    for wrong in ({"page_size": 101}, {"reason": "none"}, {"collection": "x"}, {"page": 2}, {"cursor": "x"}):
        assert_error(await api.get("/dead-letters", **wrong), 422, "VALIDATION_ERROR")


async def test_all_that_match_are_replayed(api: Api) -> None:
    refuse_bad(api.backend)
    await api.store(
        [a_session("s1"), a_session("s2")],
        [a_task(f"t{n}", f"s{1 + n % 2}", row_index=n, source_text="bad") for n in range(6)],
    )
    await delete(api, "/sessions/s2")
    nothing = {"replayed": 0, "dropped": 0, "still_refused": 0}
    dry = await api.post("/dead-letters/replay", session_id="s1", dry_run=True)
    assert dry.json() == {"matched": 3, "dry_run": True, **nothing}
    still = await api.post("/dead-letters/replay", session_id="s1")
    assert still.json() == {"matched": 3, "dry_run": False, **nothing, "still_refused": 3}
    api.backend.reject(None)
    done = await api.post("/dead-letters/replay", reason="data_rejected", collection="translation_tasks")
    assert done.json() == {"matched": 6, "dry_run": False, "replayed": 3, "dropped": 3, "still_refused": 0}
    assert await letters(api) == []
    assert (await api.get("/tasks")).json()["total"] == 3


async def test_letters_that_only_a_file_could_hold_are_listed_all_the_same(api: Api, tmp_path: Path) -> None:
    api.backend.reject(lambda record: getattr(record, "source_text", "") == "bad" or hasattr(record, "letter_id"))
    await api.store([a_session()], [a_task(source_text="bad")])
    (letter,) = await letters(api)
    path = tmp_path / "journal" / DIRECTORY_NAME / f"{letter['letter_id']}.json"
    assert path.exists()
    shown = (await api.get(f"/dead-letters/{letter['letter_id']}")).json()
    assert shown["record"]["source_text"] == "bad"
    api.backend.reject(None)
    assert (await api.post(f"/dead-letters/{letter['letter_id']}/replay")).json()["status"] == "replayed"
    assert not path.exists()
    assert (await api.get("/tasks/t1")).json()["source_text"] == "bad"


async def test_a_damaged_file_is_told_in_the_list_and_shows_nothing_of_the_disk(api: Api, tmp_path: Path) -> None:
    directory = tmp_path / "journal" / DIRECTORY_NAME
    directory.mkdir(exist_ok=True)
    (directory / f"{'a' * 32}.json").write_bytes(b"?")
    listed = (await api.get("/dead-letters")).json()
    assert listed["damaged"] == [{"letter_id": "a" * 32, "detail": "it is not as it was written"}]
    detail = assert_error(await api.get(f"/dead-letters/{'a' * 32}"), 409, "DEAD_LETTER_DAMAGED")
    assert str(tmp_path) not in detail
    assert (await delete(api, f"/dead-letters/{'a' * 32}")).status_code == 200
    assert (await api.get("/dead-letters")).json()["damaged"] == []


async def test_letters_without_the_database_are_503(api: Api, refused: str) -> None:
    api.backend.go_away(AWAY)
    for method, path in (
        ("GET", "/dead-letters"),
        ("GET", f"/dead-letters/{refused}"),
        ("POST", f"/dead-letters/{refused}/replay"),
        ("POST", "/dead-letters/replay"),
        ("DELETE", f"/dead-letters/{refused}"),
    ):
        assert_error(await api.client.request(method, BASE + path), 503, "STORAGE_UNAVAILABLE")
    api.backend.come_back()
    assert len(await letters(api)) == 1


@pytest.mark.parametrize(
    "call",
    [
        ("POST", "/flush"),
        ("POST", "/sessions/cleanup"),
        ("POST", "/dead-letters/replay"),
        ("POST", "/recovery/restore/s1"),
        ("DELETE", "/sessions/s1"),
    ],
)
async def test_a_body_where_none_is_taken_is_refused_and_not_ignored(api: Api, call: tuple[str, str]) -> None:
    await api.store([a_session("s1")])
    method, path = call
    response = await api.client.request(method, BASE + path, json={"completed_days": 0})
    (problem,) = assert_error(response, 422, "VALIDATION_ERROR")
    assert problem["field"] == "body"
    assert (await api.get("/sessions/s1")).status_code == 200

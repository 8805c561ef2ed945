"""Hostile input, one line each: its answer by section 5 of the contract, and a service that is well afterwards.

What is hostile below HTTP's surface (heads, lengths, slow and leaving clients) is in tests/e2e/test_hostile_transport.py.
"""

from __future__ import annotations

import gzip
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.api.conftest import BASE, Api, Json, a_session, a_task, assert_error

JSON = {"content-type": "application/json"}
SESSIONS, TASKS = f"{BASE}/sessions/batch", f"{BASE}/tasks/batch"
BATCH = json.dumps({"sessions": [a_session()]}).encode()
MIB = 1024 * 1024

MALFORMED = (400, "MALFORMED_BODY")
MEDIA = (415, "UNSUPPORTED_MEDIA_TYPE")
LARGE = (413, "PAYLOAD_TOO_LARGE")
INVALID = (422, "VALIDATION_ERROR")
FORBIDDEN = (403, "FORBIDDEN")


@pytest.fixture
async def hostile(api: Api) -> AsyncIterator[Api]:
    """A service that must keep nothing of a test, log no failure, and be well afterwards."""
    with capture_logs() as logs:
        yield api
    assert [log["event"] for log in logs if log["log_level"] in ("error", "critical")] == []
    assert (await api.get("/sessions", fresh=True)).json()["total"] == 0
    assert (await api.get("/tasks", fresh=True)).json()["total"] == 0
    assert (await api.client.get("/health")).json()["status"] == "healthy"
    await api.store([a_session()], [a_task()])
    assert (await api.get("/tasks/t1")).json()["task_id"] == "t1"


def session_with(**fields: Json) -> bytes:
    return json.dumps({"sessions": [a_session(**fields)]}).encode()


def task_with(**fields: Json) -> bytes:
    return json.dumps({"tasks": [a_task(**fields)]}).encode()


def raw_task(field: str, value: str) -> bytes:
    """A task one field of which is written just so."""
    return json.dumps({"tasks": [a_task(**{field: "@"})]}).encode().replace(b'"@"', value.encode())


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


BODIES: dict[str, tuple[str, Callable[[], bytes], dict[str, str], tuple[int, str]]] = {
    # ----- what is no JSON
    "not JSON": (SESSIONS, lambda: b"hello", JSON, MALFORMED),
    "cut short": (SESSIONS, lambda: BATCH[:-1], JSON, MALFORMED),
    "two values": (SESSIONS, lambda: BATCH + BATCH, JSON, MALFORMED),
    "empty body": (SESSIONS, lambda: b"", JSON, MALFORMED),
    "blank body": (SESSIONS, lambda: b" \n", JSON, MALFORMED),
    "NaN": (TASKS, lambda: raw_task("confidence", "NaN"), JSON, MALFORMED),
    "Infinity": (TASKS, lambda: raw_task("confidence", "Infinity"), JSON, MALFORMED),
    "-Infinity": (SESSIONS, lambda: session_with(metadata={"a": float("-inf")}), JSON, MALFORMED),
    "invalid UTF-8": (SESSIONS, lambda: BATCH.replace(b"items", b"\xff\xfe"), JSON, MALFORMED),
    "a surrogate in UTF-8": (SESSIONS, lambda: BATCH.replace(b"items", b"\xed\xa0\x80"), JSON, MALFORMED),
    "UTF-16": (SESSIONS, lambda: BATCH.decode().encode("utf-16"), JSON, MALFORMED),
    "lone surrogate in an id": (TASKS, lambda: raw_task("task_id", '"\\ud800"'), JSON, MALFORMED),
    "lone surrogate in a text": (TASKS, lambda: raw_task("source_text", '"a\\udc00b"'), JSON, MALFORMED),
    "lone surrogate in JSON": (SESSIONS, lambda: session_with(metadata={"a": "\ud800"}), JSON, MALFORMED),
    "200,000 brackets": (SESSIONS, lambda: b"[" * 200_000, JSON, MALFORMED),
    "200,000 nested arrays": (SESSIONS, lambda: b"[" * 200_000 + b"]" * 200_000, JSON, MALFORMED),
    "200,000 nested objects": (
        SESSIONS,
        lambda: BATCH[:-3] + b',"metadata":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}]}",
        JSON,
        MALFORMED,
    ),
    # ----- JSON that is no batch
    "null": (SESSIONS, lambda: b"null", JSON, INVALID),
    "an array": (SESSIONS, lambda: b"[]", JSON, INVALID),
    "no field": (SESSIONS, lambda: b"{}", JSON, INVALID),
    "the other batch": (TASKS, lambda: BATCH, JSON, INVALID),
    "a field beside the items": (SESSIONS, lambda: BATCH[:-1] + b',"x":1}', JSON, INVALID),
    "items that are no objects": (SESSIONS, lambda: b'{"sessions":[1,null,"x",[]]}', JSON, INVALID),
    # ----- wrong fields
    "missing field": (TASKS, lambda: task_with().replace(b'"task_id"', b'"taskid"'), JSON, INVALID),
    "unknown field": (TASKS, lambda: task_with(sorce_text="x"), JSON, INVALID),
    "number for text": (TASKS, lambda: task_with(source_text=1), JSON, INVALID),
    "text for number": (TASKS, lambda: task_with(row_index="1"), JSON, INVALID),
    "true for number": (TASKS, lambda: task_with(row_index=True), JSON, INVALID),
    "null for a required text": (TASKS, lambda: task_with(source_text=None), JSON, INVALID),
    "list for object": (SESSIONS, lambda: session_with(metadata=[]), JSON, INVALID),
    "unknown status": (TASKS, lambda: task_with(status="done"), JSON, INVALID),
    "empty id": (TASKS, lambda: task_with(task_id=""), JSON, INVALID),
    "blank id": (TASKS, lambda: task_with(task_id=" "), JSON, INVALID),
    "overlong id": (TASKS, lambda: task_with(task_id="x" * 65), JSON, INVALID),
    "id of a megabyte": (TASKS, lambda: task_with(task_id="x" * MIB), JSON, INVALID),
    "overlong session id": (SESSIONS, lambda: session_with(session_id="x" * 37), JSON, INVALID),
    "id that is a step of a path": (TASKS, lambda: task_with(task_id=".."), JSON, INVALID),
    "U+0000 in an id": (TASKS, lambda: task_with(task_id="a\0b"), JSON, INVALID),
    "U+0000 in a session id": (SESSIONS, lambda: session_with(session_id="\0"), JSON, INVALID),
    "integer over 32 bits": (TASKS, lambda: task_with(row_index=2**31), JSON, INVALID),
    "integer over 64 bits": (TASKS, lambda: task_with(row_index=2**64), JSON, INVALID),
    "integer of 5,000 digits": (TASKS, lambda: raw_task("row_index", "9" * 5000), JSON, INVALID),
    "integer of 5,000 digits in JSON": (SESSIONS, lambda: raw_session("9" * 5000), JSON, INVALID),
    "integer over 64 bits in JSON": (SESSIONS, lambda: session_with(metadata={"a": 2**63}), JSON, INVALID),
    "number over doubles": (SESSIONS, lambda: raw_session("1e999"), JSON, INVALID),
    "number over doubles for a share": (TASKS, lambda: raw_task("confidence", "1e999"), JSON, INVALID),
    "a share over 1": (TASKS, lambda: task_with(confidence=1.01), JSON, INVALID),
    "31 levels": (SESSIONS, lambda: session_with(metadata=nested(31)), JSON, INVALID),
    "JSON over 256 KiB": (SESSIONS, lambda: session_with(metadata={"a": "x" * 262_144}), JSON, INVALID),
    "a text over 1 MiB": (TASKS, lambda: task_with(source_text="x" * (MIB + 1)), JSON, INVALID),
    "29 February of no leap year": (TASKS, lambda: task_with(start_time="2026-02-29T00:00:00Z"), JSON, INVALID),
    "31 April": (TASKS, lambda: task_with(event_time="2026-04-31T00:00:00Z"), JSON, INVALID),
    "25 o'clock": (TASKS, lambda: task_with(event_time="2026-01-01T25:00:00Z"), JSON, INVALID),
    "the year 0": (TASKS, lambda: task_with(event_time="0000-01-01T00:00:00Z"), JSON, INVALID),
    "a leap second": (TASKS, lambda: task_with(event_time="2016-12-31T23:59:60Z"), JSON, INVALID),
    "a number for a time": (TASKS, lambda: task_with(event_time=1_790_000_000), JSON, INVALID),
    "a time to come": (TASKS, lambda: task_with(event_time="9999-12-31T23:59:59Z"), JSON, INVALID),
    "one bad item of many": (
        TASKS,
        lambda: json.dumps({"tasks": [a_task(f"t{n}") for n in range(500)] + [a_task("")]}).encode(),
        JSON,
        INVALID,
    ),
    # ----- too much
    "10,001 items": (TASKS, lambda: json.dumps({"tasks": [a_task()] * 10_001}).encode(), JSON, LARGE),
    "10,001 bad items": (TASKS, lambda: json.dumps({"tasks": [{}] * 10_001}).encode(), JSON, LARGE),
    "33 MiB": (SESSIONS, lambda: BATCH.ljust(33 * MIB), JSON, LARGE),
    "gzip bomb": (SESSIONS, lambda: gzip.compress(b" " * 400 * MIB, 1), {**JSON, "content-encoding": "gzip"}, LARGE),
    # ----- other media
    "bad gzip": (SESSIONS, lambda: b"\x1f\x8bxxxx", {**JSON, "content-encoding": "gzip"}, MALFORMED),
    "gzip cut short": (SESSIONS, lambda: gzip.compress(BATCH)[:-1], {**JSON, "content-encoding": "gzip"}, MALFORMED),
    "no gzip at all": (SESSIONS, lambda: BATCH, {**JSON, "content-encoding": "gzip"}, MALFORMED),
    "unknown encoding": (SESSIONS, lambda: BATCH, {**JSON, "content-encoding": "br"}, MEDIA),
    "gzip twice": (SESSIONS, lambda: BATCH, {**JSON, "content-encoding": "gzip, gzip"}, MEDIA),
    "text": (SESSIONS, lambda: BATCH, {"content-type": "text/plain"}, MEDIA),
    "no content type": (SESSIONS, lambda: BATCH, {}, MEDIA),
    "a form": (SESSIONS, lambda: b"sessions=1", {"content-type": "application/x-www-form-urlencoded"}, MEDIA),
    "a form with a file": (SESSIONS, lambda: BATCH, {"content-type": "multipart/form-data; boundary=x"}, MEDIA),
    "JSON in UTF-16 by name": (SESSIONS, lambda: BATCH, {"content-type": "application/json; charset=utf-16"}, MEDIA),
    # ----- who may not
    "foreign origin": (SESSIONS, lambda: BATCH, {**JSON, "origin": "https://evil.example"}, FORBIDDEN),
    "no origin to speak of": (SESSIONS, lambda: BATCH, {**JSON, "origin": "null"}, FORBIDDEN),
    "another site": (SESSIONS, lambda: BATCH, {**JSON, "sec-fetch-site": "cross-site"}, FORBIDDEN),
    "wrong host": (SESSIONS, lambda: BATCH, {**JSON, "host": "evil.example"}, FORBIDDEN),
}


def raw_session(number: str) -> bytes:
    return session_with(metadata={"a": "@"}).replace(b'"@"', number.encode())


@pytest.mark.parametrize("name", BODIES)
async def test_a_hostile_batch_is_refused_as_the_contract_says(hostile: Api, name: str) -> None:
    path, body, headers, (status, code) = BODIES[name]
    response = await hostile.client.post(path, content=body(), headers=headers)
    detail = assert_error(response, status, code)
    if status == 422:
        assert all(set(problem) == {"index", "field", "reason"} and problem["reason"] for problem in detail)
    assert len(response.content) < 2000


def cursor(*content: object) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(content)).rstrip(b"=").decode()


QUERIES = {
    "SQL in an order": "/sessions?sort_by=1;DROP TABLE x",
    "SQL in a direction": "/sessions?order=desc;--",
    "a column that is none of the orders": "/sessions?sort_by=metadata",
    "page 0": "/sessions?page=0",
    "page -1": "/tasks?page=-1",
    "page 1.5": "/tasks?page=1.5",
    "page of 5,000 digits": "/tasks?page=" + "9" * 5000,
    "page in other digits": "/tasks?page=٣x",
    "page too deep": "/tasks?page=100001",
    "page_size 0": "/tasks?page_size=0",
    "page_size 101": "/tasks?page_size=101",
    "unknown parameter": "/tasks?pagesize=1",
    "parameter twice": "/tasks?page=1&page=2",
    "unknown status": "/tasks?status=done",
    "30 February": "/sessions?from_date=2026-02-30",
    "month 13": "/sessions?to_date=2026-13-01T00:00:00Z",
    "year 10000": "/sessions?to_date=10000-01-01",
    "no date": "/sessions?from_date=yesterday",
    "made-up cursor": "/sessions?cursor=AAAA",
    "cursor of no alphabet": "/sessions?cursor=../../etc/passwd",
    "cursor of no list": "/sessions?cursor=" + cursor(b"x" * 8, ["a"]),
    "cursor of wrong types": "/sessions?cursor=" + cursor(b"x" * 8, [{}, None]),
    "cursor of 7,000 characters": "/sessions?cursor=" + "A" * 7000,
    "empty cursor": "/sessions?cursor=",
    "overlong filter": "/sessions?filename=" + "x" * 256,
    "not UTF-8": "/sessions?filename=%ff",
    "not UTF-8 in an id": "/tasks/%ff",
    "limit 0": "/recovery/incomplete-sessions?limit=0",
    "endless idleness": "/recovery/incomplete-sessions?idle_seconds=inf",
    "idleness that is none": "/recovery/incomplete-sessions?idle_seconds=nan",
}


@pytest.mark.parametrize("name", QUERIES)
async def test_a_hostile_query_is_422_with_the_parameter_named(hostile: Api, name: str) -> None:
    detail = assert_error(await hostile.client.get(BASE + QUERIES[name]), *INVALID)
    assert detail[0]["field"] == ("" if "not UTF-8" in name else QUERIES[name].partition("?")[2].partition("=")[0])


async def test_a_cursor_of_other_filters_or_another_order_is_refused(api: Api) -> None:
    await api.store([a_session(f"s{number}") for number in range(3)])
    given = (await api.get("/sessions", page_size=1)).json()["next_cursor"]
    for other in ({"order": "asc"}, {"sort_by": "filename"}, {"status": "failed"}, {"filename": "x"}):
        assert_error(await api.get("/sessions", cursor=given, **other), *INVALID)
    assert_error(await api.get("/tasks", cursor=given), *INVALID)
    for position in range(len(given)):
        changed = given[:position] + ("A" if given[position] != "A" else "B") + given[position + 1 :]
        assert (await api.get("/sessions", page_size=1, cursor=changed)).status_code in (200, 422)
    assert (await api.get("/sessions", page_size=1, cursor=given)).json()["items"]


@pytest.mark.parametrize(
    "task_id",
    ["a/b", "a?b", "a#b", "a%b", "%2F", "/", "?", "#", "%", "//", "a//b", "a/../b", "a b", "'; --", "\u202ex"],
)
async def test_an_id_of_any_characters_works_in_its_address(api: Api, task_id: str) -> None:
    await api.store([a_session()], [a_task(task_id)])
    assert (await api.client.get(f"{BASE}/tasks/{quote(task_id, safe='')}")).json()["task_id"] == task_id
    assert_error(await api.client.get(f"{BASE}/tasks/{quote(task_id + 'x', safe='')}"), 404, "TASK_NOT_FOUND")


@pytest.mark.parametrize("text", ["\0", "a\0b\0", "\u2028\ufffe\uffff", "\U0010ffff", "e\u0301", "\r\n", ""])
async def test_any_text_comes_back_identical(api: Api, text: str) -> None:
    await api.store([a_session(filename=text, metadata={text: [text]})], [a_task(source_text=text, sheet_name=text)])
    task, session = (await api.get("/tasks/t1")).json(), (await api.get("/sessions/s1")).json()
    assert (task["source_text"], task["sheet_name"]) == (text, text)
    assert (session["filename"], session["metadata"]) == (text, {text: [text]})


async def test_a_page_of_another_site_reads_nothing_of_the_api_either(hostile: Api) -> None:
    for page in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"sec-fetch-site": "same-site"}):
        for path in ("/sessions?fresh=true", "/tasks", "/recovery/incomplete-sessions"):
            assert_error(await hostile.client.get(BASE + path, headers=page), *FORBIDDEN)
    own = {"sec-fetch-site": "same-origin"}
    assert (await hostile.client.get(f"{BASE}/sessions?fresh=true", headers=own)).status_code == 200

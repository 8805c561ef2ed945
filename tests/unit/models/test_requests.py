"""From a body to its items: what is taken, and how each mistake is named."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from persistence_service.errors import FieldProblem, MalformedBody, PayloadTooLarge, ValidationFailed
from persistence_service.models.limits import MAX_DURATION_MS, MAX_INT, Limits
from persistence_service.models.requests import SESSION_PARSER, TASK_PARSER
from persistence_service.models.session import SessionRequest
from persistence_service.models.task import TaskRequest

LIMITS = Limits()
NOW_US = 1_790_000_000_000_000
TASK: dict[str, Any] = {
    "task_id": "t",
    "session_id": "s",
    "batch_id": "b",
    "sheet_name": "Sheet1",
    "row_index": 0,
    "column_name": "A",
    "source_text": "x",
    "status": "pending",
}
SESSION: dict[str, Any] = {
    "session_id": "s",
    "filename": "f",
    "file_path": "p",
    "status": "pending",
    "llm_provider": "x",
}


def tasks(*items: dict[str, Any]) -> list[TaskRequest]:
    return TASK_PARSER.parse(msgspec.json.encode({"tasks": items}), LIMITS, NOW_US)


def sessions(*items: dict[str, Any]) -> list[SessionRequest]:
    return SESSION_PARSER.parse(msgspec.json.encode({"sessions": items}), LIMITS, NOW_US)


def problems(*items: dict[str, Any]) -> tuple[FieldProblem, ...]:
    with pytest.raises(ValidationFailed) as caught:
        sessions(*items) if "filename" in items[0] else tasks(*items)
    return caught.value.problems


def without(item: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != field}


def test_what_is_optional_has_its_default() -> None:
    (task,) = tasks(TASK)
    assert (task.target_text, task.retry_count, task.confidence, task.event_time) == (None, 0, None, None)
    (session,) = sessions(SESSION)
    assert (session.total_tasks, session.processing_tasks, session.event_time) == (0, 0, None)
    assert bytes(cast("msgspec.Raw", session.game_info)) == b"null"


def test_an_empty_batch_is_a_batch() -> None:
    assert tasks() == []
    assert sessions() == []


@pytest.mark.parametrize("field", TASK)
def test_a_missing_field_of_a_task_is_named(field: str) -> None:
    assert problems(TASK, without(TASK, field)) == (FieldProblem(1, field, "is required"),)


@pytest.mark.parametrize("field", SESSION)
def test_a_missing_field_of_a_session_is_named(field: str) -> None:
    if field != "filename":
        assert problems(SESSION, without(SESSION, field)) == (FieldProblem(1, field, "is required"),)


def test_an_unknown_field_is_named() -> None:
    assert problems({**TASK, "sorce_text": "x"}) == (FieldProblem(0, "sorce_text", "is not a known field"),)
    assert problems({**SESSION, "x" * 5000: 1}) == (FieldProblem(0, "x" * 200, "is not a known field"),)


@pytest.mark.parametrize("field, longest", [("task_id", 64), ("batch_id", 64), ("session_id", 36)])
def test_ids_are_measured_in_code_points(field: str, longest: int) -> None:
    assert getattr(tasks({**TASK, field: "😀" * longest})[0], field) == "😀" * longest
    assert problems({**TASK, field: "😀" * (longest + 1)})[0].field == field
    assert problems({**TASK, field: ""})[0].field == field


@pytest.mark.parametrize("field, longest", [("sheet_name", 255), ("column_name", 255)])
def test_names_of_tasks_are_any_text_up_to_their_length(field: str, longest: int) -> None:
    for name in ("", " a\r\n\tb ", "\0", "😀" * longest):
        assert getattr(tasks({**TASK, field: name})[0], field) == name
    assert problems({**TASK, field: "x" * (longest + 1)})[0].field == field


@pytest.mark.parametrize("field, longest", [("filename", 255), ("file_path", 512), ("llm_provider", 50)])
def test_names_of_sessions_are_any_text_up_to_their_length(field: str, longest: int) -> None:
    for name in ("", "\n", "\0", "界" * longest):
        assert getattr(sessions({**SESSION, field: name})[0], field) == name
    assert problems({**SESSION, field: "x" * (longest + 1)})[0].field == field


@pytest.mark.parametrize(
    "task_id",
    [
        "a b",
        "...",
        ".a",
        "a/b?c#d%e\\",
        "é",
        "e\u0301",
        "😀",
        "Ｔ1",
        "a\u200bb",
        "%2F",
        "..a",
        "null",
        "'; --",
        "\ufeff",
    ],
)
def test_ids_may_be_any_text_else(task_id: str) -> None:
    assert tasks({**TASK, "task_id": task_id})[0].task_id == task_id


@pytest.mark.parametrize("field", ["task_id", "batch_id", "session_id"])
@pytest.mark.parametrize(
    "text",
    [
        " a",
        "a ",
        "a\n",
        "\ta",
        "a\u3000",
        "\u00a0a",
        "a\u2028",
        "a\0b",
        "\0",
        "a\nb",
        "a\x1fb",
        "a\x7fb",
        "a\x85b",
        ".",
        "..",
    ],
)
def test_ids_have_no_blanks_at_their_ends_no_control_characters_and_are_not_dots(field: str, text: str) -> None:
    (problem,) = problems({**TASK, field: text})
    assert problem.field == field
    assert problem.reason.startswith("must have no white space at its ends")
    assert "regex" not in problem.reason


def test_a_session_id_has_no_slash() -> None:
    assert "no '/'" in problems({**TASK, "session_id": "a/b"})[0].reason
    assert "no '/'" in problems({**SESSION, "session_id": "a/b"})[0].reason


@pytest.mark.parametrize(
    "field, largest", [("row_index", MAX_INT), ("retry_count", MAX_INT), ("duration_ms", MAX_DURATION_MS)]
)
def test_integers_have_their_range(field: str, largest: int) -> None:
    assert getattr(tasks({**TASK, field: largest})[0], field) == largest
    assert getattr(tasks({**TASK, field: 0})[0], field) == 0
    refused: list[object] = [largest + 1, 10**30, 2**64, -1, 1.5, "1", True, [], None]
    for wrong in refused:
        if (field, wrong) != ("duration_ms", None):
            body = b'{"tasks":[' + msgspec.json.encode(TASK)[:-1] + f',"{field}":{json(wrong)}'.encode() + b"}]}"
            with pytest.raises(ValidationFailed) as caught:
                TASK_PARSER.parse(body, LIMITS, NOW_US)
            assert [(p.index, p.field) for p in caught.value.problems] == [(0, field)]


@pytest.mark.parametrize("written", ["3.0", "3.000", "3e0", "0.3e1", "30E-1"])
def test_a_whole_number_is_one_however_it_is_written(written: str) -> None:
    wrong = tasks({**TASK, "task_id": "other"})[0]
    fields = ("row_index", "retry_count", "duration_ms")
    body = json({"tasks": [TASK, {**TASK, **dict.fromkeys(fields, "@")}]}).replace('"@"', written).encode()
    plain, task = TASK_PARSER.parse(body, LIMITS, NOW_US)
    assert plain == tasks(TASK)[0] != wrong
    assert [(type(getattr(task, field)), getattr(task, field)) for field in fields] == [(int, 3)] * 3


@pytest.mark.parametrize("written", ["1e999", "1e300", "-1.0", "0.5", "2147483648.0", "9007199254740992.0"])
def test_a_number_that_is_not_whole_or_out_of_range_is_refused_however_it_is_written(written: str) -> None:
    for field in ("row_index", "duration_ms"):
        if (field, written) != ("duration_ms", "2147483648.0"):
            body = json({"tasks": [TASK, {**TASK, field: "@"}]}).replace('"@"', written).encode()
            with pytest.raises(ValidationFailed) as caught:
                TASK_PARSER.parse(body, LIMITS, NOW_US)
            assert [(p.index, p.field) for p in caught.value.problems] == [(1, field)]


def test_json_beside_a_whole_number_stays_as_it_was_sent() -> None:
    for sent in (None, {}, {"a": [1.0, 2**63 - 1, "\0"]}):
        (session,) = sessions({**SESSION, "total_tasks": 3.0, "metadata": sent})
        assert (session.total_tasks, msgspec.json.decode(cast("msgspec.Raw", session.metadata))) == (3, sent)
    assert sessions({**SESSION, "total_tasks": 3.0})[0].total_tasks == 3


def test_a_whole_number_elsewhere_in_an_item_does_not_hide_what_is_wrong_with_it() -> None:
    assert problems({**TASK, "row_index": 3.0, "x": 1}) == (FieldProblem(0, "x", "is not a known field"),)
    assert problems({**TASK, "row_index": 3.0, "task_id": ""})[0].field == "task_id"
    assert problems({**TASK, "row_index": 3.0, "start_time": "x"})[0].field == "start_time"


def json(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else msgspec.json.encode(value).decode()


def test_a_confidence_is_between_0_and_1() -> None:
    assert tasks({**TASK, "confidence": 1})[0].confidence == 1.0
    refused: list[object] = [-0.0001, 1.0001, "0.5"]
    for wrong in refused:
        assert problems({**TASK, "confidence": wrong})[0].field == "confidence"


def test_a_wrong_status_is_answered_with_those_there_are_and_not_repeated() -> None:
    for wrong in ("done", "Pending", "", "x" * 100_000):
        (problem,) = problems({**TASK, "status": wrong})
        assert problem == FieldProblem(0, "status", "must be one of pending, processing, failed, cancelled, completed")


def test_json_stays_as_it_was_sent_until_it_is_accepted() -> None:
    (session,) = sessions({**SESSION, "game_info": None, "metadata": {"a": [1]}})
    assert bytes(cast("msgspec.Raw", session.game_info)) == b"null"
    assert bytes(cast("msgspec.Raw", session.metadata)) == b'{"a":[1]}'
    assert session.__struct_fields__ == SessionRequest.__struct_fields__


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b'{"tasks":[]} x',
        b'{"tasks":[],}',
        b"{'tasks':[]}",
        b'\xef\xbb\xbf{"tasks":[]}',
        '{"tasks":[]}'.encode("utf-16"),
        b'{"tasks":[{"confidence":NaN}]}',
        b'{"tasks":[{"confidence":Infinity}]}',
        b'{"tasks":[{"task_id":"\xff"}]}',
        b'{"tasks":[{"task_id":"\xed\xa0\x80"}]}',
        b'{"tasks":[{"task_id":"\\ud800"}]}',
        b'{"tasks":[{"unknown":"\\ud800"}]}',
        b'{"tasks":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"tasks":[{"task_id":"\n"}]}',
    ],
)
def test_a_body_that_is_not_json_in_utf_8_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        TASK_PARSER.parse(body, LIMITS, NOW_US)


@pytest.mark.parametrize(
    "body, field",
    [
        (b"[]", ""),
        (b"null", ""),
        (b"1", ""),
        (b"{}", "tasks"),
        (b'{"tasks":null}', "tasks"),
        (b'{"tasks":[],"x":1}', "x"),
    ],
)
def test_json_that_is_no_batch_is_named_without_an_index(body: bytes, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        TASK_PARSER.parse(body, LIMITS, NOW_US)
    assert [(problem.index, problem.field) for problem in caught.value.problems] == [(None, field)]


def test_an_item_that_is_no_object_is_named() -> None:
    with pytest.raises(ValidationFailed) as caught:
        TASK_PARSER.parse(b'{"tasks":[1,[]]}', LIMITS, NOW_US)
    assert [(problem.index, problem.field) for problem in caught.value.problems] == [(0, ""), (1, "")]


def test_every_bad_item_is_named_up_to_the_first_hundred() -> None:
    bad = {**TASK, "row_index": -1}
    found = problems(*[TASK, bad] * 20)
    assert [problem.index for problem in found] == list(range(1, 40, 2))
    found = problems(*[TASK, bad] * 150)
    assert [problem.index for problem in found] == list(range(1, 200, 2))


def test_a_batch_has_a_bound_on_its_items_right_or_wrong() -> None:
    limits = Limits(max_batch_items=3)
    body = msgspec.json.encode({"tasks": [TASK] * 4})
    with pytest.raises(PayloadTooLarge):
        TASK_PARSER.parse(body, limits, NOW_US)
    with pytest.raises(PayloadTooLarge):
        TASK_PARSER.parse(body.replace(b"pending", b"nothing", 1), limits, NOW_US)
    assert len(TASK_PARSER.parse(msgspec.json.encode({"tasks": [TASK] * 3}), limits, NOW_US)) == 3


def test_what_is_wrong_by_type_and_what_is_wrong_by_rule_is_named_together() -> None:
    found = problems(
        TASK | {"row_index": "7"},
        TASK,
        TASK | {"start_time": "yesterday"},
        TASK | {"event_time": "2026-09-21T14:30:00Z"},
        TASK | {"source_text": "é" * 600_000},
    )
    assert [(problem.index, problem.field) for problem in found] == [
        (0, "row_index"),
        (2, "start_time"),
        (3, "event_time"),
        (4, "source_text"),
    ]


def test_sessions_are_held_against_both_kinds_of_rules_too() -> None:
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"a": deep}
    with pytest.raises(ValidationFailed) as caught:
        sessions(SESSION | {"status": "gone"}, SESSION | {"game_info": deep}, SESSION)
    assert [(problem.index, problem.field) for problem in caught.value.problems] == [(0, "status"), (1, "game_info")]

"""From items to records: rounding, times, bounds on texts and JSON, stamps and digests."""

# ruff: noqa: ANN401  # tests pass values of any field, right and wrong ones

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.errors import FieldProblem, ValidationFailed
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks, round_confidence
from persistence_service.models.digest import DIGEST_BYTES, canonical_json, digest_of
from persistence_service.models.limits import MAX_JSON_BYTES, Limits
from persistence_service.models.session import Session, SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import Task, TaskRequest
from persistence_service.models.times import format_time, from_micros, to_micros

NOW = 1_770_000_000_000_000
ACCEPTANCE = Acceptance(stamp_us=NOW, now_us=NOW)
LIMITS = Limits()


def task_request(**fields: Any) -> TaskRequest:
    plain: dict[str, Any] = {"task_id": "t", "session_id": "s", "batch_id": "b", "sheet_name": "S", "row_index": 0}
    plain |= {"column_name": "A", "source_text": "x", "status": Status.PENDING}
    return TaskRequest(**{**plain, **fields})


def session_request(**fields: Any) -> SessionRequest:
    plain: dict[str, Any] = {"session_id": "s", "filename": "f", "file_path": "p", "status": Status.PENDING}
    return SessionRequest(**{**plain, "llm_provider": "x", **fields})


def task(**fields: Any) -> Task:
    return accept_tasks([task_request(**fields)], ACCEPTANCE, LIMITS)[0]


def session(**fields: Any) -> Session:
    return accept_sessions([session_request(**fields)], ACCEPTANCE, LIMITS)[0]


def problem(limits: Limits = LIMITS, /, **fields: Any) -> FieldProblem:
    with pytest.raises(ValidationFailed) as caught:
        _accept(limits, fields)
    (found,) = caught.value.problems
    assert found.index == 0
    return found


def _accept(limits: Limits, fields: dict[str, Any]) -> None:
    if "game_info" in fields or "metadata" in fields:
        accept_sessions([session_request(**fields)], ACCEPTANCE, limits)
    else:
        accept_tasks([task_request(**fields)], ACCEPTANCE, limits)


@pytest.mark.parametrize(
    "value, rounded",
    [
        (0.12345, 0.1234),
        (0.12335, 0.1234),
        (0.12355, 0.1236),
        (0.00005, 0.0),
        (0.00015, 0.0002),
        (0.00025, 0.0002),
        (0.123450001, 0.1235),
        (0.99995, 1.0),
        (0.1 + 0.2, 0.3),
        (1e-300, 0.0),
        (-0.0, 0.0),
        (0.0, 0.0),
        (1.0, 1.0),
        (1, 1.0),
    ],
)
def test_a_confidence_is_rounded_half_to_even_as_its_digits_read(value: float, rounded: float) -> None:
    found = task(confidence=value).confidence
    assert found == rounded
    assert str(found) == str(float(rounded))  # 0.0, never -0.0


@given(value=st.floats(0, 1))
def test_rounding_a_confidence_is_what_decimal_does_and_is_idempotent(value: float) -> None:
    rounded = round_confidence(value)
    assert Decimal(repr(rounded)) == Decimal(repr(value)).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)
    assert round_confidence(rounded) == rounded


def test_records_without_event_time_are_stamped_in_order_of_the_array() -> None:
    records = accept_tasks([task_request(task_id=str(n)) for n in range(3)], ACCEPTANCE, LIMITS)
    assert [to_micros(record.event_time) for record in records] == [NOW, NOW + 1, NOW + 2]
    assert [record.created_at for record in records] == [record.event_time for record in records]
    assert [record.updated_at for record in records] == [record.event_time for record in records]


def test_a_given_event_time_is_kept_and_the_stamp_is_when_it_was_accepted() -> None:
    record = task(event_time="2020-01-01T00:00:00.1234567+01:00")
    assert format_time(record.event_time) == "2019-12-31T23:00:00.123456Z"
    assert to_micros(record.created_at) == to_micros(record.updated_at) == NOW


def test_an_event_time_may_be_ahead_by_the_allowed_skew_and_no_more() -> None:
    latest = from_micros(NOW + LIMITS.max_clock_skew_us)
    assert task(event_time=format_time(latest)).event_time == latest
    found = problem(event_time=format_time(from_micros(NOW + LIMITS.max_clock_skew_us + 1)))
    assert (found.field, "max_clock_skew" in found.reason) == ("event_time", True)


@pytest.mark.parametrize("field", ["start_time", "end_time", "event_time"])
def test_a_bad_time_is_named(field: str) -> None:
    found = problem(**{field: "yesterday"})
    assert (found.field, found.reason.startswith("must be an RFC 3339 time")) == (field, True)


@pytest.mark.parametrize("field", ["source_text", "target_text", "context", "error_message"])
def test_texts_are_bounded_in_bytes_of_utf_8(field: str) -> None:
    for text in ("x" * 1024 * 1024, "ü" * 512 * 1024, "😀" * 256 * 1024, "\0" * 1024 * 1024):
        assert getattr(task(**{field: text}), field) == text
        assert problem(**{field: text + "x"}).field == field


def test_a_record_is_bounded_as_a_whole() -> None:
    limits = Limits(max_text_bytes=3 * 1024 * 1024)
    found = problem(limits, source_text="x" * 3_000_000, target_text="x" * 3_000_000)
    assert (found.field, "the record is longer" in found.reason) == ("", True)


def nested_objects(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def nested_arrays(levels: int) -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize("field", ["game_info", "metadata"])
@pytest.mark.parametrize("nested", [nested_objects, nested_arrays])
def test_json_has_at_most_30_levels(field: str, nested: Any) -> None:
    assert getattr(session(**{field: nested(30)}), field) == canonical_json(nested(30)).decode()
    found = problem(**{field: nested(31)})
    assert (found.field, "30 levels" in found.reason) == (field, True)


def test_json_is_bounded_in_bytes_of_its_canonical_form() -> None:
    fits = {"a": "x" * (MAX_JSON_BYTES - len('{"a":""}'))}
    assert len(str(session(metadata=fits).metadata)) == MAX_JSON_BYTES
    assert problem(metadata={"a": fits["a"] + "x"}).field == "metadata"
    assert problem(game_info={"a": "ü" * (MAX_JSON_BYTES // 2)}).field == "game_info"


def test_numbers_of_json_are_int64_or_finite() -> None:
    good = {"a": 2**63 - 1, "b": -(2**63), "c": 1e308, "d": [0.1]}
    assert msgspec.json.decode(str(session(metadata=good).metadata)) == good
    for wrong in ("9223372036854775808", "-9223372036854775809", "1" + "0" * 30, "1" + "0" * 5000, "1e999"):
        assert problem(metadata=msgspec.Raw(b'{"a":[{"b":%s}]}' % wrong.encode())).field == "metadata"
    text = {
        "12345678901234567890": '"\\":[{-98765432109876543210',
        "a": 12345678901234567890.0,
        "b": 1.2345678901234567891e-7,
    }
    assert msgspec.json.decode(str(session(metadata=text).metadata)) == text


@pytest.mark.parametrize("sent", ["[]", '"{}"', "1", "true"])
def test_json_is_an_object_or_null(sent: str) -> None:
    assert problem(metadata=msgspec.Raw(sent.encode())).reason == "must be an object or null"
    assert session(metadata=msgspec.Raw(b" null ")).metadata is None


def test_json_as_sent_may_be_longer_than_its_canonical_form_but_not_without_bound() -> None:
    spaced = msgspec.Raw(b'{"a":' + b" " * MAX_JSON_BYTES + b'"' + rb"\u0041" * 1000 + b'"}')
    assert session(metadata=spaced).metadata == '{"a":"' + "A" * 1000 + '"}'
    assert problem(metadata=msgspec.Raw(b'{"a":' + b" " * 8 * MAX_JSON_BYTES + b"1}")).field == "metadata"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_json_is_accepted_exactly_if_its_integers_have_64_bits(value: Any) -> None:
    sent = msgspec.Raw(json.dumps({"a": value}).encode())
    if has_long_integer(value):
        assert "64 bits" in problem(metadata=sent).reason
    else:
        assert msgspec.json.decode(str(session(metadata=sent).metadata)) == {"a": value}


def has_long_integer(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(has_long_integer(inner) for inner in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def test_json_is_kept_in_its_canonical_form() -> None:
    assert session(game_info={"b": 1, "a": "ü\0"}).game_info == '{"a":"ü\\u0000","b":1}'
    one, other = session(game_info={"b": 1, "a": 2}), session(game_info={"a": 2, "b": 1})
    assert (one.digest, one.game_info_digest) == (other.digest, other.game_info_digest)


def test_a_session_remembers_time_and_digest_of_each_value_it_has() -> None:
    record = session(game_info={"a": 1}, event_time="2026-01-01T00:00:00Z")
    assert record.game_info_time == record.event_time
    assert record.game_info_digest == digest_of(record.game_info)
    assert (record.metadata, record.metadata_time, record.metadata_digest) == (None, None, None)


def test_a_digest_is_of_the_record_as_accepted() -> None:
    assert len(task().digest) == DIGEST_BYTES
    assert task().digest == task().digest
    assert task(confidence=0.12345).digest == task(confidence=0.1234).digest
    assert task(start_time="2026-01-01T00:00:00Z").digest == task(start_time="2026-01-01T01:00:00.0000009+01:00").digest
    different = [task(), task(source_text="y"), task(target_text=""), task(confidence=0), task(retry_count=1)]
    assert len({record.digest for record in different}) == len(different)
    later = accept_tasks([task_request()], Acceptance(NOW + 1, NOW), LIMITS)
    assert later[0].digest != task().digest  # the stamp is the event time


def test_every_bad_item_is_named_up_to_the_first_hundred() -> None:
    good, bad = task_request(), task_request(start_time="x")
    with pytest.raises(ValidationFailed) as caught:
        accept_tasks([good, bad, good, bad], ACCEPTANCE, LIMITS)
    assert [found.index for found in caught.value.problems] == [1, 3]
    with pytest.raises(ValidationFailed) as caught:
        accept_tasks([bad] * 150, ACCEPTANCE, LIMITS)
    assert [found.index for found in caught.value.problems] == list(range(100))
    with pytest.raises(ValidationFailed):
        accept_sessions([session_request(), session_request(event_time="x")], ACCEPTANCE, LIMITS)

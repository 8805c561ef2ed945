"""Cursors: what goes in comes out, and whatever else comes in is refused in one way."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.errors import ValidationFailed
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.services.cursor import decode_cursor, encode_cursor, fingerprint_of
from persistence_service.storage.collections import LAST_ACTIVITY
from persistence_service.storage.query import Equals, Sort

FINGERPRINT = fingerprint_of("tasks", [Equals("status", "failed")])
POSITION = (Sort("sheet_name"), Sort("row_index"), Sort("column_name"), Sort("task_id"))
ACTIVITY = (Sort(LAST_ACTIVITY, descending=True), Sort("session_id"))

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_ints = st.integers(0, 2**31 - 1)
_times = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis adds the zone


@given(st.tuples(_texts, _ints, _texts, _texts))
def test_a_cursor_gives_back_the_values_it_was_made_of(values: tuple[str, int, str, str]) -> None:
    assert decode_cursor(encode_cursor(FINGERPRINT, values), FINGERPRINT, POSITION, Task) == values


@given(_times, _texts)
def test_times_come_back_to_the_microsecond(moment: datetime, key: str) -> None:
    text = encode_cursor(FINGERPRINT, [moment, key])
    assert decode_cursor(text, FINGERPRINT, ACTIVITY, Session) == (moment, key)


@given(st.binary(max_size=80), st.integers(0, 200), _texts)
def test_a_tampered_cursor_is_refused_or_means_values_of_the_right_kind(noise: bytes, place: int, key: str) -> None:
    text = encode_cursor(FINGERPRINT, ["sheet", 7, "A", key])
    changed = text[:place] + noise.decode("latin-1") + text[place + 1 :]
    try:
        values = decode_cursor(changed, FINGERPRINT, POSITION, Task)
    except ValidationFailed:
        return
    assert [type(value) for value in values] == [str, int, str, str]


@given(st.text(max_size=200))
def test_no_text_makes_another_error_than_validation_failed(text: str) -> None:
    with pytest.raises(ValidationFailed):
        decode_cursor(text, FINGERPRINT, POSITION, Task)


_anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | _texts | st.binary() | _times,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(_anything, max_size=6))
def test_values_of_another_kind_are_refused(values: list[Any]) -> None:
    try:
        found = decode_cursor(encode_cursor(FINGERPRINT, values), FINGERPRINT, ACTIVITY, Session)
    except ValidationFailed:
        return
    assert [type(value) for value in found] == [datetime, str]


def made_of(value: object) -> str:
    return encode_cursor(FINGERPRINT, ["sheet", value, "A", "T"])  # type: ignore[list-item]  # wrong on purpose


@pytest.mark.parametrize(
    "text",
    [
        made_of(2**63),  # no database holds it
        made_of(True),
        made_of(1.0),
        encode_cursor(fingerprint_of("other"), ["sheet", 1, "A", "T"]),
        encode_cursor(FINGERPRINT, ["sheet", 1, "A"]),
        encode_cursor(FINGERPRINT, ["x" * 5000, 1, "A", "T"]),
        made_of(1) + "!!!!",  # not of the alphabet
        "é",
        "\ud800",
        "k" * 4000,  # arrays within arrays
        "",
    ],
    ids=ascii,
)
def test_other_cursors_are_refused(text: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        decode_cursor(text, FINGERPRINT, POSITION, Task)
    assert [problem.field for problem in caught.value.problems] == ["cursor"]


def test_nesting_beyond_the_parser_is_refused() -> None:
    nested = msgspec.msgpack.encode([FINGERPRINT, []])[:-1] + b"\x91" * 2900
    with pytest.raises(ValidationFailed):
        decode_cursor(urlsafe_b64encode(nested).rstrip(b"=").decode(), FINGERPRINT, POSITION, Task)


def test_lists_with_other_filters_have_other_fingerprints() -> None:
    parts = [("tasks", []), ("sessions", []), ("tasks", [Equals("status", "failed")]), ("tasks", [Equals("a", None)])]
    assert len({fingerprint_of(*part) for part in parts}) == len(parts)

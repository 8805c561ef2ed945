"""Errors: one table, one form, and nothing of the insides in them."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
from structlog.testing import capture_logs

from persistence_service import errors
from persistence_service.api.errors import RETRY_LATER, STATUS, code_of, detail_of, status_of
from persistence_service.errors import PersistenceError, Unavailable
from persistence_service.models.answers import Problem
from tests.api.conftest import Api, assert_error

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, PersistenceError) and kind.__module__ == errors.__name__
]
# These stand for a whole branch and are never raised themselves.
BRANCHES = {
    errors.PersistenceError,
    errors.RequestError,
    errors.Unavailable,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_status_on_purpose(kind: type[PersistenceError]) -> None:
    assert kind in STATUS or issubclass(kind, Unavailable), f"give {kind.__name__} a row in api.errors.STATUS"
    assert status_of(kind) in (400, 403, 404, 408, 409, 413, 415, 422, 500, 503)


def test_the_table_has_no_row_for_what_is_gone() -> None:
    assert set(STATUS) <= set(CLASSES)


def test_every_code_is_one_error() -> None:
    codes = Counter(kind.code for kind in CLASSES if kind not in BRANCHES)
    assert [code for code, count in codes.items() if count > 1] == []
    assert PersistenceError.code not in codes, "an error that is raised on purpose has a code of its own"


def test_what_can_be_repeated_is_answered_503_and_nothing_else_is() -> None:
    for kind in CLASSES:
        if kind.retryable:
            assert status_of(kind) == 503


def test_the_tree_in_the_docstring_is_complete() -> None:
    drawn = (errors.__doc__ or "").split("``code``")[0]
    assert [kind.__name__ for kind in CLASSES if kind.__name__ not in drawn] == []


def test_callers_see_one_code_for_trouble_with_storage() -> None:
    for kind in CLASSES:
        if issubclass(kind, errors.StorageError | errors.StorageUnavailable) and status_of(kind) == 503:
            assert code_of(kind) in ("STORAGE_UNAVAILABLE", "QUERY_TIMEOUT")


def test_the_words_of_a_driver_are_not_repeated() -> None:
    for kind in (errors.StorageUnavailable, errors.StorageSetupError, errors.DataRejected, errors.JournalError):
        detail = detail_of(kind("SELECT 1 FROM /var/lib/secret"))
        assert isinstance(detail, str)
        assert "secret" not in detail


def test_a_list_of_problems_stays_a_list() -> None:
    assert detail_of(errors.ValidationFailed([errors.FieldProblem(1, "a", "b")])) == [Problem(1, "a", "b")]


async def test_an_unavailable_service_says_when_to_ask_again(api: Api) -> None:
    api.backend.go_away(errors.StorageUnavailable("gone"))
    response = await api.get("/sessions")
    assert_error(response, 503, "STORAGE_UNAVAILABLE")
    assert response.headers["retry-after"] == RETRY_LATER["Retry-After"]
    api.backend.go_away(errors.StorageUnavailable("gone", retry_after_s=0.2))
    assert (await api.get("/sessions")).headers["retry-after"] == "1"


async def test_a_slow_query_has_a_code_of_its_own(api: Api) -> None:
    api.backend.go_away(errors.QueryTimeout("the query took too long and was ended; narrow it"))
    assert "narrow" in assert_error(await api.get("/tasks"), 503, "QUERY_TIMEOUT")


async def test_a_failure_nobody_foresaw_is_answered_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the-secret-text")

    monkeypatch.setattr(type(api.services.query), "sessions", fail)
    with capture_logs() as logs:
        response = await api.get("/sessions")
    assert_error(response, 500, "INTERNAL_ERROR")
    assert "the-secret-text" not in response.text
    assert [log["event"] for log in logs] == ["request.crashed"]


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/api/v1/translation", "/api/v1/translation/", "/api/v1/translation/sessions/", "/health/"],
)
async def test_an_address_that_is_no_call_is_404(api: Api, path: str) -> None:
    assert "no such call" in assert_error(await api.client.get(path), 404, "HTTP_404")


@pytest.mark.parametrize(
    "method,path",
    [
        ("DELETE", "/api/v1/translation/tasks/batch"),
        ("PUT", "/api/v1/translation/sessions"),
        ("PATCH", "/health"),
        ("OPTIONS", "/api/v1/translation/flush"),
        ("TRACE", "/health"),
        ("GET", "/api/v1/translation/flush"),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_ones(api: Api, method: str, path: str) -> None:
    response = await api.client.request(method, path)
    assert_error(response, 405, "HTTP_405")
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path,methods",
    [
        ("/api/v1/translation/sessions/s1", "DELETE, GET"),
        ("/api/v1/translation/sessions/cleanup", "POST"),
        ("/api/v1/translation/tasks/batch", "POST"),
        ("/metrics", "GET"),
    ],
)
async def test_a_wrong_method_is_told_all_the_right_ones(api: Api, path: str, methods: str) -> None:
    assert (await api.client.patch(path)).headers["allow"] == methods


async def test_head_answers_like_get_without_a_body(api: Api) -> None:
    for path in ("/health", "/metrics", "/api/v1/translation/sessions"):
        head, get = await api.client.head(path), await api.client.get(path)
        assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])
        assert head.content == b""
    assert (await api.client.head("/nothing")).status_code == 404
    assert (await api.client.head("/api/v1/translation/flush")).status_code == 405

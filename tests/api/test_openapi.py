"""`/openapi.json` is complete and true, and its pages fetch nothing from elsewhere."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service import errors
from persistence_service.api import examples
from persistence_service.api.errors import STATUS, code_of, status_of
from persistence_service.api.openapi import DocumentedApi, call_of
from persistence_service.errors import PersistenceError
from persistence_service.models.limits import Limits
from persistence_service.models.requests import SESSION_PARSER, TASK_PARSER
from persistence_service.models.task import ID_PATTERN, SESSION_ID_PATTERN
from tests.api.conftest import Api, Json

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
async def document(api: Api) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer: dict[str, Any] = (await api.client.get("/openapi.json")).json()
    return answer


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        assert set(methods) <= METHODS
        for method, operation in methods.items():
            yield path, method, operation


def everything(value: Json) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from everything(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything(inner)


async def test_every_call_is_described_in_full(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names)) >= 15
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    tags = {tag["name"] for tag in document["tags"]}
    for path, method, operation in operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags
        assert "200" in operation["responses"]
        assert {"403", "500"} <= set(operation["responses"])
        if operation.get("parameters"):
            assert "422" in operation["responses"]
        if path.endswith("/batch"):
            assert method == "post"
            assert operation["requestBody"]["required"] is True
            assert {"202", "400", "413", "415", "422", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            assert response["description"]
            assert "X-Request-ID" in response["headers"]
            for media in response["content"].values():
                assert media["schema"]
                assert "example" in media or media["examples"]
            if status == "503":
                assert "Retry-After" in response["headers"]


async def test_every_whole_number_in_an_address_is_bounded_as_it_is_checked(document: dict[str, Any]) -> None:
    numbers = [
        parameter
        for _, _, operation in operations(document)
        for parameter in operation.get("parameters", [])
        if parameter["schema"].get("type") == "integer"
    ]
    assert len(numbers) >= 10
    assert [each["name"] for each in numbers if not {"minimum", "maximum"} <= each["schema"].keys()] == []


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = {item["$ref"] for item in everything(document) if isinstance(item.get("$ref"), str)}
    assert references
    for reference in references:
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    text = str(document)
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text, f"{name} is used nowhere"
        assert "HTTPValidationError" not in name


async def test_the_errors_of_a_call_are_those_it_declares(api: Api, document: dict[str, Any]) -> None:
    assert isinstance(api.app, DocumentedApi)
    for route in api.app.calls():
        declared = {*call_of(route).errors, errors.Forbidden, PersistenceError}
        for method in route.methods or ():
            responses = document["paths"][route.path_format][method.lower()]["responses"]
            for error in declared:
                media = responses[str(status_of(error))]["content"]["application/json"]
                assert code_of(error) in media["examples"]
                assert code_of(error) in media["schema"]["allOf"][1]["properties"]["error_code"]["enum"]


async def test_no_parameter_may_be_null(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert "null" not in str(parameter["schema"])
            assert "title" not in parameter["schema"]


def test_examples_are_values_of_their_types_and_come_back_the_same() -> None:
    for kind, example in examples.BY_TYPE.items():
        encoded = msgspec.json.encode(example)
        if b"game_info" in encoded and "Batch" not in str(kind):
            continue  # JSON as it is kept has no type of its own
        assert msgspec.json.encode(msgspec.json.decode(encoded, type=kind)) == encoded


def test_examples_of_bodies_are_accepted() -> None:
    for parser, kind in ((SESSION_PARSER, "SessionBatch"), (TASK_PARSER, "TaskBatch")):
        (example,) = (example for key, example in examples.BY_TYPE.items() if key.__name__ == kind)
        assert len(parser.parse(msgspec.json.encode(example), Limits(), 0)) == 1


def test_every_status_of_the_table_has_an_example() -> None:
    shown = {status_of(kind) for kind in examples.ERRORS}
    assert shown >= set(STATUS.values())


# ------------------------------------------------------------------------------------------------------- ids

ids = st.text(st.characters(codec="utf-8") | st.sampled_from("./ \n\t\u0085\u00a0\u2028\u3000\ufeff\u001c"), max_size=5)


@given(ids)
def test_the_pattern_of_ids_means_what_is_said_of_them(text: str) -> None:
    bare = bool(text) and text == text.strip() and text not in (".", "..")
    is_id = bare and not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    assert bool(re.search(ID_PATTERN, text)) == is_id
    assert bool(re.search(SESSION_ID_PATTERN, text)) == (is_id and "/" not in text)


@pytest.mark.parametrize("pattern", [ID_PATTERN, SESSION_ID_PATTERN])
def test_the_pattern_of_ids_means_the_same_in_ecma_262(pattern: str) -> None:
    assert not re.search(r"\\[ZAsSdDwWbB](?<!\\s)(?<!\\S)|\$|\(\?P|\(\?[aiLmsux]", pattern)
    assert re.findall(r"\\[sS]", pattern) == ["\\s", "\\S"] * 2  # only as [\s\S], any character


async def test_schemas_have_no_pattern_but_those_of_ids_and_years(document: dict[str, Any]) -> None:
    found = {item["pattern"] for item in everything(document) if isinstance(item.get("pattern"), str)}
    assert found == {ID_PATTERN, SESSION_ID_PATTERN, "^[1-9]"}


async def test_times_are_of_the_format_of_times(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if name.endswith(("_time", "_at", "timestamp", "last_activity")):
                assert "date-time" in str(field), name


# ----------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_names_no_other_host_and_may_ask_none(api: Api, path: str) -> None:
    response = await api.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in response.text.replace("<!DOCTYPE html>", "")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "*" not in policy
    assets = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    files = [asset for asset in assets if not asset.startswith("data:")]
    assert files
    for asset in files:
        assert (await api.client.get(urljoin(path, asset))).status_code == 200
    assert '"openapi.json"' in response.text


@pytest.mark.parametrize(
    "path", ["/docs/files/../../../etc/passwd", "/docs/files/%2e%2e/%2e%2e/__init__.py", "/docs/files/x"]
)
async def test_the_pages_files_are_all_that_is_served(api: Api, path: str) -> None:
    assert (await api.client.get(path)).status_code == 404

"""``docs/api.md`` names every call, parameter and error there is, and its examples give what it shows."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
from starlette.types import Receive, Scope, Send

from persistence_service import errors
from persistence_service.api.app import create_app
from persistence_service.api.errors import code_of
from persistence_service.api.openapi import DocumentedApi, call_of
from persistence_service.bootstrap import open_services
from persistence_service.errors import PersistenceError
from persistence_service.settings import Settings

DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```console\n\$ (curl [^|]*?)\n(\{.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
CHANGING = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{32}|[A-Za-z0-9_-]{24,}|\d+\.\d+\.\d+\S*"  # times, request ids, cursors, versions
)


def _application() -> DocumentedApi:
    app = create_app(lambda: nullcontext(None))  # type: ignore[arg-type]  # it is asked for its routes alone
    assert isinstance(app, DocumentedApi)
    return app


def test_every_call_has_a_heading() -> None:
    headings = "\n".join(re.findall(r"^###? (.*)$", DOCUMENT, re.MULTILINE))
    document = _application().openapi()
    calls = [f"`{method.upper()} {path}`" for path, methods in document["paths"].items() for method in methods]
    assert [call for call in calls if call not in headings] == []
    assert set(re.findall(r"`(?:GET|POST|PUT|DELETE) /[^`]*`", headings)) == set(calls)


def test_every_parameter_is_explained() -> None:
    paths = _application().openapi()["paths"].values()
    operations = [operation for methods in paths for operation in methods.values()]
    names = {parameter["name"] for operation in operations for parameter in operation.get("parameters", ())}
    assert [name for name in names if not re.search(rf"`(\?)?{name}(=\w*)?`|{{{name}}}", DOCUMENT)] == []


def test_every_error_is_listed_and_no_other() -> None:
    listed = set(re.findall(r"^\| \d{3} \| `([A-Z0-9_]+)`", DOCUMENT, re.MULTILINE))
    declared: set[type[PersistenceError]] = {errors.Forbidden, PersistenceError}
    for route in _application().calls():
        declared |= set(call_of(route).errors)
    of_the_server = {"HTTP_400", "HTTP_404", "HTTP_405", "HTTP_414", "HTTP_431"}
    assert listed == {code_of(error) for error in declared} | of_the_server


async def test_the_examples_give_what_is_shown(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "journal": {"directory": tmp_path / "journal", "min_free": 0},
            "sqlite": {"path": tmp_path / "data.db"},
        }
    )
    async with open_services(settings) as services:
        app = create_app(lambda: nullcontext(services))
        async with app.router.lifespan_context(app) as state:

            async def call(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "state": dict(state or {})}, receive, send)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=call)) as client:
                for command, shown in EXAMPLES:
                    answer = await _run(client, command)
                    assert _stable(answer) == _stable(json.loads(shown)), command
    assert len(EXAMPLES) >= 15


async def _run(client: httpx.AsyncClient, command: str) -> Any:  # noqa: ANN401  # JSON
    words = shlex.split(command.replace("\\\n", " "))[1:]
    method, url, headers, body = "GET", "", {}, None
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                body = words.pop(0)
            case address:
                url = address
    return (await client.request(method, url, headers=headers, content=body)).json()


def _stable(value: Any) -> Any:  # noqa: ANN401  # JSON
    """`value` without what differs from run to run: times, ids of requests, cursors, and what is measured."""
    if isinstance(value, dict):
        return {key: 0 if _is_measured(key) else _stable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_stable(inner) for inner in value]
    return CHANGING.sub("…", value) if isinstance(value, str) else value


def _is_measured(key: str) -> bool:
    return key.endswith(("_ms", "bytes", "_s"))

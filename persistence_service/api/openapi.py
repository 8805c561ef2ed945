"""`/openapi.json`: what FastAPI knows of each call (address, parameters), completed by what its route declares.

Bodies are read and answers written by msgspec, so FastAPI can't see their types. Each route names them with `documented`;
their schemas come from the very types that are decoded and encoded, and the examples are encoded like any answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from persistence_service import errors
from persistence_service.api import examples
from persistence_service.api.errors import code_of, detail_of, status_of
from persistence_service.errors import PersistenceError
from persistence_service.models.answers import ErrorAnswer

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

# What calls have in common. Every call can also be refused by its Host (403), and fail (500).
BODY = (
    errors.MalformedBody,
    errors.RequestTimeout,
    errors.PayloadTooLarge,
    errors.UnsupportedMedia,
    errors.MemoryLimit,
)
ROOM = (errors.BufferFull, errors.JournalFull, errors.JournalUnavailable, errors.ShuttingDown)
_EVERYWHERE = (errors.Forbidden, errors.PersistenceError)

_ATTRIBUTE = "__documentation__"
_REFERENCE = "#/components/schemas/{name}"
_JSON = "application/json"
_DESCRIPTION = """\
Workers send batches of *sessions* and *tasks* and get an acknowledgement once these are safe; operators and workers read \
them back and learn what is unfinished.

- **Sending again is always safe.** Storing is idempotent: after a 503, a time-out or a broken connection the outcome is open, \
so send the same batch again, after `Retry-After` seconds if that is given. Set `event_time` on records, so that a late \
repetition can't undo anything newer.
- **Ids** may be any Unicode without control characters and without white space at the ends. In an address they are \
percent-encoded: `/` as `%2F`, `?` as `%3F`, `#` as `%23`, `%` as `%25`.
- **Bodies** are `application/json`, optionally with `Content-Encoding: gzip`, or `zstd` where \
the service has it. Unknown fields and parameters are refused.
- **Errors** all have the form of `ErrorAnswer`. An address that is no call is 404 `HTTP_404`, a wrong method 405 `HTTP_405`.
- **Times** are RFC 3339; without an offset they are taken as UTC, and they are answered in UTC with `Z`.
"""
_TAGS = [
    {"name": "write", "description": "Batches in, and flushing on demand."},
    {"name": "query", "description": "Sessions and tasks, by page or by cursor."},
    {"name": "recovery", "description": "What is unfinished after a crash."},
    {"name": "administration", "description": "What there is, and what operators do about it."},
    {"name": "system", "description": "Health and metrics."},
]
_HEADERS = {
    "X-Request-ID": {
        "description": "The request's id: the one that was sent if it is sane, else a new one. It is in the service's log.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds after which the same request is worth repeating.",
        "schema": {"type": "integer", "minimum": 1},
    },
}


@dataclass(frozen=True, slots=True)
class Call:
    """What a route says of itself: the type of its body, of its answers by status, and the errors it can give.

    A type that is no msgspec Struct stands for a media type of text, by its name.
    """

    body: Any
    answers: Mapping[int, Any]
    errors: Sequence[type[PersistenceError]] = field(default=())
    body_required: bool = True


def documented(
    answer: Any,  # noqa: ANN401  # a Struct, a parametrised one, or a media type
    *,
    body: Any = None,  # noqa: ANN401  # likewise
    body_required: bool = True,
    also: Mapping[int, Any] | None = None,
    errors: Sequence[type[PersistenceError]] = (),
) -> Callable[[Endpoint], Endpoint]:
    """Say what a route takes and gives: `answer` with 200, what else it answers by status (`also`), and its errors."""

    def attach(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, Call(body, {200: answer, **(also or {})}, errors, body_required))
        return endpoint

    return attach


def call_of(route: APIRoute) -> Call:
    """What the route's endpoint was documented with."""
    call: Call = getattr(route.endpoint, _ATTRIBUTE)
    return call


class DocumentedApi(FastAPI):
    """An application of `routers`, each route of which is `documented`; `/openapi.json` tells everything about it."""

    def __init__(self, routers: Sequence[APIRouter], **options: Any) -> None:  # noqa: ANN401  # FastAPI's own
        super().__init__(
            openapi_tags=_TAGS,
            description=_DESCRIPTION,
            license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
            generate_unique_id_function=lambda route: route.name,
            docs_url=None,
            redoc_url=None,
            **options,
        )
        self._documented = tuple(routers)
        for router in routers:
            self.include_router(router)

    def calls(self) -> Iterator[APIRoute]:
        """Every documented route."""
        for router in self._documented:
            yield from (route for route in router.routes if isinstance(route, APIRoute))

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = self._assembled()
        return self.openapi_schema

    def _assembled(self) -> dict[str, Any]:
        document = get_openapi(
            title=self.title,
            version=self.version,
            openapi_version=self.openapi_version,
            summary=self.summary,
            description=self.description,
            routes=self.routes,
            tags=self.openapi_tags,
            license_info=self.license_info,
        )
        calls = [(route, call_of(route)) for route in self.calls()]
        schemas = _Schemas([call for _, call in calls])
        for route, call in calls:
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                summary, _, description = (operation.pop("description", None) or "").partition("\n\n")
                operation["summary"] = summary.rstrip(".")
                if description:
                    operation["description"] = description
                for parameter in operation.get("parameters", ()):
                    _tidy(parameter)
                operation |= _described(call, schemas)
        components = document.setdefault("components", {})
        kept = {name: schema for name, schema in components.get("schemas", {}).items() if "ValidationError" not in name}
        components["schemas"] = dict(sorted({**kept, **schemas.components}.items()))
        components["headers"] = _HEADERS
        return document


class _Schemas:
    """The schemas of all types that calls name, as msgspec reads and writes them."""

    def __init__(self, calls: Sequence[Call]) -> None:
        named = [kind for call in calls for kind in (call.body, *call.answers.values()) if kind is not None]
        self._types: list[Any] = [*dict.fromkeys(kind for kind in named if not isinstance(kind, str)), ErrorAnswer]
        references, self.components = msgspec.json.schema_components(self._types, ref_template=_REFERENCE)
        self._references = dict(zip(self._types, references, strict=True))

    def content(self, kind: Any, status: int | None = None) -> dict[str, Any]:  # noqa: ANN401  # as in `documented`
        """The media type and its schema and example, for a type that a call names."""
        if isinstance(kind, str):
            return {kind: {"schema": {"type": "string"}, "example": examples.TEXTS[kind]}}
        example = examples.BY_STATUS.get((kind, status), examples.BY_TYPE[kind])
        return {_JSON: {"schema": self._references[kind], "example": msgspec.json.decode(msgspec.json.encode(example))}}

    def errors(self, kinds: Sequence[type[PersistenceError]]) -> dict[str, Any]:
        """The media type of error answers that have one of these classes' codes."""
        codes = sorted({code_of(kind) for kind in kinds})
        narrowed = {"type": "object", "properties": {"error_code": {"enum": codes}}}
        shown = {code_of(kind): {"value": _example_of(kind)} for kind in kinds}
        return {_JSON: {"schema": {"allOf": [self._references[ErrorAnswer], narrowed]}, "examples": shown}}


def _described(call: Call, schemas: _Schemas) -> dict[str, Any]:
    """The operation's body and responses."""
    described: dict[str, Any] = {}
    if call.body is not None:
        described["requestBody"] = {"required": call.body_required, "content": schemas.content(call.body)}
    responses: dict[str, dict[str, Any]] = {}
    for status, kind in call.answers.items():
        responses[str(status)] = {
            "description": examples.MEANINGS.get((kind, status), HTTPStatus(status).phrase),
            "headers": _headers(status),
            "content": schemas.content(kind, status),
        }
    by_status: dict[int, list[type[PersistenceError]]] = {}
    for error in (*call.errors, *_EVERYWHERE):
        by_status.setdefault(status_of(error), []).append(error)
    for status, kinds in by_status.items():
        responses[str(status)] = {
            "description": "\n".join(f"- `{code_of(kind)}`: {_words(kind)}" for kind in kinds),
            "headers": _headers(status),
            "content": schemas.errors(kinds),
        }
    return {**described, "responses": dict(sorted(responses.items()))}


def _headers(status: int) -> dict[str, Any]:
    names = ("X-Request-ID", "Retry-After") if status == HTTPStatus.SERVICE_UNAVAILABLE else ("X-Request-ID",)
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _words(kind: type[PersistenceError]) -> str:
    detail = detail_of(examples.ERRORS[kind])
    return detail if isinstance(detail, str) else "`detail` lists what is wrong: index of the item, field, reason"


def _example_of(kind: type[PersistenceError]) -> Any:  # noqa: ANN401  # JSON
    detail = detail_of(examples.ERRORS[kind])
    return msgspec.to_builtins(ErrorAnswer(detail=detail, error_code=code_of(kind), request_id=examples.REQUEST_ID))


def _tidy(parameter: dict[str, Any]) -> None:
    """A parameter that may be left out is not one that may be null: there is no null in an address."""
    schema = parameter["schema"]
    schema.pop("title", None)
    schema.pop("description", None)
    choices = [choice for choice in schema.pop("anyOf", ()) if choice != {"type": "null"}]
    if choices:
        parameter.setdefault("description", choices[0].pop("description", None))
        schema |= choices[0]
    if parameter.get("description") is None:
        parameter.pop("description", None)

"""Answers as bytes."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def json_response(answer: msgspec.Struct, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`answer` as a JSON response."""
    return Response(_encode(answer), status, headers, media_type="application/json")

"""Request bodies: bounded in bytes, time and memory before anything is done with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persistence_service.api.encodings import ENCODINGS, decompress
from persistence_service.errors import MalformedBody, MemoryLimit, PayloadTooLarge, RequestTimeout, UnsupportedMedia
from persistence_service.settings import LimitSettings

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
# Of a body larger than this, each such piece has limits.body_timeout to arrive: about 9 KiB/s at least by default. The time
# since the last byte alone (nginx) lets one byte a minute hold a connection for ever; a rate over the whole body (Apache)
# lets who was quick at first stop for hours.
_PIECE_BYTES = 256 * 1024
_CHARSETS = frozenset({"utf-8", "utf8"})
_LONGEST_LENGTH = 18  # digits; no body has so many bytes

Limits = Callable[[], LimitSettings]


class BodyGuard:
    """Holds the bodies of all requests to `limits.max_inflight_bytes` together, and each to `limits.body_timeout`.

    Plain ASGI middleware. What is over its bounds is raised where the body is read, so that it is answered like any error. A
    request gives its bytes back when it is answered, since until then its records are in memory too.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _BODILESS:
            await self._app(scope, receive, send)
            return
        incoming = IncomingBody(self, receive, self._limits())
        scope["state"]["incoming_body"] = incoming
        try:
            await self._app(scope, incoming.receive, send)
        finally:
            self._in_work -= incoming.size

    def take(self, count: int, held: int, most: int) -> None:
        """Count `count` bytes more for a request that holds `held`.

        Whoever would wait for room here would hold what others wait for, so nobody waits. A request that is alone gets all it
        wants: else a body larger than the bound could never be sent.

        Raises:
            MemoryLimit: the bytes of all requests would be more than `most`.
        """
        if self._in_work > held and self._in_work + count > most:
            raise MemoryLimit("too many bytes of other requests are in work; send the request again", retry_after_s=1)
        self._in_work += count


class IncomingBody:
    """The body of one request on its way in."""

    def __init__(self, guard: BodyGuard, receive: Receive, limits: LimitSettings) -> None:
        self._guard = guard
        self._receive = receive
        self._limits = limits
        self._is_whole = False
        self._piece = 0
        self._piece_by: float | None = None
        self.size = 0

    async def receive(self) -> Message:
        """The server's next message.

        Raises:
            RequestTimeout: it did not come in time.
            MemoryLimit: there is no room for it.
        """
        if self._is_whole:
            return await self._receive()  # when the client leaves
        now = asyncio.get_running_loop().time()
        if self._piece_by is None or self._piece >= _PIECE_BYTES:
            self._piece_by, self._piece = now + self._limits.body_timeout, 0
        try:
            async with asyncio.timeout_at(self._piece_by):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout("the body did not arrive in time; send the request again, faster") from None
        count = len(message.get("body", b""))
        self.hold(count)
        self._piece += count
        self._is_whole = not message.get("more_body", False)
        return message

    def hold(self, count: int) -> None:
        """Count `count` more bytes of this request, until it is answered.

        Raises:
            MemoryLimit: there is no room for them.
        """
        self._guard.take(count, self.size, self._limits.max_inflight_bytes)
        self.size += count


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The body, decompressed, of at most `max_bytes` before and after.

    Raises:
        UnsupportedMedia: there is a body and it is not application/json in UTF-8, or of an unknown encoding.
        PayloadTooLarge: over the bound; no more than that was read or decompressed.
        MalformedBody: empty, or not what its encoding says.
        RequestTimeout, MemoryLimit: see `BodyGuard`.
    """
    headers = request.headers
    encoding = headers.get("content-encoding", "").strip().lower() or "identity"
    if _has_body(headers):
        _check_media_type(headers.get("content-type", ""))
        if encoding != "identity" and encoding not in ENCODINGS:
            known = " or ".join(sorted(ENCODINGS.keys() - {"x-gzip"}))
            raise UnsupportedMedia(f"the body may be sent as it is or with Content-Encoding: {known}")
    body = await _read(request, max_bytes)
    if encoding in ENCODINGS and body:
        plain = decompress(body, ENCODINGS[encoding], max_bytes)
        if plain is None:
            raise _too_large(max_bytes)
        request.state.incoming_body.hold(len(plain))
        body = plain
    if not body:
        raise MalformedBody("the body is empty; send JSON")
    return body


async def read_optional_json_body(request: Request, max_bytes: int) -> bytes | None:
    """As `read_json_body`; None if there is no body."""
    return await read_json_body(request, max_bytes) if _has_body(request.headers) else None


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


def _check_media_type(content_type: str) -> None:
    media_type, _, parameters = content_type.partition(";")
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMedia("the body must be application/json")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in _CHARSETS:
            raise UnsupportedMedia("the body must be in UTF-8, as all JSON (RFC 8259); leave the charset away")


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > _LONGEST_LENGTH or int(announced) > max_bytes):
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body has at most {max_bytes} bytes, before and after decompression; split the batch")

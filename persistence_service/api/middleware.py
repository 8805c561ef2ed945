"""Plain ASGI middleware: who may talk to the service, and what is known of every request."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persistence_service.api.errors import error_response
from persistence_service.errors import Forbidden, PersistenceError, ShuttingDown
from persistence_service.observability.metrics import Metrics
from persistence_service.settings import SecuritySettings

_log = structlog.get_logger(__name__)
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
_OWN_SITES = frozenset({"same-origin", "none"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/]+))(?::[0-9]*)?", re.ASCII)
_ZERO = re.compile(r"q\s*=\s*0(\.0*)?", re.ASCII)
_COMPRESSED_FROM_BYTES = 1024
_COMPRESSION = 4
_ADDRESSES = 256
_API = "/api/"
_CLIENT_GONE = 499  # what the field counts a request as whose sender did not wait for the answer

Security = Callable[[], SecuritySettings]


class HeadAsGet:
    """Answers HEAD like GET, without the body (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class RequestContext:
    """Gives each request an id, counts and times its answer, and answers 500 for what nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics | None]) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = _CLIENT_GONE  # nobody is left to answer, and nothing of the request was kept
            except asyncio.CancelledError:  # the server's time to stop is over
                if status:
                    raise
                error = ShuttingDown(
                    "the service is shutting down; send the request again in a moment", retry_after_s=5
                )
                await error_response(request_id, error)(scope, receive, send_with_id)
            except Exception:
                _log.exception("request.crashed", method=scope["method"])
                if status:
                    raise  # the answer has begun: breaking the connection is the only honest end
                await error_response(request_id, PersistenceError())(scope, receive, send_with_id)
            finally:
                metrics = self._metrics()
                if metrics is not None:
                    method = scope["method"] if scope["method"] in _METHODS else "other"
                    metrics.answered(_endpoint(scope), method, status, time.perf_counter() - started)


def _endpoint(scope: Scope) -> str:
    """The template of the route that matched, so that ids never become label values."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


class Compression:
    """Compresses answers for those whose `Accept-Encoding` takes gzip, weights and `*` included (RFC 9110, 12.5.3)."""

    def __init__(self, app: ASGIApp) -> None:
        self._gzip = GZipMiddleware(app, minimum_size=_COMPRESSED_FROM_BYTES, compresslevel=_COMPRESSION)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # What it is given looks for the word alone, and would find it in `gzip;q=0`.
            takes_gzip = _takes_gzip(",".join(Headers(scope=scope).getlist("accept-encoding")))
            headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
            scope["headers"] = [*headers, (b"accept-encoding", b"gzip")] if takes_gzip else headers
        await self._gzip(scope, receive, send)


def _takes_gzip(accepted: str) -> bool:
    if not accepted:
        return False
    weights: dict[str, bool] = {}
    for choice in accepted.lower().split(","):
        name, _, parameters = choice.partition(";")
        weights[name.strip()] = _ZERO.fullmatch(parameters.strip()) is None
    return next((weights[name] for name in ("gzip", "x-gzip", "*") if name in weights), False)


class CrossOrigin:
    """Lets web pages of the configured origins read answers (CORS); without any, no header of it is ever sent."""

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._security = security
        self._open: CORSMiddleware | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = self._security().cors_origins if scope["type"] == "http" else ()
        if not origins:
            await self._app(scope, receive, send)
            return
        if self._open is None or self._open.allow_origins != origins:
            self._open = CORSMiddleware(
                self._app,
                allow_origins=origins,
                allow_methods=sorted(_METHODS),
                allow_headers=("Authorization", "Content-Encoding", "Content-Type", "X-API-Key", "X-Request-ID"),
                expose_headers=("Retry-After", "X-Request-ID"),
            )
        await self._open(scope, receive, send)


class PeerGuard:
    """Serves callers on this machine alone, unless `security.allow_anonymous`, however the server was told to listen.

    A caller over a Unix socket has no address and is local.
    """

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_local(scope.get("client")) or self._security().allow_anonymous:
            await self._app(scope, receive, send)
            return
        refusal = Forbidden(
            "without API keys only callers on this machine are served; "
            "set security.allow_anonymous to true on a network you trust"
        )
        await error_response(scope["state"]["request_id"], refusal)(scope, receive, send)


def _is_local(client: tuple[str, int] | None) -> bool:
    return not client or not client[0] or _is_loopback(client[0])


class BrowserGuard:
    """Keeps web pages from driving the service.

    `Host` must be loopback or configured, so that a name of someone else's that resolves to this machine (DNS rebinding)
    gets nowhere; a request that changes something must not come from another site, but for the configured origins. Nor may any
    call of the API: what only reads may flush first, or make the database work.
    """

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(scope["state"]["request_id"], Forbidden(refusal))(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not self._is_served(host):
            return "this Host is not served; add its name to security.allowed_hosts"
        origin = headers.get("origin")
        only_shows = scope["method"] in _SAFE_METHODS and not scope["path"].startswith(_API)
        if only_shows or origin in self._security().cors_origins:
            return None
        if origin is not None and origin.partition("://")[2].lower() != host:
            return "calls are not taken from web pages of another origin; security.cors_origins may name it"
        if headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return "calls are not taken from web pages of another site; security.cors_origins may name its origin"
        return None

    def _is_served(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["v6"] or match["name"].removesuffix(".")
        if name == "localhost" or name in self._security().allowed_hosts:
            return True
        return _is_loopback(name)


@lru_cache(maxsize=_ADDRESSES)
def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    # A socket that takes both families gives an IPv4 caller as ::ffff:127.0.0.1; before 3.13 that is no loopback.
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback

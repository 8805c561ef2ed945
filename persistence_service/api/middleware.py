"""Plain ASGI middleware: who may talk to the service, and what is known of every request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from ipaddress import ip_address
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persistence_service.api.errors import error_response, internal_error
from persistence_service.observability.metrics import Metrics

_log = structlog.get_logger(__name__)
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES = frozenset({"same-origin", "none"})


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
        request_id = given if _SANE_ID.match(given) else uuid4().hex
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
            except Exception:
                _log.exception("request.crashed", method=scope["method"])
                if status:
                    raise  # the answer has begun: breaking the connection is the only honest end
                await internal_error(request_id)(scope, receive, send_with_id)
            finally:
                metrics = self._metrics()
                if metrics is not None:
                    metrics.answered(_endpoint(scope), scope["method"], status, time.perf_counter() - started)


def _endpoint(scope: Scope) -> str:
    """The template of the route that matched, so that ids never become label values."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


class BrowserGuard:
    """Keeps web pages from driving the service.

    `Host` must be loopback or configured, so that a name of someone else's that resolves to this machine (DNS rebinding)
    gets nowhere; a request that changes something must not come from another site.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Callable[[], frozenset[str]]) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(scope["state"]["request_id"], 403, "FORBIDDEN", refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_allowed(host):
            return "this Host is not served; add its name to security.allowed_hosts"
        if scope["method"] in _SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "requests that change something are not taken from web pages of another origin"
        if headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return "requests that change something are not taken from web pages of another site"
        return None

    def _is_allowed(self, host: str) -> bool:
        name = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
        name = name.strip("[]").lower()
        if name == "localhost" or name in self._allowed_hosts():
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

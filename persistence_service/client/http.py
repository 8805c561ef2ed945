"""One request, sent until it is answered."""

from __future__ import annotations

import asyncio
import gzip
import logging
from dataclasses import dataclass
from random import Random

import httpx

from persistence_service import __version__
from persistence_service.client.errors import GaveUp, ServiceUnreachable, error_from, unreachable
from persistence_service.client.retry import Backoff, is_passing, retry_after_s
from persistence_service.client.timing import Timing
from persistence_service.errors import PersistenceError, StorageUnavailable

_log = logging.getLogger(__name__)
# Reading waits longer than the service does for `ack=storage`.
_TIMEOUT = httpx.Timeout(connect=5, write=30, read=60, pool=None)
# Not worth repeating: the address or the request is wrong, and will be.
_FINAL = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_GZIP_LEVEL = 1
_LOST_BEHIND_A_PROXY = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class ClientStats:
    """How many requests were made since the client began, and how many attempts more than these it took."""

    requests: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The first answer that is not a passing failure.

    `maybe_done_before`: an earlier attempt may have taken effect already. Not so where all were refused before they began.
    """

    response: httpx.Response
    maybe_done_before: bool


class Requests:
    """Sends requests over one pool of connections, each until it is answered or `give_up_s` have passed."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        give_up_s: float | None,
        backoff: Backoff,
        timing: Timing,
        random: Random,
    ) -> None:
        self._http = http
        self._give_up_s = give_up_s
        self._backoff = backoff
        self._timing = timing
        self._random = random
        self._requests = 0
        self._retried = 0

    @property
    def stats(self) -> ClientStats:
        """The counts so far."""
        return ClientStats(self._requests, self._retried)

    async def once(self, method: str, url: str) -> httpx.Response:
        """One attempt.

        Raises:
            ServiceUnreachable: the connection failed or broke.
        """
        self._requests += 1
        return await self._attempt(self._http.build_request(method, url))

    async def send(
        self,
        method: str,
        url: str,
        *,
        parameters: dict[str, str] | None = None,
        body: bytes | None = None,
        compress: bool = False,
    ) -> Reply:
        """Send a request, again and again after failures that pass. Cancelling it leaves the outcome unknown.

        Raises:
            GaveUp: no attempt was answered in time.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        if body is not None and compress:
            body = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        request = self._http.build_request(method, url, params=parameters, content=body, headers=headers)
        self._requests += 1
        return await self._until_answered(request)

    async def _until_answered(self, request: httpx.Request) -> Reply:
        started = self._timing.monotonic()
        deadline = None if self._give_up_s is None else started + self._give_up_s
        attempts = 0
        maybe_done = False
        while True:
            wanted_s: float | None = None
            attempts += 1
            try:
                async with self._timing.timeout(self._left_s(deadline)):
                    response = await self._attempt(request)
            except TimeoutError:
                late = ServiceUnreachable("the service did not answer in time")
                raise GaveUp(attempts, self._timing.monotonic() - started, late) from None
            except ServiceUnreachable as exc:
                failure: PersistenceError = exc
                maybe_done = maybe_done or not isinstance(exc.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if not is_passing(response.status_code):
                    return Reply(response, maybe_done)
                wanted_s = retry_after_s(response.headers, self._timing.wall_us())
                failure = error_from(response, retry_after_s=wanted_s)
                maybe_done = maybe_done or _may_have_begun(response.status_code, failure)
            delay_s = self._backoff.delay_s(attempts, wanted_s, self._random)
            left_s = self._left_s(deadline)
            if left_s is not None and delay_s >= left_s:
                raise GaveUp(attempts, self._timing.monotonic() - started, failure) from failure
            _log.warning("%s %s failed, again in %.1f s: %s", request.method, request.url.host, delay_s, failure)
            await self._timing.sleep(delay_s)
            self._retried += 1

    def _left_s(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - self._timing.monotonic())

    async def _attempt(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._http.send(request)
        except _FINAL:
            raise
        except httpx.RequestError as exc:
            raise unreachable(exc) from exc


def _may_have_begun(status: int, failure: PersistenceError) -> bool:
    """Whether a passing failure may have come after the request took effect."""
    return status in _LOST_BEHIND_A_PROXY or isinstance(failure, StorageUnavailable)


def open_http(
    *, api_key: str | None, max_connections: int, max_keepalive: int, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    """A pool of connections. The environment's proxies are not used: the service is near, and often on this machine."""
    headers = {"User-Agent": f"persistence-service-client/{__version__}"}
    if api_key is not None:
        headers["X-API-Key"] = api_key
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_keepalive, keepalive_expiry=30)
    return httpx.AsyncClient(headers=headers, limits=limits, timeout=_TIMEOUT, transport=transport, trust_env=False)

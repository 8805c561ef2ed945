"""The client of workers, and plain HTTP beside it for what it does not cover: lists by page, filters, the bare answers."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from persistence_service.client import PersistenceClient
from persistence_service.client.retry import Backoff
from tests.e2e.service import ServiceProcess

BASE = "/api/v1/translation"
_HOST = "http://127.0.0.1"
_GIVE_UP_S = 90
_LONGEST_PAUSE_S = 1.0
_JSON = {"Content-Type": "application/json"}


class Answer:
    """An answer's status and its JSON."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.body: Any = msgspec.json.decode(response.content)

    def __repr__(self) -> str:
        return f"{self.status} {self.body}"[:2000]


class _Following(httpx.AsyncBaseTransport):
    """Connects to the port where the service listens at the moment; each start takes another one."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        # Plain HTTP: nothing is verified, and loading the certificates takes longer than all else of a client.
        self._inner = httpx.AsyncHTTPTransport(verify=False, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._service.check_running()
        request.url = request.url.copy_with(port=httpx.URL(self._service.url).port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Caller:
    """Calls the service wherever it runs at the moment; `client` is what a worker uses.

    No worker stays away for longer than a second because the service was. Its own calls are sent again too: after a broken
    connection when the service is back, after a 503 when its Retry-After is over (at most a second).
    """

    def __init__(self, service: ServiceProcess, client: PersistenceClient, http: httpx.AsyncClient) -> None:
        self._service = service
        self._http = http
        self._repeated = 0
        self.client = client

    @classmethod
    @asynccontextmanager
    async def to(cls, service: ServiceProcess) -> AsyncIterator[Self]:
        """A caller of `service`, closed at the end of the block."""
        async with (
            PersistenceClient(
                _HOST, transport=_Following(service), give_up_s=_GIVE_UP_S, backoff=Backoff(longest_s=_LONGEST_PAUSE_S)
            ) as client,
            httpx.AsyncClient(transport=_Following(service), base_url=_HOST, timeout=60) as http,
        ):
            yield cls(service, client, http)

    @property
    def repeated(self) -> int:
        """How many attempts more than requests it took."""
        return self._repeated + self.client.stats.retried

    async def get(self, path: str, **parameters: object) -> Any:  # noqa: ANN401  # JSON
        """The JSON of a 200 answer to GET."""
        return await self._ok("GET", path, parameters)

    async def post(self, path: str, **parameters: object) -> Any:  # noqa: ANN401  # JSON
        """The JSON of a 200 answer to POST without a body; the attempts before it may have done some of it."""
        return await self._ok("POST", path, parameters)

    async def get_once(self, path: str, **parameters: object) -> httpx.Response:
        """The answer to GET, whatever it is; `path` is whole."""
        return await self._http.get(path, params={name: _text(value) for name, value in parameters.items()})

    async def post_once(self, path: str, body: object) -> httpx.Response:
        """The answer to POST of JSON, whatever it is."""
        return await self._http.post(BASE + path, content=msgspec.json.encode(body), headers=_JSON)

    async def _ok(self, method: str, path: str, parameters: Mapping[str, object]) -> Any:  # noqa: ANN401  # JSON
        answer = await self._call(method, path, parameters)
        assert answer.status == httpx.codes.OK, f"{method} {path} {parameters}: {answer}"
        return answer.body

    async def _call(self, method: str, path: str, parameters: Mapping[str, object]) -> Answer:
        """The first answer that is not 503."""
        async with asyncio.timeout(_GIVE_UP_S):
            while True:
                response = await self._once(method, path, parameters)
                if response is None:
                    await self._service.wait_reachable()
                elif response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    await self._service.wait_restarted(min(float(response.headers["Retry-After"]), _LONGEST_PAUSE_S))
                else:
                    return Answer(response)
                self._repeated += 1

    async def _once(self, method: str, path: str, parameters: Mapping[str, object]) -> httpx.Response | None:
        """One attempt; None when the connection broke."""
        query = {name: _text(value) for name, value in parameters.items()}
        try:
            return await self._http.request(method, BASE + path, params=query)
        except httpx.TransportError:
            return None

    async def health(self) -> Any:  # noqa: ANN401  # JSON
        """What the service says of itself."""
        return (await self.get_once("/health")).json()

    async def pages(self, path: str, **parameters: object) -> list[Any]:
        """Everything that a list shows, by page number; each page is as long as it should be."""
        items: list[Any] = []
        page, last = 1, 1
        while page <= last:
            answer = await self.get(path, page=page, page_size=100, **parameters)
            assert answer["page"] == page
            assert answer["total_exact"]
            last = answer["total_pages"]
            expected = 100 if page < last else answer["total"] - 100 * max(0, last - 1)
            assert len(answer["items"]) == expected, f"page {page} of {last} has {len(answer['items'])} items"
            items += answer["items"]
            page += 1
        return items

    async def walk(self, path: str, **parameters: object) -> list[Any]:
        """Everything that a list shows, by cursor."""
        items: list[Any] = []
        cursor: dict[str, object] = {}
        while True:
            answer = await self.get(path, page_size=100, count=False, **cursor, **parameters)
            items += answer["items"]
            if answer["next_cursor"] is None:
                return items
            assert len(answer["items"]) == 100
            cursor = {"cursor": answer["next_cursor"]}


def as_json(answer: msgspec.Struct) -> Any:  # noqa: ANN401  # JSON
    """What the client made of an answer, as JSON again."""
    return msgspec.json.decode(msgspec.json.encode(answer))


def segment(record_id: object) -> str:
    """An id as one segment of a path."""
    return quote(str(record_id), safe="")


def batched(records: list[Any], size: int) -> Iterator[list[Any]]:
    """`records` in runs of `size`."""
    for start in range(0, len(records), size):
        yield records[start : start + size]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

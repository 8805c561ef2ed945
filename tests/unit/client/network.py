"""A network whose every failure is scripted, and time that passes only when the client waits."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

import httpx
import msgspec

from persistence_service.client import PersistenceClient, TaskRequest

Step = Callable[[httpx.Request], httpx.Response]
WALL_US = 1_769_860_800_000_000  # 2026-01-31T12:00:00Z


class QuickTiming:
    """A `client.timing.Timing` in which a sleep is over at once, and moves both clocks."""

    def __init__(self) -> None:
        self.wall = WALL_US
        self.slept: list[float] = []
        self._monotonic = 1000.0
        self._timeouts: list[tuple[float, asyncio.Timeout]] = []

    def wall_us(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    @asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as block:
            if seconds is not None:
                self._timeouts.append((self._monotonic + seconds, block))
            yield

    def advance(self, seconds: float) -> None:
        """Let time pass; blocks whose time is over end when the event loop runs next."""
        self.wall += round(seconds * 1_000_000)
        self._monotonic += seconds
        due = [block for deadline, block in self._timeouts if deadline <= self._monotonic]
        self._timeouts = [(deadline, block) for deadline, block in self._timeouts if deadline > self._monotonic]
        for block in due:
            if block.when() is None:
                block.reschedule(asyncio.get_running_loop().time())


@dataclass
class Network(httpx.AsyncBaseTransport):
    """Answers each request with the next step of a script; the last one answers all further requests too."""

    steps: list[Step]
    timing: QuickTiming = field(default_factory=QuickTiming)
    requests: list[httpx.Request] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step(request)

    def client(self, **options: Any) -> PersistenceClient:  # noqa: ANN401  # those of the constructor
        """A client on this network."""
        return PersistenceClient("http://service:8001", transport=self, timing=self.timing, random=Random(7), **options)

    @property
    def bodies(self) -> list[Any]:
        """What was sent, as JSON."""
        return [msgspec.json.decode(plain(request)) for request in self.requests]

    @classmethod
    def of(cls, *steps: Step) -> Self:
        """A network that does this."""
        return cls(list(steps))


def plain(request: httpx.Request) -> bytes:
    """A request's body, decompressed."""
    is_compressed = request.headers.get("content-encoding") == "gzip"
    return gzip.decompress(request.content) if is_compressed else request.content


def accept(request: httpx.Request) -> httpx.Response:
    """Acknowledge a batch as the service does."""
    (records,) = msgspec.json.decode(plain(request)).values()
    answer = {
        "status": "accepted",
        "count": len(records),
        "timestamp": "2026-01-31T12:00:00Z",
        "durability": "journal",
    }
    return httpx.Response(200, json=answer)


def answer(status: int, body: object = None, **headers: str) -> Step:
    """Answer with JSON; underscores of a header's name become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, json=body, headers=named)


def refuse(status: int, code: str, detail: object = "no", **headers: str) -> Step:
    """Answer with an error in the service's form."""
    return answer(status, {"detail": detail, "error_code": code, "request_id": "r-1"}, **headers)


def fail(error: type[httpx.TransportError]) -> Step:
    """Break the connection in one of httpx's ways."""

    def step(request: httpx.Request) -> httpx.Response:
        raise error("broken", request=request)

    return step


def some_tasks(count: int, **fields: Any) -> list[TaskRequest]:  # noqa: ANN401  # a record's fields
    """Different tasks of one session."""
    return [msgspec.convert(_task(number) | fields, TaskRequest) for number in range(count)]


def _task(number: int) -> dict[str, object]:
    return {
        "task_id": f"t{number}",
        "session_id": "s1",
        "batch_id": "b1",
        "sheet_name": "Items",
        "row_index": number,
        "column_name": "zh",
        "source_text": "Potion",
        "status": "pending",
    }


def event_times(bodies: Iterable[Any]) -> list[list[str]]:
    """The event times of each body's tasks."""
    return [[task["event_time"] for task in body["tasks"]] for body in bodies]

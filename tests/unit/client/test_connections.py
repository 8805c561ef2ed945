"""The client on real connections to a server that cuts them, or says nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from persistence_service.client import PersistenceClient, ServiceUnreachable
from tests.unit.client.network import QuickTiming, accept, some_tasks

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server on this machine; each request goes to the next handler, all further ones to the last."""

    def __init__(self, *handlers: Handler) -> None:
        self._handlers = list(handlers)
        self.bodies: list[bytes] = []
        self.open = 0
        self.most_open = 0
        self.received = asyncio.Condition()
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its address; at the end of the block all clients must have gone."""
        server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.close()
            await asyncio.gather(*self._serving)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(httpx.Headers([_header(line) for line in head.split(b"\r\n")[1:-2]])["content-length"])
                    body = await reader.readexactly(length)
                    self.bodies.append(body)
                    async with self.received:
                        self.received.notify_all()
                    handler = self._handlers.pop(0) if len(self._handlers) > 1 else self._handlers[0]
                    await handler(body, writer)
        finally:
            self.open -= 1
            writer.close()


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value


def _acknowledgement(body: bytes) -> bytes:
    content = accept(httpx.Request("POST", "http://service", content=body)).content
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content


async def answer_all(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(_acknowledgement(body))


async def cut_before_the_answer(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def cut_amid_the_answer(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(_acknowledgement(body)[:-10])
    writer.close()


async def reset(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def answer_and_close_at_once(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(_acknowledgement(body))
    writer.close()


@pytest.mark.parametrize("cut", [cut_before_the_answer, cut_amid_the_answer, reset])
async def test_a_cut_connection_is_made_anew_and_the_same_bytes_are_sent(cut: Handler) -> None:
    server = Server(cut, cut, answer_all)
    async with server.running() as url, PersistenceClient(url, timing=QuickTiming()) as client:
        receipt = await client.send_tasks(some_tasks(2))
        assert client.stats.retried == 2
    assert receipt.count == 2
    assert len(server.bodies) == 3
    assert len(set(server.bodies)) == 1


async def test_a_connection_that_the_server_closed_meanwhile_costs_nothing_but_an_attempt() -> None:
    server = Server(answer_and_close_at_once, answer_all)
    async with server.running() as url, PersistenceClient(url, timing=QuickTiming()) as client:
        for _ in range(3):
            assert (await client.send_tasks(some_tasks(1))).count == 1


async def test_where_nobody_listens_the_error_says_so() -> None:
    async with Server(answer_all).running() as url:
        pass
    async with PersistenceClient(url) as client:
        with pytest.raises(ServiceUnreachable, match=r"can't be reached at 127\.0\.0\.1"):
            await client.health()


async def test_calls_that_are_cancelled_leave_the_pool_whole() -> None:
    async def say_nothing(_: bytes, __: asyncio.StreamWriter) -> None:
        pass

    server = Server(*[say_nothing] * 10, answer_all)
    async with server.running() as url, PersistenceClient(url, timing=QuickTiming(), max_connections=2) as client:
        for number in range(5):  # more than there are connections
            calls = [asyncio.create_task(client.send_tasks(some_tasks(1))) for _ in range(2)]
            async with server.received:
                while len(server.bodies) < 2 * number + 2:
                    await server.received.wait()
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls)
        assert (await client.send_tasks(some_tasks(1))).count == 1


async def test_any_number_of_calls_share_the_connections_and_some_of_these_are_kept() -> None:
    server = Server(answer_all)
    async with server.running() as url, PersistenceClient(url, timing=QuickTiming()) as client:
        receipts = await asyncio.gather(*(client.send_tasks(some_tasks(1)) for _ in range(50)))
        assert sum(receipt.count for receipt in receipts) == 50
        assert client.stats.retried == 0
        kept = [c for c in client._http._transport._pool.connections if not c.is_closed()]  # type: ignore[attr-defined]  # httpx keeps its pool to itself
        assert len(kept) == 2
    assert server.most_open == 5

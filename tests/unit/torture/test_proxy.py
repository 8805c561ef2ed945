"""The proxy between a service and its database does what it says: here to a server that repeats what it hears."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from persistence_service.torture.proxy import Cut, Proxy, proxy_to

COMMIT = b"\x07\x00\x00\x00\x03COMMIT"
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_LONG_S = 60.0


class Repeater:
    """A server that sends back what it gets, and notes it; `ended` has how each connection ended, None in good order."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data)
            self.ended.put_nowait("in good order")
        except ConnectionResetError:
            self.ended.put_nowait("reset")
        finally:
            writer.transport.abort()


@pytest.fixture
def repeater() -> Repeater:
    return Repeater()


@pytest.fixture
async def proxy(repeater: Repeater) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(repeater.serve, "127.0.0.1", 0)
    async with server, proxy_to(server.sockets[0].getsockname()) as proxy, asyncio.timeout(_LONG_S):
        yield proxy


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(*proxy.address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def repeats(wire: Wire, text: bytes) -> bytes:
    """What comes back for `text`."""
    wire[1].write(text)
    return await wire[0].read(1000)


async def until_swallowed(proxy: Proxy, times: int) -> None:
    """Wait until so much was lost in silence."""
    ends_at = monotonic() + _LONG_S
    while proxy.done["swallowed"] < times:
        assert monotonic() < ends_at, proxy.done
        await asyncio.sleep(0)


async def test_everything_passes(proxy: Proxy) -> None:
    async with connected(proxy) as wire:
        large = bytes(range(256)) * 4000
        wire[1].write(large)
        assert await wire[0].readexactly(len(large)) == large
        assert proxy.connections == 1
    assert not proxy.done


async def test_a_delay_holds_each_way_up(proxy: Proxy) -> None:
    async with connected(proxy) as wire:
        assert await repeats(wire, b"first") == b"first"
        proxy.delay_s = 0.02
        began = monotonic()
        assert await repeats(wire, b"second") == b"second"
        assert monotonic() - began >= 0.04
        proxy.delay_s = 0
    assert proxy.done["delayed"] == 2


async def test_a_reset_reaches_both_sides(proxy: Proxy, repeater: Repeater) -> None:
    async with connected(proxy) as one, connected(proxy) as other:
        for wire in (one, other):
            assert await repeats(wire, b"here") == b"here"
        assert proxy.reset() == 2
        for wire in (one, other):
            with pytest.raises(ConnectionResetError):
                await wire[0].read(1)
        assert [await repeater.ended.get() for _ in range(2)] == ["reset", "reset"]
    async with connected(proxy) as again:
        assert await repeats(again, b"again") == b"again"


async def test_in_silence_nothing_comes_through_and_nobody_is_told_until_it_ends(
    proxy: Proxy, repeater: Repeater
) -> None:
    async with connected(proxy) as talking, connected(proxy) as idle:
        for wire in (talking, idle):
            assert await repeats(wire, b"here") == b"here"
        proxy.fall_silent(drops_new=False)
        async with connected(proxy) as new:
            answers = [asyncio.ensure_future(repeats(wire, b"lost")) for wire in (talking, new)]
            await until_swallowed(proxy, 2)
            done, _ = await asyncio.wait(answers, timeout=0.05)
            assert (done, repeater.heard) == (set(), b"herehere")
            proxy.speak_again()
            assert [type(answer) for answer in await asyncio.gather(*answers, return_exceptions=True)] == [
                ConnectionResetError,
                ConnectionResetError,
            ]
        assert await repeats(idle, b"still here") == b"still here"


async def test_new_connections_can_be_dropped_in_silence(proxy: Proxy) -> None:
    proxy.fall_silent(drops_new=True)
    async with connected(proxy) as wire:
        assert await wire[0].read() == b""
    assert proxy.done["dropped"] == 1
    proxy.speak_again()
    async with connected(proxy) as wire:
        assert await repeats(wire, b"again") == b"again"


async def test_a_cut_before_commit_keeps_it_from_the_server(proxy: Proxy, repeater: Repeater) -> None:
    async with connected(proxy) as wire, connected(proxy) as other:
        assert await repeats(wire, b"\x01\x00\x00\x00\x0e") == b"\x01\x00\x00\x00\x0e"
        cutting = asyncio.ensure_future(proxy.cut_next(Cut.BEFORE_COMMIT, timeout_s=_LONG_S))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):
            await repeats(wire, COMMIT)
        assert await cutting
        assert await repeater.ended.get() == "reset"
        assert b"COMMIT" not in repeater.heard
        assert await repeats(other, COMMIT) == COMMIT, "one connection only"
    assert proxy.done == {"before COMMIT": 1}


async def test_a_cut_before_the_answer_comes_when_the_server_has_answered(proxy: Proxy, repeater: Repeater) -> None:
    async with connected(proxy) as wire:
        cutting = asyncio.ensure_future(proxy.cut_next(Cut.BEFORE_ANSWER, timeout_s=_LONG_S))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):
            await repeats(wire, COMMIT)
        assert await cutting
        assert repeater.heard == COMMIT


async def test_a_cut_after_commit_ends_both_sides_once_it_is_sent_on(proxy: Proxy, repeater: Repeater) -> None:
    async with connected(proxy) as wire:
        cutting = asyncio.ensure_future(proxy.cut_next(Cut.AFTER_COMMIT, timeout_s=_LONG_S))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):
            await repeats(wire, COMMIT)
        assert await cutting
        await repeater.ended.get()


async def test_without_a_commit_nothing_is_cut_now_or_later(proxy: Proxy) -> None:
    assert not await proxy.cut_next(Cut.BEFORE_COMMIT, timeout_s=0.01)
    async with connected(proxy) as wire:
        assert await repeats(wire, COMMIT) == COMMIT


async def test_a_client_of_a_server_that_is_away_is_told(repeater: Repeater) -> None:
    server = await asyncio.start_server(repeater.serve, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()
    server.close()
    async with proxy_to(target) as proxy, asyncio.timeout(_LONG_S):
        reader, writer = await asyncio.open_connection(*proxy.address)
        assert await reader.read() == b""
        writer.transport.abort()

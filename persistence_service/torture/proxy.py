"""A way to a database server that can go bad: slow, silent, cut, and cut at the worst moments of a transaction."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Final

from persistence_service.torture.commits import CommitFinder

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_CHUNK_BYTES: Final = 65_536
_CLOSE_WITH_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Cut(Enum):
    """Where a connection ends whose client commits."""

    BEFORE_COMMIT = "before COMMIT"
    """The server never sees it, and rolls back."""
    AFTER_COMMIT = "after COMMIT"
    """The server gets it and then nothing more; the client gets no answer. Who is quicker, is not known."""
    BEFORE_ANSWER = "before the answer to COMMIT"
    """The server has answered, so that all is stored, and the client does not hear of it."""


class Proxy:
    """Passes everything on, but for what is switched on; `done` counts what became of that.

    All of it is switched from the event loop that it runs in.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._links: set[_Link] = set()
        self._next_cut: Cut | None = None
        self._cut_done = asyncio.Event()
        self.address = ("", 0)
        self.delay_s = 0.0
        """Each piece of data waits so long, in both directions."""
        self.is_silent = False
        """Nothing goes through; new connections are accepted, and nobody answers."""
        self.drops_new = False
        """New connections are ended before a word is said."""
        self.done: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    @property
    def is_encrypted(self) -> bool:
        """Whether a connection of now speaks TLS, in which no COMMIT can be seen."""
        return any(link.commits.is_encrypted for link in self._links)

    def reset(self) -> int:
        """End all connections with a TCP reset, to both sides; answers how many they were."""
        links = list(self._links)
        for link in links:
            link.reset()
        self.done["reset"] += len(links)
        return len(links)

    def fall_silent(self, *, drops_new: bool) -> None:
        """Swallow everything from now on; new connections are accepted without an answer, or dropped at once."""
        self.is_silent = True
        self.drops_new = drops_new

    def speak_again(self) -> None:
        """End of the silence; connections that lost a byte in it are reset, since what they say would make no sense."""
        self.is_silent = self.drops_new = False
        for link in [link for link in self._links if link.has_lost]:
            link.reset()

    async def cut_next(self, cut: Cut, *, timeout_s: float) -> bool:
        """Cut the next connection whose client commits, one only; False if nobody did in time."""
        self._next_cut = cut
        self._cut_done.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._cut_done.wait()
        except TimeoutError:
            return False
        finally:
            self._next_cut = None
        return True

    def take_cut(self) -> Cut | None:
        """What a connection that commits now has to suffer."""
        cut, self._next_cut = self._next_cut, None
        return cut

    def note_cut(self, cut: Cut) -> None:
        """It has suffered it."""
        self.done[cut.value] += 1
        self._cut_done.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until either side ends it."""
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            if self.drops_new:
                self.done["dropped"] += 1
            else:
                await link.run(self._target)
        except OSError:
            pass  # one side is gone, or was never there: so is the other
        finally:
            self._links.discard(link)
            link.abort()


class _Link:
    """One connection on both sides of the proxy."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = reader, writer
        self._writers = [writer]
        self._hides_answer = False
        self.commits = CommitFinder()
        self.has_lost = False

    async def run(self, target: tuple[str, int]) -> None:
        if self._proxy.is_silent:
            self.has_lost = True
            self._proxy.done["swallowed"] += 1
            await self._near[0].read(-1)  # until the client gives up, or `speak_again` ends it
            return
        reader, writer = await asyncio.open_connection(*target)
        self._writers.append(writer)
        copying = [
            asyncio.ensure_future(self._copy_from_client(self._near[0], writer)),
            asyncio.ensure_future(self._copy_from_server(reader, self._near[1])),
        ]
        try:
            await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in copying:
                task.cancel()
            await asyncio.gather(*copying, return_exceptions=True)

    def abort(self) -> None:
        """Close both sides, whatever is still to be sent."""
        for writer in self._writers:
            writer.transport.abort()

    def reset(self) -> None:
        """As `abort`, so that both sides see a reset and no orderly end."""
        for writer in self._writers:
            end = writer.get_extra_info("socket")
            with suppress(OSError):  # closed already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
        self.abort()

    async def _copy_from_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            cut = self._proxy.take_cut() if self.commits.finds_commit(data) else None
            if cut is Cut.BEFORE_COMMIT:
                self._suffer(cut)
                return
            self._hides_answer = cut is Cut.BEFORE_ANSWER
            await self._pass(data, writer)
            if cut is Cut.AFTER_COMMIT:
                self._suffer(cut)
                return

    async def _copy_from_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self._hides_answer:
                self._suffer(Cut.BEFORE_ANSWER)
                return
            await self._pass(data, writer)

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._proxy.delay_s:
            self._proxy.done["delayed"] += 1
            await asyncio.sleep(self._proxy.delay_s)
        if self._proxy.is_silent or self.has_lost:
            self.has_lost = True
            self._proxy.done["swallowed"] += 1
            return
        writer.write(data)
        await writer.drain()

    def _suffer(self, cut: Cut) -> None:
        self.reset()
        self._proxy.note_cut(cut)


@asynccontextmanager
async def proxy_to(target: tuple[str, int]) -> AsyncIterator[Proxy]:
    """A proxy to `target` on a free port of this machine, gone at the end with all its connections."""
    proxy = Proxy(target)
    async with listening(proxy.serve) as proxy.address:
        yield proxy


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    """The address on a free port of this machine where `serve` has each client that connects, until the end."""
    clients: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        clients.add(task)
        task.add_done_callback(clients.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

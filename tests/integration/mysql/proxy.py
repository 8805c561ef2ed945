"""A way to a server that can stop working: what is sent is swallowed, or the wire is cut."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from persistence_service.torture.proxy import listening


class Proxy:
    """While `swallows`, bytes go nowhere in either direction and nobody is told; `after` begins that with a text sent."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._trigger: bytes | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._forgets = False
        self.swallows = False
        self.address = ("", 0)

    def swallow_from(self, text: bytes) -> None:
        """Swallow everything as soon as the client has sent `text`, that included."""
        self._trigger = text

    def stall(self) -> None:
        """Read nothing any more, so that what is sent stays where it is."""
        self._flows.clear()

    def resume(self) -> None:
        """Go on after `stall`, with what was held back."""
        self._flows.set()

    def forget(self) -> None:
        """Keep the way to the server open when the client is gone: what a client does that lost its power."""
        self._forgets = True

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends it."""
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except BaseException:
            writer.transport.abort()
            raise
        copying = [
            asyncio.create_task(self._copy(reader, far_writer, from_client=True)),
            asyncio.create_task(self._copy(far_reader, writer, from_client=False)),
        ]
        try:
            await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
            if self._forgets:
                await asyncio.wait(copying)
        finally:
            for end in (writer, far_writer):
                end.transport.abort()
            for task in copying:
                task.cancel()
            await asyncio.wait(copying)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                if from_client and self._trigger is not None and self._trigger in data:
                    self.swallows = True
                if not self.swallows:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def proxy_to(target: tuple[str, int]) -> AsyncIterator[Proxy]:
    """A proxy to `target`, gone at the end with all its connections."""
    proxy = Proxy(target)
    async with listening(proxy.handle) as proxy.address:
        yield proxy


@contextmanager
def silent_host() -> Iterator[tuple[str, int]]:
    """Accepts connections, in the kernel alone: nobody ever reads or answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening.getsockname()


@contextmanager
def full_host() -> Iterator[tuple[str, int]]:
    """Drops every SYN, as a firewall does: its queue is full, and nobody takes from it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        try:
            yield address
        finally:
            for client in waiting:
                client.close()

"""HTTP by hand, byte for byte, as no client would send it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx
import msgspec

from tests.e2e.service import ServiceProcess

_GIVE_UP_S = 120
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code; the answer must be an error in the one form."""
        answer: dict[str, Any] = msgspec.json.decode(self.body)
        assert set(answer) == {"detail", "error_code", "request_id"}
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"] == answer["request_id"]
        return str(answer["error_code"])


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    """A request with a body whose length is announced, unless `headers` say otherwise."""
    lines = [f"POST /api/v1/translation{path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, service: ServiceProcess) -> AsyncIterator[Self]:
        """A connection to `service`, closed at the end of the block."""
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(service.url).port)
        async with asyncio.timeout(_GIVE_UP_S):
            try:
                yield cls(reader, writer)
            finally:
                writer.close()

    async def send(self, data: bytes) -> None:
        """Send, and wait until the system has taken it."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """The next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(head[0].split()[1]), headers, body)

    async def ask(self, data: bytes) -> Reply:
        """Send, and the answer to it."""
        await self.send(data)
        return await self.reply()

    async def closed(self) -> bytes:
        """Wait until the service has closed the connection; what it sent before that."""
        return await self.reader.read()

    def reset(self) -> None:
        """Leave without a word."""
        self.writer.transport.abort()

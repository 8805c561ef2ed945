"""The encodings that a body may come in: gzip, and zstd where it is installed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from persistence_service.errors import MalformedBody

try:
    from backports import zstd
except ImportError:  # the extra `zstd` is not installed
    zstd = None  # type: ignore[assignment]  # a module, or none

# A body may be several streams one after the other. Each costs a copy of what follows it, so their number is bounded.
_MAX_STREAMS = 16
_GZIP = 16 + zlib.MAX_WBITS
_ZSTD_WINDOW_LOG = 23  # 8 MiB, the most that RFC 9659 lets a sender ask of memory


class _Stream(Protocol):
    """Where one stream is read, as zlib and zstd have it in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an encoding is undone: `begin` makes a reader of one stream, which raises `broken`."""

    name: str
    begin: Callable[[], _Stream]
    broken: type[Exception]


def _known() -> dict[str, Encoding]:
    gzip = Encoding("gzip", lambda: zlib.decompressobj(_GZIP), zlib.error)
    known = {"gzip": gzip, "x-gzip": gzip}
    if zstd is not None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        known["zstd"] = Encoding("zstd", lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)
    return known


ENCODINGS = _known()


def decompress(body: bytes, encoding: Encoding, max_bytes: int) -> bytes | None:
    """What `body` is without its encoding; None over `max_bytes`, of which no more than one byte more was made.

    Raises:
        MalformedBody: not what the encoding says.
    """
    streams: list[bytes] = []
    size = 0
    for _ in range(_MAX_STREAMS):
        stream = encoding.begin()
        try:
            plain = stream.decompress(body, max_bytes + 1 - size)
        except encoding.broken:
            raise MalformedBody(f"the body is not valid {encoding.name}") from None
        size += len(plain)
        if size > max_bytes:
            return None
        if not stream.eof:
            raise MalformedBody(f"the body's {encoding.name} stream is cut short")
        streams.append(plain)
        body = stream.unused_data
        if not body:
            return b"".join(streams)
    raise MalformedBody(f"the body has more than {_MAX_STREAMS} {encoding.name} streams; compress it as one")

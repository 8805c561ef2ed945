"""Request bodies: bounded before anything is done with them."""

from __future__ import annotations

import zlib

from starlette.datastructures import Headers
from starlette.requests import Request

from persistence_service.errors import MalformedBody, PayloadTooLarge, UnsupportedMedia

_GZIP = 16 + zlib.MAX_WBITS
_GZIP_NAMES = ("gzip", "x-gzip")
# A gzip body may be several streams one after the other. Each costs a copy of what follows it, so their number is bounded.
_MAX_STREAMS = 16
_LONGEST_LENGTH = 18  # digits; no body has so many bytes


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The body, decompressed, of at most `max_bytes` before and after.

    Raises:
        UnsupportedMedia: there is a body and it is not application/json, or of an unknown encoding.
        PayloadTooLarge: over the bound; no more than that was read or decompressed.
        MalformedBody: empty, or not what its encoding says.
    """
    headers = request.headers
    encoding = headers.get("content-encoding", "").strip().lower() or "identity"
    if _has_body(headers):
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMedia("the body must be application/json")
        if encoding not in ("identity", *_GZIP_NAMES):
            raise UnsupportedMedia("the body may be sent as it is or with Content-Encoding: gzip")
    body = await _read(request, max_bytes)
    if encoding in _GZIP_NAMES and body:
        body = _gunzip(body, max_bytes)
    if not body:
        raise MalformedBody("the body is empty; send JSON")
    return body


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > _LONGEST_LENGTH or int(announced) > max_bytes):
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    streams: list[bytes] = []
    size = 0
    for _ in range(_MAX_STREAMS):
        inflater = zlib.decompressobj(_GZIP)
        try:
            plain = inflater.decompress(body, max_bytes + 1 - size)
        except zlib.error:
            raise MalformedBody("the body is not valid gzip") from None
        size += len(plain)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not inflater.eof:
            raise MalformedBody("the body's gzip stream is cut short")
        streams.append(plain)
        body = inflater.unused_data
        if not body:
            return b"".join(streams)
    raise MalformedBody(f"the body has more than {_MAX_STREAMS} gzip streams; compress it as one")


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body has at most {max_bytes} bytes, before and after decompression; split the batch")

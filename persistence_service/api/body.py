"""Request bodies: bounded before anything is done with them."""

from __future__ import annotations

import zlib

from starlette.requests import Request

from persistence_service.errors import MalformedBody, PayloadTooLarge, UnsupportedMedia

_GZIP = 16 + zlib.MAX_WBITS


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The body, decompressed, of at most `max_bytes` before and after.

    Raises:
        UnsupportedMedia: not application/json, or an unknown encoding.
        PayloadTooLarge: over the bound; no more than that was read or decompressed.
        MalformedBody: empty, or not what its encoding says.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMedia("the body must be application/json")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise UnsupportedMedia("the body may be sent as it is or with Content-Encoding: gzip")
    body = await _read(request, max_bytes)
    if encoding == "gzip" and body:
        body = _gunzip(body, max_bytes)
    if not body:
        raise MalformedBody("the body is empty; send JSON")
    return body


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
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
    inflater = zlib.decompressobj(_GZIP)
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        raise MalformedBody("the body is not valid gzip") from None
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise MalformedBody("the body is not one whole gzip stream")
    return plain


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body has at most {max_bytes} bytes, before and after decompression; split the batch")

"""Bodies: media types, encodings, bounds, and senders that lie or leave."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from tests.api.conftest import BASE, Api, StartApi, a_session, assert_error

URL = f"{BASE}/sessions/batch"
JSON = {"content-type": "application/json"}
BATCH = json.dumps({"sessions": [a_session()]}).encode()


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8 ; x=y"]
)
async def test_json_by_any_spelling_of_its_name_is_taken(api: Api, content_type: str) -> None:
    assert (await api.client.post(URL, content=BATCH, headers={"content-type": content_type})).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json+x", "application/jsonl", ""]
)
async def test_any_other_media_type_is_refused(api: Api, content_type: str) -> None:
    response = await api.client.post(URL, content=BATCH, headers={"content-type": content_type})
    assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"sessions": []} x',
        b'{"sessions": [NaN]}',
        b'{"sessions": [Infinity]}',
        b"\xff\xfe{}",
        b'{"sessions": ["\xff"]}',
        b"\xef\xbb\xbf" + BATCH,
        b"[" * 100_000,
        b'{"sessions": [' + b"[" * 100_000,
    ],
)
async def test_what_is_not_json_is_malformed(api: Api, body: bytes) -> None:
    assert_error(await api.client.post(URL, content=body, headers=JSON), 400, "MALFORMED_BODY")


@pytest.mark.parametrize("headers", [{}, JSON, {"content-type": "text/plain"}])
async def test_no_body_is_malformed_whatever_type_it_claims(api: Api, headers: dict[str, str]) -> None:
    assert_error(await api.client.post(URL, headers=headers), 400, "MALFORMED_BODY")
    empty = await api.client.post(
        URL, content=gzip.compress(b"", mtime=0), headers={**JSON, "content-encoding": "gzip"}
    )
    assert_error(empty, 400, "MALFORMED_BODY")


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udc00x"'])
async def test_half_a_surrogate_pair_is_refused(api: Api, text: str) -> None:
    body = BATCH.replace(b'"items.xlsx"', text.encode())
    response = await api.client.post(URL, content=body, headers=JSON)
    assert response.status_code in (400, 422)


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(BATCH, mtime=0),
        gzip.compress(BATCH[:20], mtime=0) + gzip.compress(BATCH[20:], mtime=0),
        gzip.compress(b"", mtime=0) * 5 + gzip.compress(BATCH, mtime=0),
    ],
)
@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP"])
async def test_a_gzip_body_of_one_or_several_streams_is_read(api: Api, body: bytes, name: str) -> None:
    response = await api.client.post(URL, content=body, headers={**JSON, "content-encoding": name})
    assert response.json()["count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        BATCH,
        zlib.compress(BATCH),
        gzip.compress(BATCH, mtime=0)[:-1],
        gzip.compress(BATCH, mtime=0)[:5],
        gzip.compress(BATCH, mtime=0) + b"garbage",
        gzip.compress(BATCH, mtime=0)[:-8] + b"\0" * 8,
        gzip.compress(b"", mtime=0) * 1000 + gzip.compress(BATCH, mtime=0),
    ],
)
async def test_what_is_not_whole_gzip_is_malformed(api: Api, body: bytes) -> None:
    response = await api.client.post(URL, content=body, headers={**JSON, "content-encoding": "gzip"})
    assert_error(response, 400, "MALFORMED_BODY")


@pytest.mark.parametrize("name", ["br", "deflate", "gzip, gzip", "gzip;q=1", "nonsense"])
async def test_an_unknown_encoding_is_refused(api: Api, name: str) -> None:
    response = await api.client.post(
        URL, content=gzip.compress(BATCH, mtime=0), headers={**JSON, "content-encoding": name}
    )
    assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("name", ["identity", ""])
async def test_no_encoding_may_be_named(api: Api, name: str) -> None:
    response = await api.client.post(URL, content=BATCH, headers={**JSON, "content-encoding": name})
    assert response.status_code == 200


async def test_the_bound_on_bytes_holds_to_the_byte_before_and_after_decompression(start_api: StartApi) -> None:
    api = await start_api(limits={"max_body_bytes": 2048, "max_text_bytes": 1024})
    packed = {**JSON, "content-encoding": "gzip"}
    largest = BATCH.ljust(2048)
    assert (await api.client.post(URL, content=largest, headers=JSON)).status_code == 200
    assert (await api.client.post(URL, content=gzip.compress(largest, mtime=0), headers=packed)).status_code == 200
    larger = BATCH.ljust(2049)
    assert_error(await api.client.post(URL, content=larger, headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    assert_error(
        await api.client.post(URL, content=gzip.compress(larger, mtime=0), headers=packed), 413, "PAYLOAD_TOO_LARGE"
    )
    in_two = gzip.compress(larger[:1500], mtime=0) + gzip.compress(larger[1500:], mtime=0)
    assert_error(await api.client.post(URL, content=in_two, headers=packed), 413, "PAYLOAD_TOO_LARGE")
    bomb = gzip.compress(b" " * 1_000_000, mtime=0)
    assert_error(await api.client.post(URL, content=bomb, headers=packed), 413, "PAYLOAD_TOO_LARGE")


async def test_a_body_of_unknown_length_is_read_up_to_the_bound(start_api: StartApi) -> None:
    api = await start_api(limits={"max_body_bytes": 2048, "max_text_bytes": 1024})
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1000

    async def in_pieces() -> AsyncIterator[bytes]:
        for position in range(0, len(BATCH), 7):
            yield BATCH[position : position + 7]

    assert (await api.client.post(URL, content=in_pieces(), headers=JSON)).status_code == 200
    assert_error(await api.client.post(URL, content=endless(), headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    assert sent < 10


@pytest.mark.parametrize("length", ["99999999999", "9" * 5000])
async def test_an_announced_length_over_the_bound_is_believed_without_reading(api: Api, length: str) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for piece in [b"{", b"}"]:
            assert piece == b"", "it was read"
            yield piece

    response = await api.client.post(URL, content=nothing(), headers={**JSON, "content-length": length})
    assert_error(response, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("length", ["1", "-5", "x", "²"])
async def test_a_lie_about_the_length_changes_nothing(api: Api, length: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield BATCH

    headers = [(b"content-type", b"application/json"), (b"content-length", length.encode("latin-1"))]
    response = await api.client.post(URL, content=pieces(), headers=headers)
    assert response.status_code == 200


async def test_a_sender_who_leaves_in_mid_body_is_no_error(api: Api) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": BATCH[:20], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": URL,
        "raw_path": URL.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"500")],
        "state": {"services": api.services},
    }
    with capture_logs() as logs:
        await api.app(scope, receive, send)
    assert sent == []
    assert logs == []
    assert 'status="499"' in (await api.client.get("/metrics")).text
    assert_error(await api.get("/sessions/s1"), 404, "SESSION_NOT_FOUND")

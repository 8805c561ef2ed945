"""Bodies: media types, encodings, bounds, and senders that lie or leave."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import pytest
from backports import zstd
from starlette.types import Message
from structlog.testing import capture_logs

from persistence_service.api import encodings
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


# ------------------------------------------------------------------------------------------------ charset and zstd


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8"])
async def test_utf_8_may_be_named(api: Api, charset: str) -> None:
    headers = {"content-type": f"application/json;a=b; charset={charset}"}
    assert (await api.client.post(URL, content=BATCH, headers=headers)).status_code == 200


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "us-ascii", "", '"', "utf-8utf-16", "utf-8;charset=utf-16"])
async def test_any_other_charset_is_refused(api: Api, charset: str) -> None:
    headers = {"content-type": f"application/json; charset={charset}"}
    assert_error(await api.client.post(URL, content=BATCH, headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")


ZSTD = {**JSON, "content-encoding": "zstd"}


async def test_a_zstd_body_is_read(api: Api) -> None:
    in_two = zstd.compress(BATCH[:20]) + zstd.compress(BATCH[20:])
    for body in (zstd.compress(BATCH), in_two):
        assert (await api.client.post(URL, content=body, headers=ZSTD)).json()["count"] == 1


@pytest.mark.parametrize(
    "body",
    [BATCH, zstd.compress(BATCH)[:-1], zstd.compress(BATCH) + b"garbage", gzip.compress(BATCH)],
    ids=["plain", "cut short", "with garbage", "gzip"],
)
async def test_what_is_not_whole_zstd_is_malformed(api: Api, body: bytes) -> None:
    assert_error(await api.client.post(URL, content=body, headers=ZSTD), 400, "MALFORMED_BODY")


async def test_a_zstd_body_is_bounded_after_decompression(start_api: StartApi) -> None:
    api = await start_api(limits={"max_body_bytes": 2048, "max_text_bytes": 1024})
    assert (await api.client.post(URL, content=zstd.compress(BATCH.ljust(2048)), headers=ZSTD)).status_code == 200
    for bomb in (BATCH.ljust(2049), b" " * 100_000_000):
        answer = await api.client.post(URL, content=zstd.compress(bomb), headers=ZSTD)
        assert_error(answer, 413, "PAYLOAD_TOO_LARGE")


async def test_a_zstd_window_over_8_mib_is_refused(api: Api) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    body = packer.compress(BATCH) + packer.flush(zstd.ZstdCompressor.FLUSH_FRAME)
    assert_error(await api.client.post(URL, content=body, headers=ZSTD), 400, "MALFORMED_BODY")


async def test_without_the_extra_zstd_is_an_unknown_encoding(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(encodings.ENCODINGS, "zstd")
    answer = await api.client.post(URL, content=zstd.compress(BATCH), headers=ZSTD)
    assert "gzip" in assert_error(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


# -------------------------------------------------------------------------------------------------- time and memory


class Sender:
    """A body that stops after its first piece until it is told to go on."""

    def __init__(self, body: bytes, at: int) -> None:
        self._body = body
        self._at = at
        self.stopped = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body[: self._at]
        self.stopped.set()
        await self.go_on.wait()
        yield self._body[self._at :]


async def test_a_body_that_stops_is_given_up_and_the_connection_with_it(start_api: StartApi) -> None:
    api = await start_api(limits={"body_timeout": 0.05})
    response = await api.client.post(URL, content=Sender(BATCH, 10), headers=JSON)
    assert_error(response, 408, "HTTP_408")
    assert response.headers["connection"] == "close"
    assert_error(await api.get("/sessions/s1"), 404, "SESSION_NOT_FOUND")


async def test_a_body_that_trickles_is_given_up_however_steadily(start_api: StartApi) -> None:
    api = await start_api(limits={"body_timeout": 0.05})

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.001)
            yield b" "

    assert_error(await api.client.post(URL, content=trickle(), headers=JSON), 408, "HTTP_408")


async def test_a_long_body_has_its_time_for_each_piece(start_api: StartApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await start_api(limits={"body_timeout": 60})
    loop = asyncio.get_running_loop()
    clock, passed_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + passed_s)

    async def steady() -> AsyncIterator[bytes]:
        nonlocal passed_s
        for _ in range(5):
            passed_s += 45
            await asyncio.sleep(0)  # whoever has run out of time hears of it
            yield b" " * 256 * 1024
        yield BATCH

    assert (await api.client.post(URL, content=steady(), headers=JSON)).status_code == 200


async def test_bodies_in_work_are_bounded_together_and_give_their_room_back(start_api: StartApi) -> None:
    api = await start_api(limits={"max_inflight_bytes": 4096, "max_body_bytes": 65_536, "max_text_bytes": 1024})
    senders = [Sender(BATCH.ljust(2001), 2000) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(api.client.post(URL, content=sender, headers=JSON)) for sender in senders]
        for sender in senders:
            await sender.stopped.wait()
        assert (await api.client.post(URL, content=BATCH[:90], headers=JSON)).status_code == 400  # there is room for it
        for body, headers in (
            (BATCH.ljust(97), JSON),
            (BATCH.ljust(10_000), JSON),
            (gzip.compress(BATCH.ljust(4000)), {**JSON, "content-encoding": "gzip"}),
        ):
            refused = await api.client.post(URL, content=body, headers=headers)
            assert "send the request again" in assert_error(refused, 503, "MEMORY_LIMIT")
        for sender in senders:
            sender.go_on.set()
    assert [task.result().status_code for task in waiting] == [200, 200]
    for _ in range(5):  # alone, it may be larger than the bound
        assert (await api.client.post(URL, content=BATCH.ljust(10_000), headers=JSON)).status_code == 200


@pytest.mark.parametrize("headers", [JSON, {"content-type": "text/plain"}])
async def test_a_refused_body_gives_its_room_back(start_api: StartApi, headers: dict[str, str]) -> None:
    api = await start_api(limits={"max_inflight_bytes": 4096, "max_body_bytes": 3000, "max_text_bytes": 1024})
    for _ in range(5):
        assert (await api.client.post(URL, content=b"{" * 2900, headers=headers)).status_code in (400, 415)
        assert_error(await api.client.post(URL, content=b"{" * 3001, headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    sender = Sender(BATCH.ljust(2001), 2000)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(api.client.post(URL, content=sender, headers=JSON))
        await sender.stopped.wait()
        assert (await api.client.post(URL, content=BATCH.ljust(2000), headers=JSON)).status_code == 200
        sender.go_on.set()
    assert waiting.result().status_code == 200


# ---------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "accepted,encoding",
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("deflate, gzip;q=0.5, br", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("br, *;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000", None),
        ("*;q=0", None),
        ("gzip;q=0, *", None),
        ("*;q=0, gzip", "gzip"),
        ("identity", None),
        ("br", None),
        ("", None),
        ("notgzip", None),
    ],
)
async def test_answers_are_compressed_for_those_who_take_that(api: Api, accepted: str, encoding: str | None) -> None:
    response = await api.client.get("/openapi.json", headers={"accept-encoding": accepted})
    assert response.headers.get("content-encoding") == encoding
    assert response.headers["vary"] == "Accept-Encoding"
    assert response.json()["openapi"]


async def test_small_answers_are_left_as_they_are(api: Api) -> None:
    response = await api.client.get("/health/live", headers={"accept-encoding": "gzip"})
    assert response.content == b'{"status":"alive"}'
    assert "content-encoding" not in response.headers

"""Hostile input below HTTP's surface, against the real server: its answer, and that it is well afterwards."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio

from tests.e2e.service import ServiceProcess, running_service
from tests.e2e.wire import GET, Wire, post

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
SESSION = {"session_id": "s1", "filename": "f", "file_path": "p", "status": "pending", "llm_provider": "x"}
BATCH = msgspec.json.encode({"sessions": [SESSION]})
GOOD = post("/sessions/batch", BATCH)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    async with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(shared: ServiceProcess) -> AsyncIterator[ServiceProcess]:
    """A service that is well, and must be so after the test."""
    yield shared
    await assert_well(shared)


async def assert_well(service: ServiceProcess) -> None:
    """It is healthy, keeps a batch, and has logged no failure."""
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60, base_url=service.url) as client:  # noqa: S501  # plain HTTP
        assert (await client.get("/health")).json()["status"] == "healthy"
        assert (
            await client.post("/api/v1/translation/sessions/batch", json={"sessions": [SESSION]})
        ).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert not re.search(r'api_requests_total\{[^}]*status="500"', metrics)
    assert not [line for line in service.log if "Traceback" in line or re.search(r"\[(error|critical)", line)]


def resident_bytes(service: ServiceProcess) -> int:
    assert service.pid is not None
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.pid}/status").read_text(encoding="ascii"))
    return int(line) * 1024


# ----------------------------------------------------------------------------------------------- what is no HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET /health/live HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT : HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post("/flush", b"{}", "Content-Length: 2", "Transfer-Encoding: chunked"),
        post("/flush", b"{}", "Content-Length: 2", "Content-Length: 3"),
        post("/flush", b"{}", "Content-Length: -1"),
        post("/flush", b"{}", "Content-Length: 99999999999999999999999"),
        post("/flush", b"{}", "Content-Length: 0x2"),
        post("/sessions/batch", b"FFFFFFFFFFFFFFFFF\r\n{}", "Transfer-Encoding: chunked"),
        post("/sessions/batch", b"-1\r\n{}", "Transfer-Encoding: chunked"),
        post("/sessions/batch", b"2\r\n{}xx\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post("/sessions/batch", b"0\r\nX: a\0b\r\n\r\n", "Transfer-Encoding: chunked"),
    ],
    ids=lambda data: data[:40].decode("ascii", "replace"),
)
async def test_what_is_no_http_is_400_in_the_one_form_and_the_end_of_the_connection(
    service: ServiceProcess, data: bytes
) -> None:
    async with Wire.to(service) as wire:
        reply = await wire.ask(data)
        assert (reply.status, reply.code, reply.headers["connection"]) == (400, "HTTP_400", "close")
        assert await wire.closed() == b""


async def test_garbage_behind_a_request_does_not_spoil_its_answer(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        assert (await wire.ask(GOOD + b"\x00garbage\r\n\r\n")).status == 200
        await wire.closed()


# --------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize(
    "head,status",
    [
        (b"X: " + b"a" * 70_000 + b"\r\n", 431),
        (b"".join(b"X-%d: a\r\n" % number for number in range(200)), 431),
        (b"Cookie: " + b"a" * 60_000 + b"\r\nX: " + b"b" * 6000 + b"\r\n", 431),
    ],
    ids=["one field", "many fields", "together"],
)
async def test_a_head_over_its_bounds_is_refused(service: ServiceProcess, head: bytes, status: int) -> None:
    async with Wire.to(service) as wire:
        reply = await wire.ask(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        assert (reply.status, reply.code) == (status, f"HTTP_{status}")
        assert await wire.closed() == b""


async def test_an_address_over_its_bound_is_refused(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        reply = await wire.ask(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (reply.status, reply.code) == (414, "HTTP_414")


async def test_a_head_within_its_bounds_is_taken(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        head = b"X: " + b"a" * 60_000 + b"\r\n"
        for _ in range(3):  # each head counts by itself
            assert (await wire.ask(GET[:-2] + head + b"\r\n")).status == 200


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET /",
        post("/sessions/batch", b"0\r\nX: ", "Transfer-Encoding: chunked"),
        post("/sessions/batch", b"1;", "Transfer-Encoding: chunked"),
    ],
    ids=["head", "address", "trailer", "chunk extension"],
)
async def test_what_never_ends_costs_no_memory(service: ServiceProcess, start: bytes) -> None:
    before = resident_bytes(service)
    async with Wire.to(service) as wire:
        await wire.send(start)
        with suppress(ConnectionError):
            for _ in range(300):
                await wire.send(b"a" * MIB)
    assert resident_bytes(service) < before + 10 * MIB


async def test_a_trailer_adds_nothing_to_what_the_request_said_of_itself(service: ServiceProcess) -> None:
    body = b"%x\r\n%s\r\n0\r\nContent-Encoding: gzip\r\nOrigin: http://evil.example\r\n\r\n" % (len(BATCH), BATCH)
    async with Wire.to(service) as wire:
        assert (await wire.ask(post("/sessions/batch", body, "Transfer-Encoding: chunked"))).status == 200


# ----------------------------------------------------------------------------------------------------- many at once


async def test_pipelined_requests_are_answered_in_their_order(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        await wire.send((GET + GOOD) * 20)
        for _ in range(20):
            assert (await wire.reply()).body == b'{"status":"alive"}'
            assert b'"accepted"' in (await wire.reply()).body


async def test_too_many_requests_ahead_of_their_answers_end_the_connection_behind_the_answers_due(
    service: ServiceProcess,
) -> None:
    before = resident_bytes(service)
    async with Wire.to(service) as wire:
        with suppress(ConnectionError):
            for _ in range(50):
                await wire.send(GET * 10_000)
        received = await wire.closed()
        assert 1 <= received.count(b"HTTP/1.1 200 OK") <= 10_000
    assert resident_bytes(service) < before + 10 * MIB


async def test_a_client_that_asks_first_is_told_to_continue(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        head, body = GOOD.split(b"\r\n\r\n")
        await wire.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await wire.reply()).status == 100
        assert (await wire.ask(body)).status == 200


async def test_a_client_that_asks_first_is_refused_before_it_sends(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        head = post("/sessions/batch", b"", "Content-Length: 99999999", "Expect: 100-continue")
        reply = await wire.ask(head)
        assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")


async def test_an_upgrade_is_answered_as_the_request_it_is(service: ServiceProcess) -> None:
    for protocol in ("websocket", "h2c"):
        async with Wire.to(service) as wire:
            assert (
                await wire.ask(GET[:-2] + f"Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode())
            ).status == 200
            await wire.closed()
        async with Wire.to(service) as wire:
            upgrading = post("/sessions/batch", BATCH, "Connection: Upgrade", f"Upgrade: {protocol}")
            assert (await wire.ask(upgrading)).status in (200, 400)


# ------------------------------------------------------------------------------------------------------- too large


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_33_mib_are_refused_and_the_connection_goes_on_if_they_are_sent_all_the_same(
    service: ServiceProcess, chunked: bool
) -> None:
    before = resident_bytes(service)
    async with Wire.to(service) as wire:
        if chunked:
            await wire.send(post("/sessions/batch", b"", "Transfer-Encoding: chunked"))
            for _ in range(33):
                await wire.send(b"100000\r\n" + b" " * MIB + b"\r\n")
            await wire.send(b"0\r\n\r\n")
        else:
            await wire.send(post("/sessions/batch", b"", f"Content-Length: {33 * MIB}"))
            for _ in range(33):
                await wire.send(b" " * MIB)
        reply = await wire.reply()
        assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")
        assert (await wire.ask(GOOD)).status == 200
    assert resident_bytes(service) < before + 100 * MIB


# -------------------------------------------------------------------------------------------------- those who leave


@pytest.mark.parametrize(
    "cut", [10, 60, len(GOOD) - len(BATCH), len(GOOD) - 1], ids=["line", "head", "no body", "body"]
)
async def test_who_leaves_in_the_middle_of_a_request_leaves_nothing_behind(service: ServiceProcess, cut: int) -> None:
    for _ in range(20):
        async with Wire.to(service) as wire:
            await wire.send(GOOD[:cut])
            wire.reset()


async def test_who_leaves_before_the_answer_has_the_batch_kept_or_not(service: ServiceProcess) -> None:
    for number in range(20):
        async with Wire.to(service) as wire:
            body = BATCH.replace(b'"s1"', b'"gone-%d"' % number)
            await wire.send(post("/sessions/batch?ack=storage", body))
            wire.reset()
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60, base_url=service.url) as client:  # noqa: S501  # plain HTTP
        for number in range(20):
            answer = await client.get(f"/api/v1/translation/sessions/gone-{number}")
            assert answer.status_code in (200, 404)


async def test_who_sends_no_more_but_listens_is_answered(service: ServiceProcess) -> None:
    async with Wire.to(service) as wire:
        await wire.send(GOOD[:-1])
        wire.writer.write_eof()
        assert b"HTTP/1.1 200" not in await wire.closed()


async def test_a_hundred_silent_connections_keep_nobody_out(service: ServiceProcess) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", httpx.URL(service.url).port) for _ in range(100)]
    for _, writer in silent:
        writer.write(b"POST /api/v1/translation/sessions/batch HTTP/1.1\r\nHost: loc")
    async with Wire.to(service) as wire:
        assert (await wire.ask(GOOD)).status == 200
    for _, writer in silent:
        writer.close()


# --------------------------------------------------------------------------------------------------- those who are slow


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    settings = {"limits.header_timeout": "400ms", "limits.body_timeout": "400ms"}
    async with running_service(tmp_path_factory.mktemp("impatient"), settings) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def impatient(shared_impatient: ServiceProcess) -> AsyncIterator[ServiceProcess]:
    """A service that waits for nobody long, and must be well after the test."""
    yield shared_impatient
    await in_the_end(partial(assert_well, shared_impatient))


async def in_the_end(work: Callable[[], Awaitable[None]]) -> None:
    """For a machine that now and then does nothing for longer than the service waits for us."""
    for _ in range(4):
        with suppress(AssertionError, EOFError, OSError, httpx.TransportError):
            return await work()
    return await work()


async def trickle(wire: Wire) -> None:
    """Send a byte whenever the last one has had its effect, until the service has had enough."""
    with suppress(ConnectionError):
        while not wire.reader.at_eof():
            await wire.send(b"a")
            with suppress(TimeoutError):
                await asyncio.wait_for(wire.writer.wait_closed(), 0.02)


@pytest.mark.parametrize(
    "start",
    [
        b"G",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ",
        GOOD[: len(GOOD) - len(BATCH)],
        GOOD[:-1],
        post("/sessions/batch", b"0\r\nX: ", "Transfer-Encoding: chunked"),
    ],
    ids=["line", "head", "no body", "body", "trailer"],
)
async def test_a_request_that_stops_is_408_in_the_one_form_and_the_end_of_the_connection(
    impatient: ServiceProcess, start: bytes
) -> None:
    async with Wire.to(impatient) as wire:
        reply = await wire.ask(start)
        assert (reply.status, reply.code, reply.headers["connection"]) == (408, "HTTP_408", "close")
        assert await wire.closed() == b""


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ",
        post("/sessions/batch", b"{", "Content-Length: 1000000"),
    ],
    ids=["head", "body"],
)
async def test_a_request_that_trickles_in_is_408_however_steadily(impatient: ServiceProcess, start: bytes) -> None:
    async with Wire.to(impatient) as wire:
        await wire.send(start)
        sending = asyncio.create_task(trickle(wire))
        try:
            reply = await wire.reply()
        finally:
            sending.cancel()
        assert (reply.status, reply.code) == (408, "HTTP_408")


async def test_who_asks_nothing_is_let_go_without_a_word(impatient: ServiceProcess) -> None:
    async with Wire.to(impatient) as wire:
        assert await wire.closed() == b""
    async with Wire.to(impatient) as wire:
        await wire.send(b"\r\n\r\n")
        assert await wire.closed() == b""


async def test_who_never_sends_the_rest_of_a_refused_body_is_let_go(impatient: ServiceProcess) -> None:
    async with Wire.to(impatient) as wire:
        reply = await wire.ask(post("/sessions/batch", b"{", f"Content-Length: {33 * MIB}"))
        assert reply.status == 413
        await wire.closed()


async def test_who_never_takes_the_answer_is_cut_off(impatient: ServiceProcess) -> None:
    await in_the_end(partial(store_much, impatient))
    with socket.create_connection(("127.0.0.1", httpx.URL(impatient.url).port)) as silent:
        silent.sendall(b"GET /api/v1/translation/tasks?page_size=20 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(120):
            while is_connected(impatient, silent):
                await in_the_end(partial(assert_well, impatient))


async def store_much(service: ServiceProcess) -> None:
    """Tasks of 20 MB."""
    text = "x" * 1_000_000
    task = {
        "session_id": "s1", "batch_id": "b", "sheet_name": "S", "column_name": "c", "status": "pending", "source_text": text
    }  # fmt: skip
    async with Wire.to(service) as wire:
        assert (await wire.ask(GOOD)).status == 200
        for number in range(20):
            batch = msgspec.json.encode({"tasks": [{**task, "task_id": f"t{number}", "row_index": number}]})
            assert (await wire.ask(post("/tasks/batch", batch))).status == 200
        assert (await wire.ask(post("/flush"))).status == 200


def is_connected(service: ServiceProcess, client: socket.socket) -> bool:
    """Whether the service still has its end of a connection."""
    ends = f"0100007F:{httpx.URL(service.url).port:04X} 0100007F:{client.getsockname()[1]:04X} 01"
    return ends in Path("/proc/net/tcp").read_text(encoding="ascii")

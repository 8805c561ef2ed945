"""Who may talk to the service: peers, Host, Origin, Sec-Fetch-Site, CORS; and request ids."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tests.api.conftest import Api, StartApi, assert_error

FLUSH = "/api/v1/translation/flush"
PATHS = ("/health/live", "/openapi.json", "/docs", "/metrics", "/nothing")


def calling_from(api: Api, peer: tuple[str, int] | None) -> httpx.AsyncClient:
    """A client whose requests seem to come from `peer`."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await api.app({**scope, "client": peer, "state": {"services": api.services}}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=call), base_url="http://localhost:8001")


@pytest.mark.parametrize(
    "address", ["192.168.1.5", "10.0.0.1", "::ffff:192.168.1.5", "2001:db8::1", "fe80::1%eth0", "nas"]
)
async def test_another_machine_is_refused_whatever_host_it_names(api: Api, address: str) -> None:
    async with calling_from(api, (address, 40_000)) as client:
        for path in PATHS:
            assert_error(await client.get(path), 403, "FORBIDDEN")
        assert_error(await client.post(FLUSH), 403, "FORBIDDEN")


async def test_another_machine_is_refused_before_it_is_told_which_origins_are_open(start_api: StartApi) -> None:
    api = await start_api(security={"cors_origins": ["https://board.example"]})
    async with calling_from(api, ("192.168.1.5", 40_000)) as client:
        asked = {"origin": "https://board.example", "access-control-request-method": "POST"}
        assert_error(await client.options(FLUSH, headers=asked), 403, "FORBIDDEN")


async def test_another_machine_is_served_where_that_is_allowed(start_api: StartApi) -> None:
    api = await start_api(security={"allow_anonymous": True})
    async with calling_from(api, ("192.168.1.5", 40_000)) as client:
        assert (await client.post(FLUSH)).status_code == 200
        assert_error(await client.get("/health/live", headers={"host": "evil.com"}), 403, "FORBIDDEN")


@pytest.mark.parametrize(
    "peer", [("127.0.0.1", 1), ("127.8.9.10", 1), ("::1", 1), ("::ffff:127.0.0.1", 1), ("", 0), None]
)
async def test_a_caller_on_this_machine_is_served(api: Api, peer: tuple[str, int] | None) -> None:
    async with calling_from(api, peer) as client:
        assert (await client.post(FLUSH)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8001",
        "LocalHost:8001",
        "localhost.",
        "localhost.:8001",
        "127.0.0.1",
        "127.0.0.1:8001",
        "127.8.9.10:1",
        "[::1]",
        "[::1]:8001",
        "[0:0:0:0:0:0:0:1]:8001",
    ],
)
async def test_loopback_by_any_of_its_names_is_served(api: Api, host: str) -> None:
    assert (await api.client.get("/health/live", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "127.0.0.1.evil.com",
        "127.0.0.1.evil.com:8001",
        "localhost.evil.com",
        "evil.com:127.0.0.1",
        "evil.com@localhost",
        "localhost@evil.com",
        "localhost/evil.com",
        "localhost:80:80",
        "]localhost[",
        "[localhost]",
        "[::1",
        "[::2]:8001",
        "::1",
        "192.168.1.5",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        "localhost\u00ad",
    ],
)
async def test_any_other_host_is_refused(api: Api, host: str) -> None:
    headers = [(b"host", host.encode("latin-1"))]
    for path in PATHS:
        assert_error(await api.client.get(path, headers=headers), 403, "FORBIDDEN")


async def test_a_request_without_host_is_refused(api: Api) -> None:
    request = api.client.build_request("GET", "/health/live")
    del request.headers["host"]
    assert_error(await api.client.send(request), 403, "FORBIDDEN")


async def test_a_request_with_two_hosts_is_refused(api: Api) -> None:
    headers = [(b"host", b"localhost"), (b"host", b"evil.com")]
    assert_error(await api.client.get("/health/live", headers=headers), 403, "FORBIDDEN")


async def test_a_configured_host_is_served(start_api: StartApi) -> None:
    api = await start_api(security={"allowed_hosts": ["Keeper.example"]})
    assert (await api.client.get("/health/live", headers={"host": "keeper.EXAMPLE:80"})).status_code == 200
    assert_error(await api.client.get("/health/live", headers={"host": "x.keeper.example"}), 403, "FORBIDDEN")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.com"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost:8001.evil.com"},
        {"origin": "http://localhost:8001@evil.com"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "nonsense"},
        {"origin": "http://localhost:8001", "sec-fetch-site": "cross-site"},
    ],
)
async def test_a_page_of_another_site_changes_nothing(api: Api, headers: dict[str, str]) -> None:
    assert_error(await api.client.post(FLUSH, headers=headers), 403, "FORBIDDEN")
    assert (await api.client.get("/health/live", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost:8001"},
        {"origin": "http://localhost:8001", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_programs_and_pages_of_the_service_itself_may_change_something(api: Api, headers: dict[str, str]) -> None:
    assert (await api.client.post(FLUSH, headers=headers)).status_code == 200


async def test_without_configuration_no_header_of_cors_is_sent(api: Api) -> None:
    asked = {"origin": "http://localhost:8001", "access-control-request-method": "POST"}
    responses = [
        await api.client.get("/health/live", headers=asked),
        await api.client.options(FLUSH, headers=asked),
        await api.client.post(FLUSH, headers={"origin": "http://evil.com"}),
    ]
    assert [response.status_code for response in responses] == [200, 405, 403]
    assert not [name for response in responses for name in response.headers if name.startswith("access-control")]


async def test_a_configured_origin_may_read_and_write(start_api: StartApi) -> None:
    api = await start_api(security={"cors_origins": ["https://board.example"]})
    page = {"origin": "https://board.example", "sec-fetch-site": "cross-site"}
    preflight = await api.client.options(
        FLUSH,
        headers={**page, "access-control-request-method": "POST", "access-control-request-headers": "content-type"},
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://board.example"
    for response in (await api.client.post(FLUSH, headers=page), await api.client.get("/health", headers=page)):
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://board.example"
        assert "access-control-allow-credentials" not in response.headers
    wrong_host = await api.client.post(FLUSH, headers={**page, "host": "evil.com"})
    assert_error(wrong_host, 403, "FORBIDDEN")


async def test_an_origin_that_is_not_configured_stays_shut_out(start_api: StartApi) -> None:
    api = await start_api(security={"cors_origins": ["https://board.example"]})
    for origin in ("https://evil.example", "https://board.example.evil.com", "http://board.example", "null"):
        page = {"origin": origin}
        assert_error(await api.client.post(FLUSH, headers=page), 403, "FORBIDDEN")
        response = await api.client.get("/health/live", headers=page)
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("request_id", ["abc", "A-1_2.3:4", "x" * 128])
async def test_a_sane_request_id_is_kept(api: Api, request_id: str) -> None:
    response = await api.client.get("/health/live", headers={"x-request-id": request_id})
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "a\nb", 'a"b', "é", "<script>", "²"])
async def test_any_other_request_id_is_replaced(api: Api, request_id: str) -> None:
    headers = [(b"x-request-id", request_id.encode("latin-1"))]
    response = await api.client.get("/health/live", headers=headers)
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-request-id"] != request_id


async def test_every_answer_has_a_request_id(api: Api) -> None:
    for path in ("/health/live", "/nothing", "/metrics", "/docs", "/docs/files/nothing", "/openapi.json"):
        assert (await api.client.get(path)).headers["x-request-id"]

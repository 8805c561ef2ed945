"""Health in each state, metrics, and compression."""

from __future__ import annotations

import pytest

from persistence_service.errors import StorageUnavailable
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.api.conftest import Api, StartApi, a_session, a_task, assert_error
from tests.unit.buffer.harness import until


async def test_a_healthy_service_says_so(api: Api) -> None:
    await api.keep([a_session()], [a_task()])
    response = await api.client.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert (health["status"], health["database"], health["detail"]) == ("healthy", "healthy", "")
    buffer = health["buffer"]
    assert (buffer["sessions_count"], buffer["tasks_count"], buffer["total_count"]) == (1, 1, 2)
    assert (buffer["capacity"], buffer["last_flush_time"]) == (50_000, None)
    assert health["version"]
    await api.post("/flush")
    buffer = (await api.client.get("/health")).json()["buffer"]
    assert buffer["total_count"] == 0
    assert buffer["last_flush_time"].endswith("Z")


async def test_without_its_database_the_service_is_degraded_and_ready(api: Api) -> None:
    api.backend.go_away(StorageUnavailable("gone"))
    response = await api.client.get("/health")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["database"]) == ("degraded", "unhealthy")
    assert (await api.client.get("/health/ready")).status_code == 200
    await api.keep([a_session()])
    api.backend.come_back()
    await api.post("/flush")
    assert (await api.client.get("/health")).json()["status"] == "healthy"


async def test_a_service_that_starts_without_its_database_keeps_batches(start_api: StartApi) -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.go_away(StorageUnavailable("gone"))
    api = await start_api(backend=backend)
    await api.keep([a_session()])
    assert (await api.client.get("/health")).json()["status"] == "degraded"
    assert (await api.get("/sessions/s1")).status_code == 200
    assert_error(await api.get("/sessions/s2"), 503, "STORAGE_UNAVAILABLE")
    backend.come_back()
    await api.post("/flush")
    assert (await api.get("/sessions")).json()["total"] == 1


async def test_a_full_service_is_unhealthy_and_not_ready_but_alive_and_ready_again_by_itself(
    start_api: StartApi,
) -> None:
    limits = {"max_body_bytes": 30_000, "max_text_bytes": 2_000}
    api = await start_api(journal={"max_bytes": 64 * 1024, "segment_bytes": 8 * 1024}, limits=limits)
    api.backend.go_away(StorageUnavailable("gone"))
    batch = {"sessions": [a_session(metadata={"text": "x" * 4_000})]}
    while (refused := await api.post("/sessions/batch", batch)).status_code == 200:
        pass
    assert_error(refused, 503, "JOURNAL_FULL")
    health = await api.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    ready = await api.client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})
    live = await api.client.get("/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "alive"})
    api.backend.come_back()
    await api.post("/flush")
    await until(api.services.health.is_ready, "readiness, when the journal has removed its files")
    assert (await api.client.get("/health/ready")).json() == {"status": "ready"}
    assert (await api.post("/sessions/batch", batch)).status_code == 200


async def test_a_service_that_shuts_down_takes_nothing_more(api: Api) -> None:
    api.services.buffer.begin_shutdown()
    assert_error(await api.post("/sessions/batch", {"sessions": [a_session()]}), 503, "SHUTTING_DOWN")
    assert (await api.client.get("/health/ready")).status_code == 503
    assert (await api.client.get("/health")).status_code == 503
    assert (await api.client.get("/health/live")).status_code == 200


async def test_liveness_asks_no_database(api: Api) -> None:
    before = api.backend.reads, api.backend.transactions
    await api.client.get("/health/live")
    await api.client.get("/health/ready")
    assert (api.backend.reads, api.backend.transactions) == before


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/system/metrics"])
async def test_metrics_count_requests_by_template_and_time_them(api: Api, path: str) -> None:
    await api.keep([a_session()], [a_task("t1"), a_task("t2")])
    await api.get("/tasks/t1")
    await api.get("/tasks/a%2Fb")
    await api.client.get("/no/such/thing")
    await api.client.get("/health", headers={"host": "evil.com"})
    await api.client.request("BREW", "/health")
    response = await api.client.get(path)
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.text.splitlines()
    base = "/api/v1/translation"
    assert f'api_requests_total{{endpoint="{base}/tasks/batch",method="POST",status="200"}} 1.0' in lines
    assert f'api_requests_total{{endpoint="{base}/tasks/{{task_id:path}}",method="GET",status="200"}} 1.0' in lines
    assert f'api_requests_total{{endpoint="{base}/tasks/{{task_id:path}}",method="GET",status="404"}} 1.0' in lines
    assert 'api_requests_total{endpoint="unmatched",method="GET",status="404"} 1.0' in lines
    assert 'api_requests_total{endpoint="unmatched",method="GET",status="403"} 1.0' in lines
    assert any('method="other"' in line and 'status="405"' in line for line in lines)
    assert not any("BREW" in line or "such" in line for line in lines)
    assert f'api_duration_seconds_count{{endpoint="{base}/tasks/batch"}} 1.0' in lines
    assert 'buffer_size{type="sessions"} 1.0' in lines
    assert 'buffer_size{type="tasks"} 2.0' in lines
    assert "persistence_journal_full_in_seconds +Inf" in lines


async def test_large_answers_are_compressed_for_those_who_take_it(api: Api) -> None:
    await api.store([a_session(f"s{n:03}") for n in range(100)])
    packed = await api.client.get("/api/v1/translation/sessions?page_size=100", headers={"accept-encoding": "br, gzip"})
    plain = await api.client.get("/api/v1/translation/sessions?page_size=100", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
    assert "accept-encoding" in packed.headers["vary"].lower()
    assert "content-encoding" not in (await api.client.get("/health/live")).headers

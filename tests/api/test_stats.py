"""`GET /stats`: what is stored, as it was counted last, and the buffer and the process as they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from persistence_service.errors import StorageUnavailable
from tests.api.conftest import Api, Json, StartApi, a_session, a_task, assert_error

SESSIONS = [a_session("a", status="completed"), a_session("b", status="processing"), a_session("c", status="pending")]
TASKS = [
    a_task("1", "a", status="completed", duration_ms=1000, confidence=0.9),
    a_task("2", "a", status="completed", duration_ms=2001, confidence=0.95),
    a_task("3", "b", status="failed", duration_ms=3000),
    a_task("4", "b", status="processing"),
    a_task("5", "c", status="cancelled", confidence=0.1),
]


def by_status(records: list[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(record["status"] for record in records)
    return {status: counts[status] for status in ("pending", "processing", "completed", "failed", "cancelled")}


def mean(field: str) -> float:
    values = [task[field] for task in TASKS if field in task]
    return float(sum(values) / len(values))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


async def stats(api: Api) -> Json:
    response = await api.get("/stats")
    assert response.status_code == 200, response.text
    return response.json()


async def counted(api: Api, after: str = "") -> Json:
    """The answer once a count is told that was begun later than `after`."""
    async with asyncio.timeout(120):
        while ((answer := await stats(api))["as_of"] or "") <= after:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0)
    return answer


@pytest.fixture
async def api(start_api: StartApi) -> Api:
    return await start_api(stats={"refresh_interval": "100ms"})


async def test_what_is_stored_is_counted_by_status_and_averaged(api: Api) -> None:
    await api.store(SESSIONS, TASKS)
    answer = await counted(api, after=now())
    assert answer["sessions"] == {"total": 3, "by_status": by_status(SESSIONS)}
    assert answer["tasks"] == {
        "total": 5,
        "by_status": by_status(TASKS),
        "average_duration_ms": round(mean("duration_ms"), 3),
        "duration_count": 3,
        "average_confidence": round(mean("confidence"), 6),
        "confidence_count": 3,
    }
    assert answer["storage"] == {"backend": "memory", "engine": "memory", "version": "", "sizes": None}


async def test_the_buffer_is_told_as_it_is(api: Api) -> None:
    await api.keep(SESSIONS, TASKS)
    buffer = (await stats(api))["buffer"]
    assert (buffer["sessions_count"], buffer["tasks_count"], buffer["total_count"]) == (3, 5, 8)
    assert set(buffer) >= {"capacity", "usage_percent", "last_flush_time", "spilled_records", "journal_full_in_s"}
    await api.post("/flush")
    assert (await stats(api))["buffer"]["total_count"] == 0
    assert (await stats(api))["process"]["uptime_s"] > 0


async def test_while_the_database_is_away_its_figures_are_those_of_the_last_count(api: Api) -> None:
    await api.store(SESSIONS)
    await counted(api, after=now())
    api.backend.go_away(StorageUnavailable("gone"))
    before = await stats(api)
    await api.keep(SESSIONS)
    answer = await stats(api)
    assert (answer["sessions"], answer["storage"]) == (before["sessions"], before["storage"])
    assert answer["sessions"]["total"] == 3
    assert answer["as_of"] == before["as_of"]
    assert answer["buffer"]["sessions_count"] == 3


async def test_a_request_asks_the_database_nothing(start_api: StartApi) -> None:
    api = await start_api(stats={"refresh_interval": "1d"})
    await counted(api)
    before = api.backend.reads, api.backend.transactions
    for _ in range(20):
        await stats(api)
    assert (api.backend.reads, api.backend.transactions) == before


async def test_a_parameter_is_refused(api: Api) -> None:
    assert_error(await api.get("/stats", fresh="true"), 422, "VALIDATION_ERROR")

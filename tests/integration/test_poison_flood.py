"""The database refuses thousands of records: good ones are stored all the same, nothing fills up, or goes unnoticed."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from persistence_service.bootstrap import Services
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import TASKS
from persistence_service.storage.query import COUNT
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.integration.conftest import Opener
from tests.unit.buffer.harness import session_request, task_request, until

BAD = {"memory": 10_000, "sqlite": 2_000}  # refusing one costs SQLite half a millisecond
BATCH, RATE = 500, 100
MIB = 1 << 20
SETTINGS: dict[str, dict[str, Any]] = {
    "journal": {"max_bytes": 64 * MIB, "segment_bytes": MIB},
    "buffer": {"max_dead_letter_rate": RATE, "flush_interval": 3600},
}


def is_poison(record: Any) -> bool:  # noqa: ANN401  # any record
    return getattr(record, "source_text", "") == "bad"


async def flood(services: Services, backend: FaultyBackend) -> tuple[int, int]:
    """Two sessions; of one nearly every task is bad, with good ones of both between them. Returns how many are bad and good."""
    backend.reject(is_poison)
    count = BAD[backend.name]
    await services.buffer.accept_sessions([session_request("flooded"), session_request("other")])
    for first in range(0, count, BATCH):
        bad = [task_request(f"bad{number:05}", "flooded", source_text="bad") for number in range(first, first + BATCH)]
        good = [task_request(f"{session}{first:05}", session) for session in ("flooded", "other")]
        await services.buffer.accept_tasks([*bad[: BATCH // 2], *good, *bad[BATCH // 2 :]])
    return count, 2 * count // BATCH


async def stored_tasks(backend: StorageBackend) -> int:
    groups = await backend.aggregate(TASKS, group_by=(), measure=(COUNT,))
    return sum(group.figures[0] for group in groups)


async def letters(services: Services) -> int:
    return (await services.dead_letters.page(LetterFilter(), limit=1)).total or 0


async def test_good_records_are_stored_with_the_flush_that_meets_the_flood(opener: Opener) -> None:
    async with opener(**SETTINGS) as (services, backend):
        bad, good = await flood(services, backend)
        assert (await services.buffer.flush()).waiting == bad - RATE
        assert await stored_tasks(backend.inner) == good
        assert await letters(services) == RATE
        assert backend.transactions <= 1.25 * bad + 100
        await services.buffer.accept_tasks([task_request("later", "flooded")])
        before = backend.transactions
        assert (await services.buffer.flush()).tasks_written == 1
        assert backend.transactions - before <= 5


async def test_a_minute_makes_no_more_letters_than_the_rate_and_the_rest_waits_in_a_bounded_journal(
    opener: Opener, timing: ManualTiming
) -> None:
    async with opener(**SETTINGS) as (services, backend):
        bad, good = await flood(services, backend)
        accepted = services.health.journal_view().bytes
        for minute in range(1, 6):
            await services.buffer.flush()
            assert await letters(services) <= minute * RATE
            assert services.health.journal_view().bytes <= 2 * accepted + 2 * MIB
            assert services.buffer.stats().size_bytes < MIB
            await until(lambda: timing.sleeping > 1)
            timing.advance(61)
        assert await letters(services) > RATE
        assert await stored_tasks(backend.inner) == good
        await until(lambda: services.health.journal_view().bytes <= accepted + 2 * MIB, "old segments go")
        assert services.buffer.stats().total_count >= bad - 6 * RATE, "the sixth minute has begun"


async def test_it_is_told_once_and_as_long_as_it_lasts(opener: Opener, timing: ManualTiming) -> None:
    with capture_logs() as lines:
        async with opener(**SETTINGS) as (services, backend):
            bad, good = await flood(services, backend)
            for _ in range(3):
                await services.buffer.flush()
            health = await services.health.report()
            assert (health.status, health.database) == ("degraded", "healthy")
            assert "buffer.max_dead_letter_rate" in health.detail
            assert health.buffer.set_aside == bad - RATE
            assert services.health.is_ready()
            shown = services.metrics.render().decode().splitlines()
            assert "persistence_dead_lettering_stopped 1.0" in shown
            assert f"persistence_set_aside {bad - RATE:.1f}" in shown
            backend.reject(None)
            await until(lambda: timing.sleeping > 1)
            timing.advance(61)
            await until(lambda: services.buffer.stats().set_aside == 0, "all are stored")
            await services.buffer.flush()
            assert (await services.health.report()).status == "healthy"
            assert await stored_tasks(backend.inner) == bad - RATE + good
    events = [line["event"] for line in lines]
    assert events.count("dead_letters.stopped") == events.count("dead_letters.resumed") == 1
    assert len([event for event in events if event != "flush"]) < 30


async def test_a_letter_of_the_flood_that_is_replayed_after_a_newer_state_changes_nothing(opener: Opener) -> None:
    async with opener(**SETTINGS) as (services, backend):
        await flood(services, backend)
        await services.buffer.flush()
        backend.reject(None)
        lettered = (await services.dead_letters.page(LetterFilter(), limit=RATE)).items
        newer = [task_request(letter.record_key, "flooded", source_text="mended") for letter in lettered]
        await services.buffer.accept_tasks(newer)
        await services.buffer.flush()
        counts = await services.dead_letters.replay_all(LetterFilter())
        assert (counts.replayed, counts.still_refused) == (RATE, 0)
        stored = await backend.inner.read(TASKS, [letter.record_key for letter in lettered])
        assert [task.source_text for task in stored] == ["mended"] * RATE
        assert await letters(services) == 0

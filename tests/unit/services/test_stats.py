"""Statistics are counted in the background, stay when that fails, and cost a request nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from persistence_service.errors import QueryTimeout, StorageUnavailable
from persistence_service.models.statistics_answers import CountsByStatus, Statistics
from persistence_service.models.status import Status
from persistence_service.models.times import from_micros
from persistence_service.observability.process import process_figures
from persistence_service.services.letter_census import LetterCensus
from persistence_service.services.stats import StatsService
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend
from persistence_service.testing.samples import session_record, task_record
from tests.unit.buffer.harness import Rig, open_rig, session_request, task_request, until

INTERVAL_S = 15.0
AWAY = StorageUnavailable("the database is away")


@dataclass
class Bench:
    """Statistics that are being counted, and what they are about. The flusher stands still."""

    rig: Rig
    backend: FaultyBackend
    stats: StatsService
    counting: asyncio.Task[None]

    @property
    def timing(self) -> ManualTiming:
        return self.rig.timing

    async def rests(self) -> list[float]:
        """Counting pauses; for how long yet."""
        await until(lambda: self.timing.sleeping > 0)
        return self.timing.seconds_to_deadlines

    async def next_count(self, seconds: float = INTERVAL_S) -> Statistics:
        """What is reported after the next count."""
        await self.rests()
        self.timing.advance(seconds)
        await until(lambda: not self.timing.seconds_to_deadlines or self.timing.seconds_to_deadlines[0] > 0)
        await self.rests()
        return self.stats.report()


@asynccontextmanager
async def counting(tmp_path: Path, inner: StorageBackend | None = None) -> AsyncIterator[Bench]:
    async with open_rig(tmp_path / "journal", start=False) as rig:
        backend = rig.backend if inner is None else FaultyBackend(inner)
        stats = StatsService(
            backend=inner or backend,
            buffer=rig.buffer,
            journal=rig.journal,
            letters=LetterCensus(backend=inner or backend, files=rig.letter_files, timing=rig.timing, alarm_age_s=0),
            timing=rig.timing,
            refresh_interval_s=INTERVAL_S,
        )
        task = asyncio.create_task(stats.run())
        yield Bench(rig, backend, stats, task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with counting(tmp_path) as bench:
        await bench.rig.backend.inner.write(SESSIONS, [session_record("old")])
        yield bench


def logged(events: list[EventDict], event: str) -> list[EventDict]:
    return [each for each in events if each["event"] == event]


async def test_before_the_first_count_the_figures_of_the_database_are_unknown(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "journal", start=False) as rig:
        report = StatsService(
            backend=rig.backend,
            buffer=rig.buffer,
            journal=rig.journal,
            letters=LetterCensus(backend=rig.backend, files=rig.letter_files, timing=rig.timing, alarm_age_s=0),
            timing=rig.timing,
            refresh_interval_s=INTERVAL_S,
        ).report()
    assert (report.sessions, report.tasks, report.as_of) == (None, None, None)
    assert (report.storage.backend, report.storage.engine, report.storage.sizes) == ("memory", None, None)
    assert report.buffer.capacity > 0
    assert report.process.pid == os.getpid()


async def test_counts_and_averages_are_those_of_what_is_stored(bench: Bench) -> None:
    await bench.rests()
    store = bench.backend.inner
    await store.write(SESSIONS, [session_record("done", status=Status.COMPLETED)])
    await store.write(
        TASKS,
        [
            task_record("1", "done", status=Status.COMPLETED, duration_ms=1000, confidence=0.9),
            task_record("2", "done", status=Status.COMPLETED, duration_ms=2001, confidence=None),
            task_record("3", "old", status=Status.FAILED, duration_ms=None, confidence=0.6),
            task_record("4", "old"),
        ],
    )
    report = await bench.next_count()
    assert report.sessions is not None
    assert report.tasks is not None
    assert report.sessions.total == 2
    assert report.sessions.by_status == CountsByStatus(1, 0, 1, 0, 0)
    assert report.tasks.total == 4
    assert report.tasks.by_status == CountsByStatus(1, 0, 2, 1, 0)
    assert (report.tasks.average_duration_ms, report.tasks.duration_count) == (1500.5, 2)
    assert (report.tasks.average_confidence, report.tasks.confidence_count) == (0.75, 2)
    assert report.as_of == from_micros(bench.timing.wall_us())


async def test_a_report_asks_the_backend_nothing(bench: Bench) -> None:
    await bench.rests()
    before = bench.backend.reads, bench.backend.transactions
    for _ in range(100):
        msgspec.json.encode(bench.stats.report())
    assert (bench.backend.reads, bench.backend.transactions) == before


async def test_figures_stay_as_they_were_while_the_backend_is_away(bench: Bench) -> None:
    await bench.rests()
    before = bench.stats.report()
    assert before.as_of is not None
    bench.backend.go_away(AWAY)
    during = await bench.next_count()
    assert (during.sessions, during.tasks, during.storage) == (before.sessions, before.tasks, before.storage)
    assert during.as_of == before.as_of
    await bench.rig.buffer.accept_sessions([session_request("new")])
    assert bench.stats.report().buffer.sessions_count == 1
    bench.backend.come_back()
    after = await bench.next_count()
    assert after.as_of == before.as_of + timedelta(seconds=2 * INTERVAL_S)


async def test_an_outage_is_told_once_for_each_kind_of_failure_and_its_end_too(bench: Bench) -> None:
    await bench.rests()
    with capture_logs() as events:
        for error in (AWAY, AWAY, QueryTimeout("slow"), AWAY):
            bench.backend.go_away(error)
            for _ in range(3):
                await bench.next_count()
        bench.backend.come_back()
        await bench.next_count()
        await bench.next_count()
    told = logged(events, "stats.not_counted")
    assert [event["error"] for event in told] == ["StorageUnavailable", "QueryTimeout"]
    assert [event["failures"] for event in logged(events, "stats.counted_again")] == [12]


async def test_a_mistake_of_ours_is_told_with_its_trace_and_ends_nothing(bench: Bench) -> None:
    await bench.rests()
    mistake = ZeroDivisionError("ours")
    with capture_logs() as events:
        bench.backend.go_away(mistake)  # type: ignore[arg-type]  # what no backend raises
        await bench.next_count()
    (told,) = logged(events, "stats.not_counted")
    assert told["exc_info"] is mistake
    bench.backend.come_back()
    assert (await bench.next_count()).as_of == from_micros(bench.timing.wall_us())
    assert not bench.counting.done()


async def test_the_pause_is_the_interval_where_counting_is_quick(bench: Bench) -> None:
    assert await bench.rests() == [INTERVAL_S]


async def test_counting_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(tmp_path) as bench:
        select = bench.backend.inner.select

        async def slow(*arguments: object) -> object:
            bench.timing.advance(4)
            return await select(*arguments)  # type: ignore[arg-type]  # whatever it is given

        monkeypatch.setattr(bench.backend.inner, "select", slow)
        assert await bench.rests() == [4]  # after the dead letters' it rests as long as it was at work
        bench.timing.advance(4)
        await until(lambda: bench.timing.seconds_to_deadlines[:1] > [4])
        assert bench.timing.seconds_to_deadlines == [19 * 8]


async def test_the_storage_is_described_by_what_it_tells_of_itself(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "test.db")
    await backend.open()
    await backend.migrate()
    async with counting(tmp_path, backend) as bench:
        await until(lambda: bench.stats.report().as_of is not None)
        storage = bench.stats.report().storage
        assert (storage.backend, storage.engine) == ("sqlite", "sqlite")
        assert storage.version == (await backend.health_check()).version
        assert storage.sizes is not None
        assert storage.sizes.total_bytes >= (tmp_path / "test.db").stat().st_size
    await backend.close()


async def test_the_buffer_is_told_as_it_is_now(bench: Bench) -> None:
    await bench.rig.buffer.accept_sessions([session_request("one"), session_request("two")])
    await bench.rig.buffer.accept_tasks([task_request("t", "one")])
    bench.timing.advance(3)
    told = bench.stats.report().buffer
    assert (told.sessions_count, told.tasks_count, told.total_count) == (2, 1, 3)
    assert told.usage_percent == round(100 * 3 / told.capacity, 2)
    assert told.oldest_unstored_age_s == 3
    assert told.journal_bytes == bench.rig.journal.stats().bytes > 0
    assert (told.last_flush_time, told.spilled_records, told.spilled_bytes) == (None, 0, 0)
    assert told.journal_full_in_s is None


async def test_the_time_until_the_journal_is_full_is_estimated_by_its_growth(bench: Bench) -> None:
    assert bench.stats.report().buffer.journal_full_in_s is None
    for number in range(10):
        await bench.rig.buffer.accept_tasks([task_request(f"t{number}", source_text="x" * 100_000)])
        bench.timing.advance(10)
    told = bench.stats.report().buffer
    left = bench.rig.journal.max_bytes - told.journal_bytes
    assert told.journal_full_in_s == pytest.approx(left / (1_000_000 / 100), rel=0.1)


async def test_the_process_is_told_as_it_is_now(bench: Bench) -> None:
    bench.timing.advance(7)
    told = bench.stats.report().process
    figures = process_figures()
    assert told.uptime_s == 7
    assert 0 < told.cpu_s <= figures.cpu_s
    assert told.resident_bytes is not None
    assert told.peak_resident_bytes is not None
    assert 10_000_000 < told.resident_bytes <= told.peak_resident_bytes
    assert (told.threads or 0) >= 1

"""Journals of workers that there are no more, with real journals and directories."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.timing import SystemTiming
from persistence_service.errors import JournalUnavailable, Replaying
from persistence_service.fleet.identity import WorkerIdentity, slot_directory
from persistence_service.fleet.journals import WorkerJournal, open_worker_journal, prepare_journals
from persistence_service.journal.lock import DirectoryLock
from persistence_service.journal.segment import Replayed
from persistence_service.settings import JournalSettings
from persistence_service.testing.clocks import ManualTiming
from tests.unit.buffer.harness import Rig, open_rig, session_request, task_requests, until

_KIB = 1024


@pytest.fixture
def settings(tmp_path: Path) -> JournalSettings:
    return JournalSettings(directory=tmp_path / "journal", min_free=0, segment_bytes=64 * _KIB)


async def left_in(directory: Path, batches: int, prefix: str) -> None:
    """A journal with a session and ten tasks a batch, none of them stored, of a worker that was killed."""
    async with open_rig(directory.parents[1] / f"{prefix}-at-work", segment_bytes=16 * _KIB) as rig:
        await rig.buffer.accept_sessions([session_request()])
        for number in range(batches):
            await rig.buffer.accept_tasks(task_requests(10, prefix=f"{prefix}{number}-"))
        image = await rig.crash()
    directory.parent.mkdir(exist_ok=True)
    image.rename(directory)


@asynccontextmanager
async def heirs(
    settings: JournalSettings, rig: Rig, workers: int = 1
) -> AsyncIterator[tuple[list[WorkerJournal], Callable[[], asyncio.Future[list[None]]]]]:
    """So many workers' journals, all with `rig` for a buffer, and what has them take over."""
    timing = SystemTiming()
    journals = []
    async with AsyncExitStack() as stack:
        for slot in range(workers):
            identity = WorkerIdentity(slot, workers, settings.directory) if workers > 1 else None
            opening = open_worker_journal(settings, identity, timing=timing)
            journals.append(await stack.enter_async_context(opening))
        yield journals, lambda: asyncio.gather(*(each.inheritance.run(rig.takeover) for each in journals))


async def test_one_worker_takes_over_what_all_former_ones_left(tmp_path: Path, settings: JournalSettings) -> None:
    for slot in (1, 2, 11):
        await left_in(slot_directory(settings.directory, slot), 3, f"W{slot}-")
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig) as ([own], take_over):
        assert own.journal.service_bytes > own.journal.used_bytes + 3 * 1000
        await take_over()
        assert not own.inheritance.is_running
        await own.inheritance.done()
        assert own.inheritance.findings == []
        assert own.journal.service_bytes == own.journal.used_bytes
        await rig.buffer.flush()
        assert [len(keys) for keys in await rig.stored()] == [1, 90]
    assert [path.name for path in settings.directory.iterdir() if path.is_dir()] == []


async def test_what_was_taken_over_survives_the_heir(tmp_path: Path, settings: JournalSettings) -> None:
    await left_in(slot_directory(settings.directory, 1), 3, "W")
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig) as (_, take_over):
        await take_over()
        image = await rig.crash()
    async with open_rig(image) as rig:
        await rig.buffer.flush()
        assert [len(keys) for keys in await rig.stored()] == [1, 30]


async def test_the_age_of_what_is_taken_over_goes_on(tmp_path: Path, settings: JournalSettings) -> None:
    await left_in(slot_directory(settings.directory, 1), 3, "W")
    later = ManualTiming()
    later.advance(100)
    async with (
        open_rig(tmp_path / "heir", timing=later, interval_s=1000) as rig,
        heirs(settings, rig) as (_, take_over),
    ):
        await take_over()
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(100, abs=1)
        image = await rig.crash()
    async with open_rig(image, timing=later, interval_s=1000) as rig:
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(100, abs=1)


async def test_a_journal_is_taken_over_once_when_several_try(tmp_path: Path, settings: JournalSettings) -> None:
    await left_in(slot_directory(settings.directory, 5), 20, "W")
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig, workers=3) as (journals, take_over):
        await take_over()
        assert not any(each.inheritance.is_running for each in journals)
        assert rig.journal.stats().appended_records == 22  # with the newest stamp
        assert rig.buffer.stats().total_count == 201
    assert not slot_directory(settings.directory, 5).exists()


async def test_a_crash_in_the_middle_repeats_some_and_loses_nothing(
    tmp_path: Path, settings: JournalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence_service.fleet.inheritance._GROUP", 4)
    await left_in(slot_directory(settings.directory, 1), 10, "W")
    async with open_rig(tmp_path / "heir") as rig:
        async with heirs(settings, rig) as ([own], _):
            running = asyncio.ensure_future(own.inheritance.run(rig.takeover))
            await until(lambda: rig.journal.stats().appended_records >= 5)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert own.inheritance.is_running
        image = await rig.crash()
    async with open_rig(image) as rig, heirs(settings, rig) as (_, take_over):
        before = rig.journal.stats().appended_records
        await take_over()
        assert rig.journal.stats().appended_records > before
        await rig.buffer.flush()
        assert [len(keys) for keys in await rig.stored()] == [1, 100]
    assert not slot_directory(settings.directory, 1).exists()


async def test_a_disk_that_refuses_for_a_while_delays_and_loses_nothing(
    tmp_path: Path, settings: JournalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left_in(slot_directory(settings.directory, 1), 2, "W")
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig) as ([own], take_over):
        refusals = [JournalUnavailable("the disk fails"), JournalUnavailable("the disk fails")]
        take = rig.takeover.take

        async def failing(batches: Sequence[Replayed]) -> list[Replayed]:
            if refusals:
                raise refusals.pop()
            return await take(batches)

        monkeypatch.setattr(rig.takeover, "take", failing)
        with capture_logs() as logged:
            running = asyncio.ensure_future(take_over())
            await until(lambda: len(refusals) == 1)
            with pytest.raises(Replaying, match="the disk fails"):
                await own.inheritance.done()
            await running
        assert [line["event"] for line in logged].count("inheritance.failing") == 1
        await own.inheritance.done()
        assert rig.buffer.stats().total_count == 21


async def test_damage_is_told_and_its_copy_stays_for_a_person(tmp_path: Path, settings: JournalSettings) -> None:
    directory = slot_directory(settings.directory, 2)
    await left_in(directory, 10, "W")
    segments = sorted(directory.glob("*.seg"))
    damaged = bytearray(segments[0].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    segments[0].write_bytes(damaged)
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig) as ([own], take_over):
        await take_over()
        assert rig.buffer.stats().total_count == 91
        (finding,) = own.inheritance.findings
        assert "worker-3: damaged ranges, lost: 1 (records " in finding
    assert [path.name for path in directory.iterdir()] == ["quarantine"]
    async with heirs(settings, rig) as ([own], take_over):
        assert not own.inheritance.is_running
        await take_over()
        (finding,) = own.inheritance.findings
        assert "in its quarantine; remove the directory when" in finding


async def test_what_only_another_version_can_read_stays_and_is_told(tmp_path: Path, settings: JournalSettings) -> None:
    directory = slot_directory(settings.directory, 1)
    async with open_rig(directory) as rig:
        for kind, payload in ((77, b"?"), (2, b'[{"task": 1}]')):
            await rig.journal.append(kind, payload, items=1, accepted_at_us=1, high_water_us=1)
        await rig.journal.close()
        rig.journal._held.clear()
        rig.journal._unstored_items = 0
    for _ in range(2):
        async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig) as ([own], take_over):
            await take_over()
            assert rig.buffer.stats().total_count == 0
            (finding,) = own.inheritance.findings
            assert "batches that only another version can read: 2" in finding
    assert directory.exists()


async def test_a_journal_that_somebody_else_has_is_waited_for(tmp_path: Path, settings: JournalSettings) -> None:
    directory = slot_directory(settings.directory, 1)
    await left_in(directory, 2, "W")
    lock = DirectoryLock.take(directory)
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig) as ([own], take_over):
        running = asyncio.ensure_future(take_over())
        waiting = asyncio.ensure_future(own.inheritance.done())
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        lock.release()
        await waiting
        await running
        assert rig.buffer.stats().total_count == 21


async def test_a_service_of_one_process_that_always_was_one_has_nothing_of_this(settings: JournalSettings) -> None:
    async with open_worker_journal(settings, None, timing=SystemTiming()) as own:
        assert not own.inheritance.is_running
        assert own.inheritance.findings == []
    assert left_by(settings) == {".seg", "head", "lock"}


async def test_a_service_that_is_one_process_now_leaves_nothing_of_several(settings: JournalSettings) -> None:
    prepare_journals(settings, wall_us=1)
    assert "shared" in left_by(settings)
    async with open_worker_journal(settings, None, timing=SystemTiming()):
        pass
    assert left_by(settings) == {".seg", "head", "lock"}


def left_by(settings: JournalSettings) -> set[str]:
    return {path.suffix or path.name for path in settings.directory.iterdir()}


@pytest.mark.parametrize("workers", [1, 2])
async def test_stamps_go_on_behind_those_of_all_journals(
    settings: JournalSettings, workers: int, tmp_path: Path
) -> None:
    newest = SystemTiming().wall_us() + 10**12
    directory = slot_directory(settings.directory, 4)
    async with open_rig(directory) as rig:
        await rig.journal.append(3, b"", items=0, accepted_at_us=newest, high_water_us=newest)
    prepare_journals(settings, wall_us=SystemTiming().wall_us())
    async with open_rig(tmp_path / "heir") as rig, heirs(settings, rig, workers) as (journals, take_over):
        assert journals[-1].clock.reserve(1) == newest + 1
        await take_over()
        assert rig.journal.high_water_us == newest
    assert not directory.exists()

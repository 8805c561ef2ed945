"""Dead letters are counted in the background, wherever they lie, and one that waits for too long is alarmed on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.dead_letters import Letter, new_letter, write_letters
from persistence_service.buffer.letter_files import DIRECTORY_NAME, LetterFiles
from persistence_service.errors import StorageUnavailable
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.times import from_micros
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.services.letter_census import DAMAGED, LetterCensus
from persistence_service.services.stats import StatsService
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend
from persistence_service.testing.faulty_files import FaultyFiles
from persistence_service.testing.samples import task_record
from tests.unit.buffer.harness import until
from tests.unit.services.rig import Rig, open_rig

HOUR_S = 3600.0
UNKNOWN, CONFLICT, DATA = (
    DeadLetterReason.UNKNOWN_SESSION,
    DeadLetterReason.TASK_ID_CONFLICT,
    DeadLetterReason.DATA_REJECTED,
)


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyBackend]:
    made: StorageBackend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "test.db")
    await made.open()
    await made.migrate()
    yield FaultyBackend(made)
    await made.close()


@pytest.fixture
def timing() -> ManualTiming:
    return ManualTiming()


@pytest.fixture
def disk() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def files(tmp_path: Path, disk: FaultyFiles) -> LetterFiles:
    return LetterFiles(tmp_path / DIRECTORY_NAME, disk)


@pytest.fixture
def census(backend: FaultyBackend, files: LetterFiles, timing: ManualTiming) -> LetterCensus:
    return LetterCensus(backend=backend, files=files, timing=timing, alarm_age_s=24 * HOUR_S)


def letter(key: str, timing: ManualTiming, reason: DeadLetterReason = DATA, *, hours_ago: float = 0) -> Letter:
    now = from_micros(timing.wall_us()) - timedelta(hours=hours_ago)
    return new_letter(TASKS, task_record(key), reason=reason, detail="in our words", now=now)


async def put(backend: FaultyBackend, *letters: Letter) -> None:
    async with backend.inner.transaction() as transaction:
        await write_letters(transaction, letters)


async def test_letters_are_counted_by_reason_wherever_they_lie(
    backend: FaultyBackend, files: LetterFiles, census: LetterCensus, timing: ManualTiming, tmp_path: Path
) -> None:
    assert census.by_reason() == {UNKNOWN: 0, CONFLICT: 0, DATA: 0, DAMAGED: 0}
    await put(backend, letter("a", timing), letter("b", timing, CONFLICT), letter("c", timing))
    for each in (letter("d", timing), broken := letter("e", timing)):
        files.write(each)
    (tmp_path / DIRECTORY_NAME / f"{broken.letter.letter_id}.json").write_text("{")
    await census.take()
    assert census.by_reason() == {UNKNOWN: 0, CONFLICT: 1, DATA: 3, DAMAGED: 1}
    files.remove(broken.letter.letter_id)
    await census.take()
    assert census.by_reason()[DAMAGED] == 0


@pytest.mark.parametrize("older", ["backend", "file"])
async def test_the_age_is_that_of_the_oldest_and_grows_between_counts(
    backend: FaultyBackend, files: LetterFiles, census: LetterCensus, timing: ManualTiming, older: str
) -> None:
    assert census.oldest_age_s() == 0
    ages = {"backend": 2.0, "file": 1.0} if older == "backend" else {"backend": 1.0, "file": 2.0}
    await put(backend, letter("a", timing, hours_ago=ages["backend"]), letter("b", timing))
    files.write(letter("c", timing, hours_ago=ages["file"]))
    await census.take()
    assert census.oldest_age_s() == 2 * HOUR_S
    timing.advance(HOUR_S)
    assert census.oldest_age_s() == 3 * HOUR_S


async def test_a_clock_that_was_set_back_makes_no_letter_younger_than_new(
    backend: FaultyBackend, census: LetterCensus, timing: ManualTiming
) -> None:
    await put(backend, letter("a", timing))
    await census.take()
    timing.set_wall(timing.wall_us() - 1_000_000)
    assert census.oldest_age_s() == 0


async def test_an_old_letter_is_an_alarm_that_is_logged_once_and_ends_with_it(
    backend: FaultyBackend, files: LetterFiles, census: LetterCensus, timing: ManualTiming
) -> None:
    files.write(old := letter("a", timing, hours_ago=23.9))
    with capture_logs() as lines:
        await census.take()
        assert census.alarm() == ""
        timing.advance(0.1 * HOUR_S)
        for _ in range(3):
            await census.take()
            assert "wait for a person: 1, the oldest for 24.0 h (buffer.dead_letter_alarm)" in census.alarm()
        files.remove(old.letter.letter_id)
        for _ in range(3):
            await census.take()
    assert census.alarm() == ""
    assert [line["event"] for line in lines] == ["dead_letters.old", "dead_letters.dealt_with"]


async def test_without_an_age_there_is_no_alarm(
    backend: FaultyBackend, files: LetterFiles, timing: ManualTiming
) -> None:
    await put(backend, letter("a", timing, hours_ago=10_000))
    census = LetterCensus(backend=backend, files=files, timing=timing, alarm_age_s=0)
    await census.take()
    assert (census.alarm(), census.oldest_age_s()) == ("", 10_000 * HOUR_S)


async def test_an_alarm_lasts_through_an_outage(
    backend: FaultyBackend, census: LetterCensus, timing: ManualTiming
) -> None:
    await put(backend, letter("a", timing, hours_ago=25))
    await census.take()
    backend.go_away(StorageUnavailable("gone"))
    with pytest.raises(StorageUnavailable):
        await census.take()
    assert census.alarm()


async def test_a_count_costs_two_reads_and_a_file_is_read_once(
    backend: FaultyBackend, files: LetterFiles, disk: FaultyFiles, census: LetterCensus, timing: ManualTiming
) -> None:
    await put(backend, *(letter(f"t{number}", timing) for number in range(100)))
    for number in range(5):
        files.write(letter(f"f{number}", timing))
    for _ in range(3):
        await census.take()
    assert backend.reads == 3 * 2
    assert disk.calls["read"] == 5


async def test_the_service_is_degraded_while_one_is_old_and_says_so_in_its_metrics(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await put(rig.backend, old := letter("a", rig.timing, hours_ago=30))
        await until_counted(rig)
        health = await rig.services.health.report()
        assert (health.status, health.database) == ("degraded", "healthy")
        assert "GET /dead-letters" in health.detail
        assert rig.services.health.is_ready()
        shown = rig.services.metrics.render().decode()
        assert 'persistence_dead_letters_waiting{reason="data_rejected"} 1.0' in shown
        assert 'persistence_dead_letters_waiting{reason="damaged"} 0.0' in shown
        [age_s] = [line for line in shown.splitlines() if line.startswith("persistence_oldest_dead_letter_seconds ")]
        assert 30 * HOUR_S <= float(age_s.split()[1]) < 31 * HOUR_S
        await rig.letters.discard(old.letter.letter_id)
        assert (await rig.letters.page(LetterFilter(), limit=1)).total == 0
        await until_counted(rig)
        assert (await rig.services.health.report()).status == "healthy"


async def until_counted(rig: Rig) -> None:
    """Let the background count once more, from beginning to end."""
    stats: StatsService = rig.services.stats
    await until(lambda: stats.report().as_of is not None)
    rig.timing.advance(60)
    now = from_micros(rig.timing.wall_us())
    await until(lambda: stats.report().as_of == now)

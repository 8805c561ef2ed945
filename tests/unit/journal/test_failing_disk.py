"""A disk that is full or fails: nothing acknowledged is lost, nothing more is acknowledged, and it recovers by itself."""

import asyncio
import contextlib
import tempfile
from errno import EIO, EMFILE, ENOSPC
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from persistence_service.errors import JournalError, JournalFull, JournalUnavailable
from persistence_service.journal import Loss, Position
from persistence_service.journal.format import BODY_OFFSET
from tests.unit.journal.bench import NOW_US, Bench, payloads, put, replay_all, settle

_EPISODE = ("journal_failing", "journal_recovered")


async def test_a_failed_fsync_acknowledges_nothing_and_moves_what_was_acknowledged(
    bench: Bench, logged: list[EventDict]
) -> None:
    journal = await bench.open()
    kept = await put(journal, b"kept", items=2)
    old = kept.segment.home.path
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    after = await put(journal, b"after")
    assert (kept.segment, kept.segment.holds) == (after.segment, 3)
    assert after.sequence == kept.sequence + 1
    assert not old.exists()
    assert await journal.read(kept) == b"kept"
    assert await journal.read(after) == b"after"
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"kept", b"after"]
    assert survivor.stats().losses == ()
    assert {"journal_segment_abandoned", "journal_recovered"} <= {event["event"] for event in logged}


async def test_positions_stay_true_through_several_moves(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 5000)
    positions: list[Position] = []
    for number in range(12):
        if number % 3 == 2:
            bench.files.fail("sync", EIO, times=1)
            with pytest.raises(JournalUnavailable):
                await put(journal, b"refused")
        positions.append(await put(journal, b"%d" % number * 300))
    for number, position in enumerate(positions):
        assert await journal.read(position) == b"%d" % number * 300
    for position in positions:
        journal.release(position.segment, 1)
    await journal.close()
    assert len(bench.segments()) == 1
    again = await bench.open()
    assert (await replay_all(again), again.stats().losses) == ([], ())


async def test_positions_stay_true_when_a_move_changes_where_the_records_begin(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 2000)
    older = [await put(journal, bytes(1900)) for _ in range(3)]
    positions = [await put(journal, b"0" * 200)]  # in a segment whose manifest names three others
    for number, position in enumerate(older, start=1):
        journal.release(position.segment, 1)
        await settle(journal)
        bench.files.fail("sync", EIO, times=1)
        with pytest.raises(JournalUnavailable):
            await put(journal, b"refused")
        positions.append(await put(journal, b"%d" % number * 200))  # the manifest names one less
    assert len({position.segment for position in positions}) == 1
    assert [await journal.read(position) for position in positions] == [b"%d" % n * 200 for n in range(4)]
    assert [a.offset + a.length == b.offset for a, b in pairwise(positions)] == [True] * 3


async def test_a_failed_write_abandons_the_segment_too(bench: Bench) -> None:
    journal = await bench.open()
    kept = await put(journal, b"kept")
    bench.files.largest_write = 10
    bench.files.fail("writev", EIO, after=3, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused" * 20)
    bench.files.largest_write = None
    await put(journal, b"after")
    assert await journal.read(kept) == b"kept"
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"kept", b"after"]


async def test_it_recovers_without_an_append(bench: Bench) -> None:
    journal = await bench.open(retry_s=(0.001, 0.01))
    await put(journal, b"kept")
    bench.files.fail("sync", EIO)
    with pytest.raises(JournalUnavailable):
        await put(journal)
    assert journal.stats().failing == "EIO"
    bench.files.heal()
    await bench.until(lambda: journal.stats().failing is None)
    await put(journal, b"after")


async def test_attempts_on_a_failing_disk_are_paced(bench: Bench, logged: list[EventDict]) -> None:
    journal = await bench.open(retry_s=(1000.0, 1000.0))
    bench.files.fail("sync", EIO)
    for _ in range(50):
        with pytest.raises(JournalUnavailable):
            await put(journal)
    assert bench.files.calls["create"] <= 6
    assert len([event for event in logged if event["log_level"] == "error"]) <= 3


@pytest.mark.parametrize("pauses", [(0.0, 5.0), (-1.0, 5.0), (1.0, 0.5), (0.1, float("inf")), (float("nan"), 1.0)])
async def test_pauses_that_would_not_pace_are_refused(bench: Bench, pauses: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="retry_s"):
        await bench.open(retry_s=pauses)
    assert not bench.path.exists()


async def test_nothing_is_acknowledged_before_the_move_is_on_disk(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"kept")
    bench.files.fail("sync", EIO)
    for _ in range(3):
        with pytest.raises(JournalUnavailable):
            await put(journal, b"refused")
        survivor = await bench.open(bench.crash(f"crash-{bench.files.calls['sync']}"), retry_s=(100.0, 100.0))
        assert (await replay_all(survivor))[0].payload == b"kept"
    bench.files.heal()
    await bench.until(lambda: journal.stats().failing is None)
    await put(journal, b"after")


async def test_closing_on_a_failing_disk_keeps_what_was_acknowledged(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"kept")
    bench.files.fail("sync", EIO)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    await journal.close()
    bench.files.heal()
    assert b"kept" in payloads(await replay_all(await bench.open()))


async def test_closing_empty_on_a_failing_disk_is_no_error(bench: Bench, logged: list[EventDict]) -> None:
    journal = await bench.open()
    position = await put(journal)
    journal.release(position.segment, 1)
    bench.files.fail("create", EIO)
    await journal.close()
    assert "journal_not_tidied" in {event["event"] for event in logged}
    bench.files.heal()
    assert (await bench.open()).high_water_us == NOW_US


async def test_memory_durability_survives_a_failed_fsync(bench: Bench) -> None:
    journal = await bench.open()
    quick = await put(journal, b"quick", durable=False)
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    await put(journal, b"after")
    assert await journal.read(quick) == b"quick"
    assert payloads(await replay_all(await bench.open(bench.crash()))) == [b"quick", b"after"]


async def test_the_acknowledged_part_of_a_failed_group_is_kept(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    first = put(journal, b"first")
    await asyncio.to_thread(gate.wait_until_entered)
    bench.files.fail("sync", EIO, after=1, times=1)
    quick, durable = put(journal, b"quick", durable=False), put(journal, b"durable")
    gate.open()
    await first
    assert (await quick).sequence == 2
    with pytest.raises(JournalUnavailable):
        await durable
    assert (await put(journal, b"after")).sequence == 3
    assert payloads(await replay_all(await bench.open(bench.crash()))) == [b"first", b"quick", b"after"]


async def test_what_cannot_be_read_back_is_loss_and_its_file_is_kept(bench: Bench) -> None:
    journal = await bench.open()
    positions = [await put(journal, b"%d" % number * 100) for number in range(4)]
    path = positions[0].segment.home.path
    data = bytearray(path.read_bytes())
    data[positions[1].offset + 80] ^= 1
    data[positions[3].offset + 80] ^= 1
    path.write_bytes(data)
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal)
    after = await put(journal, b"after")
    assert [(loss.first_sequence, loss.last_sequence) for loss in journal.stats().losses] == [(2, 2), (4, 4)]
    assert await journal.read(positions[2]) == b"2" * 100
    assert await journal.read(after) == b"after"
    with pytest.raises(JournalError):
        await journal.read(positions[1])
    assert (bench.path / "quarantine" / path.name).read_bytes().startswith(data)
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"0" * 100, b"2" * 100, b"after"]


async def test_a_file_left_behind_by_a_move_only_repeats(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"kept")
    bench.files.fail("unlink", EIO, after=2)  # the temporary names of segment and head go, the abandoned file does not
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    await put(journal, b"after")
    bench.files.heal()
    crashed = bench.crash()
    assert len(bench.segments(crashed)) == 2
    survivor = await bench.open(crashed)
    assert set(payloads(await replay_all(survivor, release=True))) >= {b"kept", b"after"}
    assert (survivor.stats().losses, survivor.stats().damaged_regions) == ((), 0)
    await settle(survivor)
    assert len(bench.segments(crashed)) == 1


async def test_damage_in_a_file_left_behind_by_a_move_is_no_loss(bench: Bench) -> None:
    journal = await bench.open()
    kept = await put(journal, b"kept")
    left = kept.segment.home.path
    content = left.read_bytes()
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    await put(journal, b"after")
    crashed = bench.crash()
    (crashed / left.name).write_bytes(content[:-3])
    survivor = await bench.open(crashed)
    assert payloads(await replay_all(survivor)) == [b"kept", b"after"]
    assert (survivor.stats().losses, survivor.stats().damaged_regions) == ((), 0)


async def test_a_full_disk_is_full_and_the_segment_goes_on(bench: Bench) -> None:
    journal = await bench.open()
    kept = await put(journal, b"kept")
    bench.files.largest_write = 100
    bench.files.fail("writev", ENOSPC, after=1, times=1)
    with pytest.raises(JournalFull):
        await put(journal, bytes(1000))
    assert kept.segment.home.path.stat().st_size == kept.segment.size
    after = await put(journal, b"after")
    assert (after.segment, after.offset) == (kept.segment, kept.offset + kept.length)
    assert payloads(await replay_all(await bench.open(bench.crash()))) == [b"kept", b"after"]


async def test_a_full_disk_that_will_not_even_truncate_is_a_failing_one(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"kept")
    bench.files.fail("writev", ENOSPC, times=1)
    bench.files.fail("truncate", EIO)
    with pytest.raises(JournalFull):
        await put(journal, b"refused")
    bench.files.heal()
    await put(journal, b"after")
    assert payloads(await replay_all(await bench.open(bench.crash()))) == [b"kept", b"after"]


async def test_on_a_full_disk_segments_still_go_when_their_records_are_stored(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    positions = [await put(journal, bytes(400)) for _ in range(3)]
    bench.files.fail("writev", ENOSPC)
    with pytest.raises(JournalFull):
        await put(journal, bytes(400))
    used = journal.stats().bytes
    journal.release(positions[0].segment, 1)
    await settle(journal)
    assert journal.stats().bytes < used
    survivor_path = bench.crash()
    bench.files.heal()
    survivor = await bench.open(survivor_path)
    assert [replayed.position.sequence for replayed in await replay_all(survivor)] == [2, 3]
    assert survivor.stats().losses == ()


async def test_a_small_volume_is_full_only_as_long_as_what_was_refused_does_not_fit(bench: Bench) -> None:
    journal = await bench.open(min_free=1000, retry_s=(0.001, 0.001))
    bench.files.free = 100_000
    with pytest.raises(JournalFull):
        await put(journal, bytes(99_500))
    assert journal.stats().full
    bench.files.free = 150_000  # nobody sends anything: it finds out by itself
    await bench.until(lambda: not journal.stats().full)
    bench.files.free = 1000
    with pytest.raises(JournalFull):
        await put(journal, bytes(1000))
    bench.files.free = 10_000
    await put(journal, bytes(1000))
    assert not journal.stats().full


async def test_it_opens_and_replays_on_a_full_disk(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    await asyncio.gather(*(put(journal, bytes(400), at=number) for number in range(3)))
    crashed = bench.crash()
    bench.files.fail("writev", ENOSPC)
    survivor = await bench.open(crashed, retry_s=(0.001, 0.001))
    with pytest.raises(JournalFull):
        await put(survivor)
    assert len(await replay_all(survivor, release=True)) == 3
    await settle(survivor)
    # The newest one stays: it alone has the high-water mark as long as there is no new one.
    assert [path.name for path in bench.segments(crashed)] == ["0000000000000003.seg"]
    bench.files.heal()
    await bench.until(lambda: len(bench.segments(crashed)) == 1 and survivor.stats().failing is None)
    assert (await put(survivor)).sequence == 4
    assert survivor.high_water_us == NOW_US + 2


@pytest.mark.parametrize("operation", ["create", "writev", "rename", "sync_directory"])
async def test_a_new_segment_that_cannot_be_made_leaves_the_old_one_in_use(bench: Bench, operation: str) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    first = await put(journal, bytes(400))
    bench.files.fail(operation, EIO, times=1)
    second = asyncio.ensure_future(put(journal, bytes(400)))
    await asyncio.wait([second])
    bench.files.heal()
    if second.exception() is None:
        assert second.result().segment is first.segment  # over its size rather than refused
    third = await put(journal, bytes(400))
    assert third.segment is not first.segment
    survivor = await bench.open(bench.crash())
    assert len(await replay_all(survivor)) >= 2
    assert survivor.stats().losses == ()


async def test_a_rotation_that_fails_is_one_episode_however_much_is_appended(
    bench: Bench, logged: list[EventDict]
) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600, retry_s=(1000.0, 1000.0))
    first = await put(journal, bytes(400))
    attempts = bench.files.calls["create"]
    bench.files.fail("create", EMFILE)
    for _ in range(20):
        assert (await put(journal, bytes(400))).segment is first.segment
    assert bench.files.calls["create"] == attempts + 1
    assert journal.stats().failing == "EMFILE"
    assert [event["event"] for event in logged if event["event"] in _EPISODE] == ["journal_failing"]


async def test_a_rotation_that_failed_is_made_up_for_without_an_append(bench: Bench, logged: list[EventDict]) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600, retry_s=(0.001, 0.01))
    first = await put(journal, bytes(400))
    bench.files.fail("create", EMFILE)
    for _ in range(20):
        assert (await put(journal, bytes(400))).segment is first.segment
    bench.files.heal()
    await bench.until(lambda: journal.stats().failing is None)
    assert (await put(journal, bytes(400))).segment is not first.segment
    assert [event["event"] for event in logged if event["event"] in _EPISODE] == list(_EPISODE)


async def test_a_removal_that_fails_is_tried_again(bench: Bench, logged: list[EventDict]) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600, retry_s=(0.001, 0.001))
    first = await put(journal, bytes(400))
    await put(journal, bytes(400))
    path = first.segment.home.path
    bench.files.fail("rename", EIO)
    journal.release(first.segment, 1)
    await settle(journal)
    assert path.exists()
    assert any(event["event"] == "journal_removal_postponed" for event in logged)
    bench.files.heal()
    await bench.until(lambda: not path.exists())


async def test_a_removal_that_got_half_way_is_completed(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600, retry_s=(0.001, 0.001))
    first = await put(journal, bytes(400))
    await put(journal, bytes(400))
    bench.files.fail("truncate", EIO, times=1)
    journal.release(first.segment, 1)
    await bench.until(lambda: journal.stats().segments == 1)
    (note,) = bench.path.glob("*.released")
    assert note.stat().st_size == 0


async def test_a_segment_that_a_person_removed_meanwhile_is_no_trouble(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    first = await put(journal, bytes(400))
    await put(journal, bytes(400))
    first.segment.home.path.unlink()
    journal.release(first.segment, 1)
    await settle(journal)
    assert journal.stats().segments == 1


async def test_a_head_that_cannot_be_written_is_no_trouble(bench: Bench, logged: list[EventDict]) -> None:
    bench.files.fail("create", EIO, after=1, times=1)
    journal = await bench.open()
    await put(journal)
    assert any(event["event"] == "journal_head_not_written" for event in logged)
    assert not (bench.path / "head").exists()


async def test_an_unknown_amount_of_free_room_is_left_to_the_write(bench: Bench) -> None:
    journal = await bench.open(min_free=1000)
    bench.files.fail("free_bytes", EIO)
    await put(journal)


async def test_a_write_that_takes_nothing_is_a_failure(bench: Bench) -> None:
    journal = await bench.open()
    bench.files.largest_write = 0
    with pytest.raises(JournalUnavailable):
        await put(journal)
    bench.files.largest_write = None
    await bench.until(lambda: journal.stats().failing is None)
    await put(journal)


async def test_a_mistake_of_ours_leaves_nobody_waiting(
    bench: Bench, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await bench.open()
    with monkeypatch.context() as patch:
        patch.setattr(journal._writer, "_write", lambda active: 1 / 0)
        with pytest.raises(JournalUnavailable):
            await put(journal)
    await put(journal)
    assert any(event["event"] == "journal_writer_error" for event in logged)


Step = tuple[str, int, bool]

steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 900), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, 20), st.booleans()),
    st.tuples(
        st.sampled_from(["sync", "writev", "create", "rename", "truncate", "unlink", "sync_directory"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    st.tuples(st.just("crash"), st.just(0), st.booleans()),
)


class Story:
    """A journal that lives through a script of appends, releases, faults, crashes and clean stops."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runs = 0
        self.submitted: set[bytes] = set()
        self.unstored: dict[bytes, Position] = {}

    async def start(self) -> None:
        """Whatever happened before, exactly the acknowledged records that were not released are there."""
        self.bench.files.heal()
        self.journal = await self.bench.open(segment_bytes=BODY_OFFSET + 2000)
        found: dict[bytes, Position] = {}
        async for replayed in self.journal.replay():
            assert replayed.payload in self.submitted
            if replayed.payload in found or replayed.payload not in self.unstored:
                self.journal.release(replayed.position.segment, replayed.items)
            else:
                found[replayed.payload] = replayed.position
        assert found.keys() == self.unstored.keys()
        assert self.journal.stats().losses == ()
        self.unstored = found

    async def play(self, step: Step) -> None:
        operation, number, flag = step
        match operation:
            case "put":
                payload = b"%d:" % len(self.submitted) + bytes(number)
                self.submitted.add(payload)
                with contextlib.suppress(JournalFull, JournalUnavailable):
                    self.unstored[payload] = await put(self.journal, payload, durable=flag)
            case "release":
                if self.unstored:
                    payload = list(self.unstored)[number % len(self.unstored)]
                    self.journal.release(self.unstored.pop(payload).segment, 1)
            case "crash":
                if flag:
                    await self.journal.close()
                self.runs += 1
                self.bench.path = self.bench.crash(f"run-{self.runs}", self.bench.path)
                await self.start()
            case _:
                self.bench.files.fail(operation, EIO if flag else ENOSPC, after=number, times=number + 1)

    async def end(self) -> None:
        self.bench.files.heal()
        for payload, position in self.unstored.items():
            assert await self.journal.read(position) == payload
        for journal in self.bench.opened:
            await journal.close()


@given(script=st.lists(steps, max_size=25))
async def test_whatever_fails_and_whenever_it_dies_no_acknowledged_record_is_lost_or_invented(
    script: list[Step],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Bench(Path(folder) / "run-0"))
        await story.start()
        for step in script:
            await story.play(step)
        await story.end()


async def test_losses_that_are_listed_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence_service.journal.journal._LISTED_LOSSES", 2)
    journal = await bench.open()
    positions = [await put(journal, bytes(100)) for _ in range(9)]
    crashed = bench.crash()
    (path,) = bench.segments(crashed)
    data = bytearray(path.read_bytes())
    for position in positions[1::2]:
        data[position.offset] ^= 1
    path.write_bytes(data)
    survivor = await bench.open(crashed)
    await replay_all(survivor)
    assert survivor.stats().lost_ranges == 4
    assert survivor.stats().losses == (Loss(1, 2, 2, "damaged"), Loss(1, 4, 4, "damaged"))

"""What the next run finds: torn tails, damage, missing segments, other versions, other owners."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from errno import EIO, ENOSPC
from pathlib import Path

import pytest
from structlog.typing import EventDict

from persistence_service.errors import JournalLocked, JournalUnavailable, JournalVersionUnknown
from persistence_service.journal import Journal, Loss
from persistence_service.journal.format import (
    BODY_OFFSET,
    HEADER_OFFSETS,
    KIND_MANIFEST,
    RECORD_OVERHEAD,
    SegmentHeader,
    encode_header,
)
from persistence_service.journal.inspection import inspect, verify
from persistence_service.testing.noted_files import FaultyNotedFiles
from persistence_service.torture.unsynced import SyncNotes, lose_power
from tests.unit.journal.bench import NOW_US, Bench, payloads, put, replay_all, settle

ONE_A_SEGMENT = BODY_OFFSET + 600


def events(logged: list[EventDict], name: str) -> list[EventDict]:
    return [event for event in logged if event["event"] == name]


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


async def fill(bench: Bench, count: int, size: int = 400, segment_bytes: int = ONE_A_SEGMENT) -> Journal:
    journal = await bench.open(segment_bytes=segment_bytes)
    await asyncio.gather(*(put(journal, bytes([number]) * size, at=number) for number in range(1, count + 1)))
    return journal


async def test_every_start_begins_a_new_segment_and_goes_on_with_the_sequence(bench: Bench) -> None:
    path = bench.path
    for run in range(1, 4):
        journal = await bench.open(path)
        assert len(bench.segments(path)) == run
        assert (await put(journal, b"%d" % run)).sequence == run
        path = bench.crash(f"crash-{run}", path)
    assert payloads(await replay_all(await bench.open(path))) == [b"1", b"2", b"3"]


async def test_starts_without_records_leave_no_segments_behind(bench: Bench) -> None:
    path = bench.path
    for run in range(4):
        journal = await bench.open(path)
        await settle(journal)
        assert len(bench.segments(path)) == 1
        path = bench.crash(f"crash-{run}", path)


async def test_a_cut_at_every_byte_of_the_tail_loses_the_cut_record_alone(
    bench: Bench, tmp_path: Path, logged: list[EventDict]
) -> None:
    journal = await bench.open()
    first = await put(journal, b"first")
    second = await put(journal, b"second")
    crashed = bench.crash()
    (segment,) = bench.segments(crashed)
    for cut in range(second.offset, second.offset + second.length):
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(crashed, copy)
        os.truncate(copy / segment.name, cut)
        logged.clear()
        survivor = await bench.open(copy)
        torn = events(logged, "journal_torn_tail_truncated")
        if cut == second.offset:
            assert not torn
        else:
            assert [(event["offset"], event["sequence"]) for event in torn] == [(second.offset, second.sequence)]
        assert (copy / segment.name).stat().st_size == second.offset
        assert payloads(await replay_all(survivor)) == [b"first"]
        assert survivor.stats().losses == ()
        assert (await put(survivor, b"third")).sequence == second.sequence
        await survivor.close()
    assert first.sequence == 1


async def test_a_torn_tail_is_cut_before_the_new_segment_opens_so_that_it_is_never_damage_later(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"first")
    crashed = bench.crash()
    with bench.segments(crashed)[0].open("ab") as file:
        file.write(b"torn" * 30)
    again = await bench.open(crashed)
    await put(again, b"second")
    assert again.stats().torn_tails == 1
    survivor = await bench.open(shutil.copytree(crashed, bench.path.parent / "later"))
    assert payloads(await replay_all(survivor)) == [b"first", b"second"]
    assert (survivor.stats().losses, survivor.stats().damaged_regions, survivor.stats().torn_tails) == ((), 0, 0)


@pytest.mark.parametrize("fsync_fails", [False, True])
async def test_what_a_killed_process_left_to_the_kernel_is_on_disk_before_anything_says_that_it_is_there(
    bench: Bench, tmp_path: Path, fsync_fails: bool
) -> None:
    # MySQL, seed 7: after a kill and, later, a power failure the journal reported records as lost that no fsync had kept.
    journal = await bench.open()
    await put(journal, b"on disk")
    size = bench.segments()[0].stat().st_size
    await put(journal, b"left to the kernel", durable=False)
    killed = bench.crash("killed")
    with closing(SyncNotes(tmp_path / "notes")) as notes:
        notes.has(bench.segments(killed)[0].stat().st_ino, size)
        next_run = Bench(killed, FaultyNotedFiles(notes))
        if fsync_fails:
            next_run.files.fail("sync", EIO, times=1)
        survivor = await next_run.open()
        await put(survivor, b"later")
        await survivor.close()
        lost = lose_power(tmp_path / "notes", killed)
    again = await bench.open(killed)
    kept = [] if fsync_fails else [b"left to the kernel"]
    assert payloads(await replay_all(again)) == [b"on disk", *kept, b"later"]
    assert (lost is not None, again.stats().losses) == (fsync_fails, ())


async def test_damage_in_the_middle_is_kept_reported_and_costs_one_record(
    bench: Bench, logged: list[EventDict]
) -> None:
    journal = await bench.open()
    positions = [await put(journal, b"%d" % number * 100) for number in range(5)]
    crashed = bench.crash()
    (path,) = bench.segments(crashed)
    before = path.read_bytes()
    flip_byte(path, positions[2].offset + 70)
    survivor = await bench.open(crashed)
    assert payloads(await replay_all(survivor)) == [b"%d" % number * 100 for number in (0, 1, 3, 4)]
    assert survivor.stats().losses == (Loss(1, 3, 3, "damaged"),)
    assert survivor.stats().damaged_regions == 1
    evidence = (crashed / "quarantine" / f"{path.name}.damage").read_bytes()
    assert evidence == (
        before[:BODY_OFFSET]
        + bytes(positions[2].offset - BODY_OFFSET)
        + path.read_bytes()[positions[2].offset : positions[3].offset]
    )
    assert events(logged, "journal_damage")[0]["offset"] == positions[2].offset
    (loss,) = events(logged, "journal_loss")
    assert (loss["first"], loss["last"]) == (3, 3)


async def test_damage_at_the_end_of_an_older_segment_is_loss_not_a_torn_tail(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    first = bench.segments(crashed)[0]
    os.truncate(first, first.stat().st_size - 10)
    survivor = await bench.open(crashed)
    found = await replay_all(survivor)
    assert [replayed.position.sequence for replayed in found] == [2, 3]
    assert survivor.stats().losses == (Loss(1, 1, 1, "damaged"),)
    assert survivor.stats().torn_tails == 0


async def test_a_damaged_segment_goes_once_its_records_are_stored_and_its_damage_is_kept(bench: Bench) -> None:
    journal = await bench.open()
    positions = [await put(journal, bytes(100)) for _ in range(3)]
    crashed = bench.crash()
    (path,) = bench.segments(crashed)
    flip_byte(path, positions[0].offset)
    survivor = await bench.open(crashed)
    await replay_all(survivor, release=True)
    await settle(survivor)
    assert not path.exists()
    assert (crashed / "quarantine" / f"{path.name}.damage").exists()


async def test_damage_that_cannot_be_kept_keeps_its_segment(bench: Bench) -> None:
    journal = await bench.open()
    positions = [await put(journal, bytes(100)) for _ in range(3)]
    crashed = bench.crash()
    (path,) = bench.segments(crashed)
    flip_byte(path, positions[0].offset)
    survivor = await bench.open(crashed)
    bench.files.fail("make_directory", 28)
    assert len(await replay_all(survivor, release=True)) == 2
    await settle(survivor)
    assert path.exists()


async def test_closing_keeps_a_segment_whose_damage_has_no_copy_and_the_next_run_makes_one(bench: Bench) -> None:
    journal = await bench.open()
    positions = [await put(journal, bytes(100)) for _ in range(3)]
    crashed = bench.crash()
    (path,) = bench.segments(crashed)
    flip_byte(path, positions[0].offset)
    survivor = await bench.open(crashed)
    bench.files.fail("make_directory", ENOSPC)
    assert len(await replay_all(survivor, release=True)) == 2
    bench.files.heal()
    await survivor.close()
    assert path.exists()
    again = await bench.open(crashed)
    assert len(await replay_all(again, release=True)) == 2
    assert again.stats().losses == survivor.stats().losses == (Loss(1, 1, 1, "damaged"),)
    await again.close()
    assert not path.exists()
    assert (crashed / "quarantine" / f"{path.name}.damage").exists()


@pytest.mark.parametrize("operation", ["writev", "sync"])
async def test_a_disk_that_takes_no_copy_of_damage_stops_nothing(bench: Bench, operation: str) -> None:
    journal = await bench.open()
    positions = [await put(journal, bytes(100)) for _ in range(3)]
    crashed = bench.crash()
    (path,) = bench.segments(crashed)
    flip_byte(path, positions[0].offset)
    survivor = await bench.open(crashed)
    bench.files.fail(operation, 28)
    assert len(await replay_all(survivor, release=True)) == 2
    await settle(survivor)
    assert path.exists()


async def test_a_segment_with_both_headers_damaged_is_set_aside_whole_and_reported(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    middle = bench.segments(crashed)[1]
    flip_byte(middle, 20)
    flip_byte(middle, HEADER_OFFSETS[1] + 20)
    content = middle.read_bytes()
    survivor = await bench.open(crashed)
    assert [replayed.position.sequence for replayed in await replay_all(survivor)] == [1, 3]
    assert survivor.stats().losses == (Loss(2, 2, 2, "segment unreadable"),)
    assert (crashed / "quarantine" / middle.name).read_bytes() == content
    assert survivor.stats().quarantined_bytes == len(content)


async def test_the_newest_segment_with_both_headers_damaged_is_reported_without_an_end(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    newest = bench.segments(crashed)[-1]
    os.truncate(newest, 50)
    survivor = await bench.open(crashed)
    assert survivor.stats().losses == (Loss(3, 3, None, "segment unreadable"),)
    assert [replayed.position.sequence for replayed in await replay_all(survivor)] == [1, 2]
    assert (await put(survivor)).sequence >= 3


async def test_quarantine_never_overwrites(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    newest = bench.segments(crashed)[-1]
    (crashed / "quarantine").mkdir()
    (crashed / "quarantine" / newest.name).write_bytes(b"earlier")
    newest.write_bytes(b"ruined")
    await bench.open(crashed)
    assert (crashed / "quarantine" / newest.name).read_bytes() == b"earlier"
    assert (crashed / "quarantine" / f"{newest.name}.1").read_bytes() == b"ruined"


async def test_one_damaged_header_copy_costs_nothing(bench: Bench, logged: list[EventDict]) -> None:
    await fill(bench, 2)
    crashed = bench.crash()
    for path, offset in zip(bench.segments(crashed), HEADER_OFFSETS, strict=True):
        flip_byte(path, offset + 30)
    survivor = await bench.open(crashed)
    assert len(await replay_all(survivor)) == 2
    assert [event["copy"] for event in events(logged, "journal_header_copy_damaged")] == [0, 1]


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_a_segment_removed_by_accident_is_reported_as_loss(bench: Bench, index: int) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    bench.segments(crashed)[index].unlink()
    survivor = await bench.open(crashed)
    last = None if index == 2 else index + 1
    assert survivor.stats().losses == (Loss(index + 1, index + 1, last, "segment missing"),)
    assert len(await replay_all(survivor)) == 2
    assert survivor.stats().lost_ranges == 1


async def test_all_segments_removed_by_accident_is_reported_as_loss(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    for path in bench.segments(crashed):
        path.unlink()
    survivor = await bench.open(crashed)
    assert survivor.stats().losses == (Loss(3, 3, None, "segment missing"),)
    assert (await put(survivor)).segment.number == 4


async def test_an_older_copy_of_a_segment_invents_nothing_and_its_rest_is_loss(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 1200)
    await put(journal, b"1" * 400)
    older = bench.segments()[0].read_bytes()
    await put(journal, b"2" * 400)
    await put(journal, b"3" * 400)
    crashed = bench.crash()
    bench.segments(crashed)[0].write_bytes(older)
    survivor = await bench.open(crashed)
    assert payloads(await replay_all(survivor)) == [b"1" * 400, b"3" * 400]
    assert survivor.stats().losses == (Loss(1, 2, 2, "damaged"),)


async def test_swapped_segments_are_read_by_their_headers(bench: Bench, logged: list[EventDict]) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    one, two, _ = bench.segments(crashed)
    one.rename(crashed / "swap")
    two.rename(one)
    (crashed / "swap").rename(two)
    survivor = await bench.open(crashed)
    assert [replayed.position.sequence for replayed in await replay_all(survivor, release=True)] == [1, 2, 3]
    assert survivor.stats().losses == ()
    assert len(events(logged, "journal_segment_misnamed")) == 2
    await settle(survivor)
    assert len(bench.segments(crashed)) == 1


async def test_a_second_copy_of_a_segment_only_repeats(bench: Bench) -> None:
    await fill(bench, 2)
    crashed = bench.crash()
    one = bench.segments(crashed)[0]
    shutil.copy(one, one.with_name("0000000000000009.seg"))
    survivor = await bench.open(crashed)
    assert sorted(replayed.position.sequence for replayed in await replay_all(survivor, release=True)) == [1, 1, 2]
    assert (await put(survivor)).segment.number == 10
    assert survivor.stats().losses == ()


async def test_a_segment_of_another_journal_is_set_aside(bench: Bench, tmp_path: Path) -> None:
    await fill(bench, 2)
    other = await bench.open(tmp_path / "other")
    await put(other, b"foreign")
    crashed = bench.crash()
    shutil.copy(bench.segments(tmp_path / "other")[0], crashed / "0000000000000007.seg")
    survivor = await bench.open(crashed)
    assert len(await replay_all(survivor)) == 2
    assert (crashed / "quarantine" / "0000000000000007.seg").exists()
    assert survivor.stats().losses == ()


@pytest.mark.parametrize("ruin", ["remove", "spoil", "shorten", "magic"])
async def test_the_head_file_is_not_needed(bench: Bench, ruin: str) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    head = crashed / "head"
    match ruin:
        case "remove":
            head.unlink()
        case "spoil":
            flip_byte(head, 30)
        case "shorten":
            os.truncate(head, 10)
        case _:
            flip_byte(head, 0)
    survivor = await bench.open(crashed)
    assert len(await replay_all(survivor)) == 3
    assert survivor.stats().losses == ()


async def test_without_its_manifest_the_newest_segment_still_gives_its_records(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    flip_byte(bench.segments(crashed)[-1], BODY_OFFSET + 1)
    survivor = await bench.open(crashed)
    assert len(await replay_all(survivor)) == 3
    assert (survivor.stats().losses, survivor.stats().damaged_regions) == ((), 1)


async def test_without_a_manifest_an_unreadable_segment_is_loss_of_unknown_extent(bench: Bench) -> None:
    await fill(bench, 3)
    crashed = bench.crash()
    flip_byte(bench.segments(crashed)[-1], BODY_OFFSET + 1)
    bench.segments(crashed)[0].write_bytes(b"ruined")
    survivor = await bench.open(crashed)
    assert survivor.stats().losses == (Loss(1, None, None, "segment unreadable"),)
    assert len(await replay_all(survivor)) == 2
    later = await bench.open(shutil.copytree(crashed, bench.path.parent / "later"))
    assert later.stats().losses == ()


async def test_a_newest_segment_cut_before_its_first_record_is_loss_of_unknown_extent(bench: Bench) -> None:
    await fill(bench, 2)
    crashed = bench.crash()
    os.truncate(bench.segments(crashed)[-1], 200)
    survivor = await bench.open(crashed)
    assert survivor.stats().torn_tails == 0
    assert survivor.stats().losses == (Loss(2, 2, None, "damaged"),)
    assert len(await replay_all(survivor)) == 1


async def test_what_a_dying_process_was_creating_is_removed(bench: Bench) -> None:
    await fill(bench, 2)
    crashed = bench.crash()
    (crashed / "0000000000000003.seg.new").write_bytes(b"half")
    (crashed / "notes.txt").write_bytes(b"somebody's")
    survivor = await bench.open(crashed)
    assert not list(crashed.glob("*.new"))
    assert (crashed / "notes.txt").exists()
    assert len(await replay_all(survivor)) == 2


async def test_another_version_is_refused_and_nothing_is_changed(bench: Bench) -> None:
    await fill(bench, 2)
    crashed = bench.crash()
    later = SegmentHeader(bytes(16), 3, 3, NOW_US, NOW_US, bytes(16), version=2)
    (crashed / "0000000000000003.seg").write_bytes(encode_header(later) + b"future")
    (crashed / "0000000000000004.seg.new").write_bytes(b"half")
    bench.segments(crashed)[0].write_bytes(b"ruined")
    before = {path.name: path.read_bytes() for path in crashed.iterdir() if path.name != "lock"}
    with pytest.raises(JournalVersionUnknown) as refusal:
        await bench.open(crashed)
    assert (refusal.value.version, refusal.value.path.name) == (2, "0000000000000003.seg")
    assert {path.name: path.read_bytes() for path in crashed.iterdir() if path.name != "lock"} == before
    (crashed / "0000000000000003.seg").unlink()
    await bench.open(crashed)  # the refusal gave the lock back


async def test_the_high_water_mark_survives_though_every_record_is_released(bench: Bench) -> None:
    journal = await bench.open()
    future = journal.append(1, b"", items=1, accepted_at_us=NOW_US + 5, high_water_us=NOW_US + 900)
    assert journal.high_water_us == NOW_US + 900
    position = await future
    crashed = bench.crash()
    journal.release(position.segment, 1)
    await journal.close()
    assert len(bench.segments()) == 1
    assert inspect(bench.path).records == 0
    for path in (bench.path, crashed):
        again = await bench.open(path)
        assert again.high_water_us == NOW_US + 900
        await replay_all(again, release=True)
        await again.close()
        assert (await bench.open(path)).high_water_us == NOW_US + 900


async def test_the_high_water_mark_counts_acceptance_times_too(bench: Bench) -> None:
    journal = await bench.open()
    await journal.append(1, b"", items=1, accepted_at_us=NOW_US + 77, high_water_us=3)
    assert (await bench.open(bench.crash())).high_water_us == NOW_US + 77


async def test_closing_with_unstored_records_keeps_them(bench: Bench) -> None:
    journal = await fill(bench, 3)
    await journal.close()
    again = await bench.open()
    assert len(await replay_all(again, release=True)) == 3
    await again.close()
    assert len(bench.segments()) == 1
    assert verify(bench.path) == ()


async def test_closing_before_the_replay_keeps_everything(bench: Bench) -> None:
    await (await fill(bench, 3)).close()
    for _ in range(3):
        await (await bench.open()).close()
    assert len(await replay_all(await bench.open())) == 3


async def test_a_replay_that_was_broken_off_can_be_started_again(bench: Bench) -> None:
    await (await fill(bench, 4)).close()
    journal = await bench.open()
    replay = journal.replay()
    async for replayed in replay:
        journal.release(replayed.position.segment, replayed.items)
        break
    with pytest.raises(RuntimeError, match="already"):
        await anext(journal.replay())
    await replay.aclose()
    assert journal.stats().replaying
    assert {replayed.position.sequence for replayed in await replay_all(journal)} == {1, 2, 3, 4}
    assert not journal.stats().replaying
    assert await replay_all(journal) == []


async def test_closing_ends_a_replay_and_keeps_what_it_had_not_read(bench: Bench) -> None:
    await (await fill(bench, 4)).close()
    journal = await bench.open()
    replay = journal.replay()
    replayed = await anext(replay)
    await journal.close()
    with pytest.raises(JournalUnavailable, match="closed"):
        await journal.read(replayed.position)
    with pytest.raises(JournalUnavailable, match="closed"):
        await anext(replay)
    assert len(await replay_all(await bench.open())) == 4


async def test_closing_is_completed_though_who_waits_for_it_is_cancelled(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    waiting = put(journal)
    await asyncio.to_thread(gate.wait_until_entered)
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    gate.open()
    await journal.close()
    assert waiting.done()
    await bench.open()


async def test_opening_that_is_cancelled_gives_the_directory_back(bench: Bench) -> None:
    gate = bench.files.gate("names")
    opening = asyncio.create_task(bench.open())
    await asyncio.to_thread(gate.wait_until_entered)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.open()
    async with asyncio.timeout(60):
        while True:
            try:
                await bench.open()
            except JournalLocked:
                await asyncio.sleep(0)
            else:
                break


async def test_a_segment_that_cannot_be_opened_for_replay_is_tried_again(bench: Bench) -> None:
    await (await fill(bench, 2)).close()
    journal = await bench.open()
    bench.files.fail("open_existing", 24)
    with pytest.raises(JournalUnavailable):
        await replay_all(journal)
    bench.files.heal()
    assert len(await replay_all(journal)) == 2


async def test_blocks_that_the_disk_cannot_read_cost_their_records_only(bench: Bench) -> None:
    journal = await bench.open()
    await asyncio.gather(*(put(journal, bytes([number]) * 3000) for number in range(10)))
    await journal.close()
    again = await bench.open()
    bench.files.fail("read", 5, after=0, times=2)  # the big read, and the first block read alone
    found = await replay_all(again)
    assert 0 < len(found) < 10
    assert sum(
        loss.last_sequence - loss.first_sequence + 1
        for loss in again.stats().losses
        if loss.last_sequence is not None and loss.first_sequence is not None
    ) == 10 - len(found)


async def test_replay_reads_large_journals_in_bounded_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence_service.journal.replay.BATCH_BYTES", 1000)
    monkeypatch.setattr("persistence_service.journal.replay.BATCH_RECORDS", 3)
    await (await fill(bench, 20, segment_bytes=1 << 20)).close()
    assert [r.position.sequence for r in await replay_all(await bench.open())] == list(range(1, 21))


async def test_a_directory_that_cannot_be_used_says_so(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JournalUnavailable, match="cannot be used"):
        await bench.open(tmp_path / "file" / "journal")


async def test_one_owner_at_a_time(bench: Bench) -> None:
    journal = await bench.open()
    with pytest.raises(JournalLocked, match=f"pid {os.getpid()}"):
        await bench.open()
    await journal.close()
    await bench.open()


_OTHER_PROCESS = """
import asyncio, sys, time
from pathlib import Path
from persistence_service.journal import Journal

async def main():
    journal = await Journal.open(Path(sys.argv[1]), max_bytes=1 << 30, min_free=0, segment_bytes=1 << 20,
                                 clock=lambda: time.time_ns() // 1000)
    number = 0
    while True:
        await journal.append(1, b"%d" % number, items=1, accepted_at_us=number, high_water_us=number)
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_acknowledged_and_frees_its_lock(bench: Bench) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _OTHER_PROCESS,
        str(bench.path),
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout is not None
    acknowledged = -1
    async for line in process.stdout:
        if line.strip().isdigit():
            acknowledged = int(line)
        if acknowledged == 50:
            with pytest.raises(JournalLocked, match=f"pid {process.pid}"):
                await bench.open()
        if acknowledged == 200:
            break
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    numbers = [int(line) for line in rest.split(b"\n")[:-1] if line.isdigit()]
    acknowledged = max([acknowledged, *numbers])
    found = payloads(await replay_all(await bench.open()))
    assert found[: acknowledged + 1] == [b"%d" % number for number in range(acknowledged + 1)]
    assert len(found) <= acknowledged + 2


async def test_overheads_are_what_the_documents_say() -> None:
    assert (BODY_OFFSET, RECORD_OVERHEAD, KIND_MANIFEST) == (4192, 64, 200)

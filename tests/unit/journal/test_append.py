"""Appending: order, group commit, rotation, removal, bounds."""

import asyncio
import functools
from itertools import pairwise

import pytest

from persistence_service.errors import BufferFull, JournalFull, JournalRecordDamaged, JournalUnavailable
from persistence_service.journal import Position
from persistence_service.journal import writer as writer_module
from persistence_service.journal.format import BODY_OFFSET, MAX_PAYLOAD_BYTES
from tests.unit.journal.bench import NOW_US, Bench, payloads, put, replay_all, settle


async def test_an_acknowledged_record_is_there_after_a_crash(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal, b"precious", items=5)
    assert position.segment.holds == 5
    assert journal.stats().unstored_items == 5
    survivor = await bench.open(bench.crash())
    (replayed,) = await replay_all(survivor)
    assert (replayed.payload, replayed.items, replayed.kind) == (b"precious", 5, 1)
    assert (replayed.accepted_at_us, replayed.position.sequence) == (NOW_US, position.sequence)


async def test_a_payload_is_read_again_at_its_position(bench: Bench) -> None:
    journal = await bench.open()
    first, second = await asyncio.gather(put(journal, b"first"), put(journal, b"second" * 1000))
    assert await journal.read(first) == b"first"
    assert await journal.read(second) == b"second" * 1000


async def test_reading_at_a_wrong_or_damaged_position_is_an_error(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal, b"first")
    with pytest.raises(JournalRecordDamaged) as damaged:
        await journal.read(position._replace(offset=position.offset + 1))
    assert (damaged.value.sequence, damaged.value.segment) == (position.sequence, position.segment.number)
    with pytest.raises(JournalRecordDamaged):
        await journal.read(position._replace(sequence=99))


async def test_records_that_wait_together_share_one_fsync(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    before = bench.files.calls["sync"]
    first = put(journal, b"first")
    await asyncio.to_thread(gate.wait_until_entered)
    rest = [put(journal, b"%d" % number) for number in range(100)]
    gate.open()
    await asyncio.gather(first, *rest)
    assert bench.files.calls["sync"] - before == 2
    assert journal.stats().groups == 2
    assert journal.stats().fsyncs == 2


async def test_groups_are_bounded_in_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "GROUP_BYTES", 1000)
    journal = await bench.open()
    gate = bench.files.gate("sync")
    first = put(journal)
    await asyncio.to_thread(gate.wait_until_entered)
    rest = [put(journal, bytes(400)) for _ in range(6)]
    gate.open()
    await asyncio.gather(first, *rest)
    assert journal.stats().groups == 1 + 3


async def test_futures_resolve_in_the_order_of_calls_and_sequences(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 2000)
    resolved: list[Position] = []
    futures = []
    for number in range(60):
        future = put(journal, b"%d" % number * 20, durable=number % 3 != 0)
        future.add_done_callback(lambda done: resolved.append(done.result()))
        futures.append(future)
    positions = await asyncio.gather(*futures)
    assert resolved == positions
    assert [position.sequence for position in positions] == list(range(1, 61))
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"%d" % number * 20 for number in range(60)]


async def test_memory_durability_does_not_wait_for_the_fsync(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    quick = await put(journal, b"quick", durable=False)
    durable = put(journal, b"durable")
    await asyncio.to_thread(gate.wait_until_entered)
    assert not durable.done()
    gate.open()
    assert (await durable).sequence == quick.sequence + 1


async def test_a_record_that_is_not_durable_does_not_overtake_a_durable_one(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    first = put(journal)
    await asyncio.to_thread(gate.wait_until_entered)
    order: list[int] = []

    def note(index: int, _done: object) -> None:
        order.append(index)

    futures = [put(journal, durable=durable) for durable in (False, True, False)]
    for index, future in enumerate(futures):
        future.add_done_callback(functools.partial(note, index))
    gate.open()
    await asyncio.gather(first, *futures)
    assert order == [0, 1, 2]


async def test_what_is_not_durable_is_synced_soon_after(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_INTERVAL_S", 0.0)
    journal = await bench.open()
    before = bench.files.calls["sync"]
    await put(journal, durable=False)
    await bench.until(lambda: bench.files.calls["sync"] == before + 1)


async def test_an_idle_journal_syncs_what_is_not_durable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_INTERVAL_S", 0.02)
    journal = await bench.open()
    before = bench.files.calls["sync"]
    await put(journal, durable=False)
    await bench.until(lambda: bench.files.calls["sync"] == before + 1)


async def test_cancelling_who_waits_does_not_cancel_the_write(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    told: list[Position] = []

    async def request() -> None:
        future = put(journal, b"kept")
        future.add_done_callback(lambda done: told.append(done.result()))
        await asyncio.shield(future)

    task = asyncio.create_task(request())
    await asyncio.to_thread(gate.wait_until_entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not told
    gate.open()
    await put(journal, b"next")
    assert told[0].segment.holds == 2


async def test_an_unshielded_waiter_is_cancelled_only_after_the_write(bench: Bench) -> None:
    journal = await bench.open()
    gate = bench.files.gate("sync")
    future = put(journal)

    async def wait() -> Position:
        return await future

    task = asyncio.create_task(wait())
    await asyncio.to_thread(gate.wait_until_entered)
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.result().sequence == 1


async def test_a_full_segment_is_followed_by_another(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 1000)
    positions = [await put(journal, bytes(300)) for _ in range(6)]
    assert len({position.segment for position in positions}) == 3
    assert all(path.stat().st_size <= BODY_OFFSET + 1000 for path in bench.segments())
    assert all(a.sequence + 1 == b.sequence for a, b in pairwise(positions))


async def test_a_record_bigger_than_a_segment_has_one_of_its_own(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 1000)
    small, big, after = await asyncio.gather(put(journal), put(journal, bytes(50_000)), put(journal))
    assert len({small.segment, big.segment, after.segment}) == 3
    assert await journal.read(big) == bytes(50_000)


async def test_a_sealed_segment_goes_when_its_last_item_is_released(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    first = await put(journal, bytes(400), items=2)
    second = await put(journal, bytes(400))
    assert first.segment.sealed
    path = first.segment.home.path
    journal.release(first.segment, 1)
    journal.hold(first.segment, 1)
    journal.release(first.segment, 1)
    await settle(journal)
    assert path.exists()
    journal.release(first.segment, 1)
    await settle(journal)
    assert not path.exists()
    assert second.segment.home.path.exists()
    assert journal.stats().segments == 1
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [bytes(400)]
    assert survivor.stats().losses == ()


async def test_segments_may_go_in_any_order_without_being_missed(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    positions = [await put(journal, bytes([number]) * 400) for number in range(6)]
    for index in (3, 1):
        journal.release(positions[index].segment, 1)
    await settle(journal)
    survivor = await bench.open(bench.crash("first"))
    assert [replayed.position.sequence for replayed in await replay_all(survivor)] == [1, 3, 5, 6]
    assert survivor.stats().losses == ()
    await put(journal, bytes(400))  # a new manifest, and the notes of the removals are gone
    await settle(journal)
    assert not list(bench.path.glob("*.released"))
    survivor = await bench.open(bench.crash("second"))
    assert [replayed.position.sequence for replayed in await replay_all(survivor)] == [1, 3, 5, 6, 7]
    assert survivor.stats().losses == ()


async def test_releasing_more_than_is_held_is_refused(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal, items=2)
    with pytest.raises(ValueError, match="3 items released, 2 held"):
        journal.release(position.segment, 3)
    assert position.segment.holds == 2


async def test_a_record_without_items_holds_nothing(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal, items=0)
    assert position.segment.holds == 0
    assert journal.stats().oldest_unstored_us is None


@pytest.mark.parametrize("kind", [0, 200, -1])
async def test_a_kind_of_the_journals_own_is_refused(bench: Bench, kind: int) -> None:
    journal = await bench.open()
    with pytest.raises(ValueError, match="kind"):
        _ = journal.append(kind, b"", items=1, accepted_at_us=0, high_water_us=0)


async def test_a_payload_over_the_formats_bound_is_refused(bench: Bench) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_PAYLOAD_BYTES + 1

    journal = await bench.open()
    with pytest.raises(ValueError, match="payload"):
        _ = put(journal, Huge())


async def test_what_waits_to_be_written_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence_service.journal.journal.MAX_PENDING_BYTES", 1000)
    journal = await bench.open()
    gate = bench.files.gate("sync")
    first = put(journal, bytes(2000))  # alone, anything may wait
    with pytest.raises(BufferFull):
        _ = put(journal)
    gate.open()
    await first
    await put(journal)


async def test_over_max_bytes_is_full_until_records_are_stored(bench: Bench) -> None:
    journal = await bench.open(max_bytes=50_000, segment_bytes=40_000)
    positions = [await put(journal, bytes(10_000)) for _ in range(3)]
    with pytest.raises(JournalFull):
        _ = put(journal, bytes(10_000))
    with pytest.raises(JournalFull):
        _ = put(journal, bytes(10_000))
    assert journal.stats().bytes <= 50_000
    await settle(journal)
    for position in positions:
        journal.release(position.segment, 1)
    await settle(journal)
    await put(journal, bytes(10_000))
    assert not journal.stats().full


async def test_below_min_free_is_full_until_there_is_room(bench: Bench) -> None:
    bench.files.free = 1000
    journal = await bench.open(min_free=1000)
    with pytest.raises(JournalFull):
        await put(journal)
    assert journal.stats().full
    bench.files.free = 1 << 40
    await put(journal)
    assert not journal.stats().full


async def test_room_on_the_volume_is_noticed_without_an_append(bench: Bench) -> None:
    journal = await bench.open(min_free=1000)
    await put(journal)
    bench.files.free = 10
    with pytest.raises(JournalFull):
        await put(journal)
    bench.files.free = 1 << 40
    await bench.until(lambda: not journal.stats().full)


async def test_short_writes_are_completed(bench: Bench) -> None:
    bench.files.largest_write = 7
    journal = await bench.open()
    await asyncio.gather(*(put(journal, b"%d" % number * 50) for number in range(10)))
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"%d" % number * 50 for number in range(10)]


async def test_appending_to_a_closed_journal_is_refused(bench: Bench) -> None:
    journal = await bench.open()
    await journal.close()
    await journal.close()
    with pytest.raises(JournalUnavailable):
        _ = put(journal)


async def test_stats_count_what_happened(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    first = await put(journal, bytes(400), at=5)
    await put(journal, bytes(400), at=9)
    stats = journal.stats()
    assert (stats.appended_records, stats.unstored_items, stats.segments) == (2, 2, 2)
    assert stats.appended_bytes == 2 * (400 + 64)
    assert stats.bytes == sum(path.stat().st_size for path in bench.segments())
    assert stats.oldest_unstored_us == NOW_US + 5
    assert stats.pending_bytes == 0
    assert stats.fsync_seconds_total > 0
    journal.release(first.segment, 1)
    assert journal.stats().oldest_unstored_us == NOW_US + 9

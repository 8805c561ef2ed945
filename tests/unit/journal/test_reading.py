"""Records are read back where they were put, many at once, and what is damaged or gone concerns nobody else."""

import asyncio
import random
from errno import EIO, EMFILE
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence_service.errors import JournalError, JournalRecordDamaged, JournalUnavailable
from persistence_service.journal import Journal, Position
from persistence_service.journal.format import BODY_OFFSET, RECORD_OVERHEAD
from tests.unit.journal.bench import Bench, put, replay_all


async def put_all(journal: Journal, payloads: list[bytes]) -> list[Position]:
    return await asyncio.gather(*(put(journal, payload) for payload in payloads))


def numbered(count: int, length: int = 100) -> list[bytes]:
    return [b"%04d" % number * (length // 4) for number in range(count)]


def spoil(position: Position) -> None:
    home = position.segment.home
    data = bytearray(home.path.read_bytes())
    data[position.offset + home.shift + RECORD_OVERHEAD] ^= 1
    home.path.write_bytes(data)


LENGTHS = st.lists(st.sampled_from([0, 1, 50, 3_000, 5_000, 20_000, 1_500_000]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, data=st.data())
async def test_any_positions_in_any_order_give_their_own_payloads(lengths: list[int], data: st.DataObject) -> None:
    """Segments of many sizes, records over the window's length, duplicates, gaps."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "journal")
        journal = await bench.open(segment_bytes=data.draw(st.sampled_from([BODY_OFFSET + 600, 50_000, 1 << 24])))
        kept = [bytes([number]) * length for number, length in enumerate(lengths)]
        positions = await put_all(journal, kept)
        asked = data.draw(st.lists(st.integers(0, len(kept) - 1), max_size=20))
        assert await journal.read_many([positions[index] for index in asked]) == [kept[index] for index in asked]
        await journal.close()


async def test_neighbours_are_read_together_and_each_file_is_opened_once(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=1 << 18)
    kept = numbered(5_000)
    positions = await put_all(journal, kept)
    segments = {position.segment for position in positions}
    bench.files.calls.clear()
    order = list(range(len(kept)))
    random.Random(7).shuffle(order)
    assert await journal.read_many([positions[index] for index in order]) == [kept[index] for index in order]
    assert len(segments) > 2
    assert bench.files.calls["open_existing"] == len(segments)
    assert bench.files.calls["read"] <= 2 * len(segments)


async def test_a_sparse_choice_does_not_read_what_lies_between(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await bench.open()
    positions = await put_all(journal, numbered(10, 60_000))
    lengths: list[int] = []
    read = bench.files.read

    def measured(fd: int, offset: int, length: int) -> bytes:
        lengths.append(length)
        return read(fd, offset, length)

    monkeypatch.setattr(bench.files, "read", measured)
    await journal.read_many([positions[0], positions[9]])
    assert sum(lengths) == positions[0].length + positions[9].length


async def test_nothing_asked_is_nothing_read(bench: Bench) -> None:
    journal = await bench.open()
    assert await journal.read_many([]) == []


async def test_a_damaged_record_is_told_in_its_place_and_the_others_are_read(bench: Bench) -> None:
    journal = await bench.open()
    kept = numbered(5)
    positions = await put_all(journal, kept)
    spoil(positions[2])
    found = await journal.read_many(positions)
    damaged = found.pop(2)
    assert isinstance(damaged, JournalRecordDamaged)
    assert (damaged.sequence, damaged.segment) == (positions[2].sequence, positions[2].segment.number)
    assert found == [kept[index] for index in (0, 1, 3, 4)]
    with pytest.raises(JournalRecordDamaged):
        await journal.read(positions[2])


async def test_a_position_of_another_record_is_no_record(bench: Bench) -> None:
    journal = await bench.open()
    first, second = await put_all(journal, [b"first", b"second"])
    found = await journal.read_many([first, first._replace(offset=second.offset), second._replace(sequence=99), second])
    assert [type(item) for item in found] == [bytes, JournalRecordDamaged, JournalRecordDamaged, bytes]


async def test_what_the_disk_refuses_to_read_is_damaged(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal)
    bench.files.fail("read", EIO)
    (found,) = await journal.read_many([position])
    assert isinstance(found, JournalRecordDamaged)
    bench.files.heal()
    assert await journal.read_many([position]) == [b"payload"]


async def test_a_missing_segment_is_told_for_each_of_its_records_alone(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 1000)
    kept = numbered(12, 300)
    positions = await put_all(journal, kept)
    gone = positions[0].segment
    gone.home.path.unlink()
    found = await journal.read_many(positions)
    for position, payload, item in zip(positions, kept, found, strict=True):
        if position.segment is gone:
            assert type(item) is JournalError
            assert str(position.sequence) in str(item)
        else:
            assert item == payload
    with pytest.raises(JournalError, match="not in the journal any more"):
        await journal.read(positions[0])


async def test_a_removed_segment_that_will_be_written_again_is_read_then(bench: Bench) -> None:
    journal = await bench.open()
    kept = await put(journal, b"kept")
    kept.segment.home.path.unlink()
    with pytest.raises(JournalUnavailable):
        await journal.read_many([kept])
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    await put(journal, b"after")
    assert await journal.read_many([kept]) == [b"kept"]


async def test_a_file_that_cannot_be_opened_just_now_loses_nothing(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal)
    bench.files.fail("open_existing", EMFILE, times=1)
    with pytest.raises(JournalUnavailable):
        await journal.read_many([position])
    assert await journal.read_many([position]) == [b"payload"]


async def test_records_are_read_where_their_segment_was_moved_to(bench: Bench) -> None:
    journal = await bench.open()
    kept = numbered(20)
    positions = await put_all(journal, kept)
    before = positions[0].segment.home
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    later = await put(journal, b"later")
    assert positions[0].segment.home is not before
    assert await journal.read_many([*positions, later]) == [*kept, b"later"]


@pytest.mark.parametrize("operation", ["open_existing", "read"])
async def test_a_segment_that_is_moved_while_it_is_read_is_followed(bench: Bench, operation: str) -> None:
    """Its old file is gone, or spoilt, when the reader, who was slow, gets to it."""
    journal = await bench.open()
    kept = numbered(20)
    positions = await put_all(journal, kept)
    old = positions[0].segment.home.path
    reader = bench.files.gate(operation)
    reading = asyncio.ensure_future(journal.read_many(positions))
    await asyncio.to_thread(reader.wait_until_entered)
    bench.files._gates.clear()  # only the reader waits; who comes now passes
    bench.files.fail("sync", EIO, times=1)
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused")
    await put(journal, b"later")
    assert positions[0].segment.home.path != old
    if operation == "read":
        bench.files.fail("read", EIO, times=2)
    reader.open()
    assert await reading == kept


async def test_records_of_an_earlier_run_are_read_at_the_positions_replay_gave(bench: Bench) -> None:
    kept = numbered(50)
    await put_all(await bench.open(segment_bytes=BODY_OFFSET + 2000), kept)
    survivor = await bench.open(bench.crash())
    positions = [replayed.position for replayed in await replay_all(survivor)]
    assert await survivor.read_many(positions[::-1]) == kept[::-1]


async def test_a_closed_journal_reads_nothing(bench: Bench) -> None:
    journal = await bench.open()
    position = await put(journal)
    await journal.close()
    for asked in ([position], []):
        with pytest.raises(JournalUnavailable, match="closed"):
            await journal.read_many(asked)

"""`max_bytes` bounds the journals of a service together."""

from dataclasses import dataclass, field

import pytest

from persistence_service.errors import JournalFull
from persistence_service.journal import Journal
from tests.unit.journal.bench import Bench, put, settle

KIB = 1024


@dataclass
class Shared:
    """What journals tell each other, in one process."""

    told: dict[int, int] = field(default_factory=dict)
    idle_bytes: int = 1 << 30


@dataclass
class Part:
    """One journal's view of `Shared`."""

    shared: Shared
    slot: int

    @property
    def idle_bytes(self) -> int:
        return self.shared.idle_bytes

    def others(self) -> int:
        return sum(used for slot, used in self.shared.told.items() if slot != self.slot)

    def publish(self, used_bytes: int) -> None:
        self.shared.told[self.slot] = used_bytes


async def two(bench: Bench, shared: Shared, max_bytes: int) -> tuple[Journal, Journal]:
    one, other = [
        await bench.open(bench.path / name, max_bytes=max_bytes, segment_bytes=50 * KIB, budget=Part(shared, slot))
        for slot, name in enumerate(("one", "other"))
    ]
    return one, other


async def test_what_one_journal_takes_the_other_has_not(bench: Bench) -> None:
    shared = Shared()
    one, other = await two(bench, shared, 64 * KIB)
    for _ in range(3):
        await put(one, bytes(10 * KIB))
    assert shared.told == {0: one.used_bytes, 1: other.used_bytes}
    assert one.service_bytes == other.service_bytes == one.used_bytes + other.used_bytes
    await put(other, bytes(10 * KIB))
    with pytest.raises(JournalFull):
        await put(other, bytes(20 * KIB))
    assert other.stats().full
    assert not one.stats().full  # a small record has room
    with pytest.raises(JournalFull):
        await put(one, bytes(20 * KIB))


async def test_bytes_on_their_way_to_the_disk_count_for_the_others_too(bench: Bench) -> None:
    one, other = await two(bench, Shared(), 64 * KIB)
    waiting = put(one, bytes(40 * KIB))
    with pytest.raises(JournalFull):
        await put(other, bytes(20 * KIB))
    await waiting


async def test_there_is_room_when_the_other_journal_has_given_some_back(bench: Bench) -> None:
    shared = Shared(idle_bytes=KIB)
    one, other = await two(bench, shared, 64 * KIB)
    position = await put(one, bytes(40 * KIB))
    with pytest.raises(JournalFull):
        await put(other, bytes(40 * KIB))
    one.release(position.segment, 1)  # nobody sends this one anything more, so it must give its room back by itself
    await settle(one)
    await put(other, bytes(40 * KIB))


async def test_a_small_segment_that_nobody_needs_is_gone_on_with(bench: Bench) -> None:
    one, _ = await two(bench, Shared(idle_bytes=16 * KIB), 64 * KIB)
    position = await put(one, bytes(100))
    one.release(position.segment, 1)
    await settle(one)
    assert (await put(one)).segment is position.segment


async def test_each_gives_back_in_proportion_to_what_it_takes(bench: Bench) -> None:
    one, other = await two(bench, Shared(), 1300 * KIB)
    for _ in range(30):
        await put(one, bytes(25 * KIB), items=10)
    for _ in range(10):
        await put(other, bytes(20 * KIB), items=10)
    assert one.items_until_room(400 * KIB) == 60  # alone it would be more
    assert other.items_until_room(400 * KIB) == 20

"""Stamps and bytes that several processes share: real processes, since one can't be in its own way."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, pairwise
from pathlib import Path
from random import Random

import pytest

from persistence_service.buffer.timing import SystemTiming
from persistence_service.fleet.shared import MAX_SLOTS, SharedBytes, SharedClock, SharedMemory, prepare
from persistence_service.testing.clocks import ManualTiming

_DAY_US = 86_400 * 1_000_000
# Answers each line: a number with the first of so many stamps, `hold` by keeping the lock for ever.
# It waits for the lock as long as it takes: on a busy machine who has it may be put off for more than the usual moment.
_WORKER = """
import sys, time
from pathlib import Path
from random import Random
from persistence_service.buffer.timing import SystemTiming
from persistence_service.fleet import shared
from persistence_service.fleet.shared import SharedClock, SharedMemory
shared._LOCK_WAIT_S = 60.0
memory = SharedMemory(Path(sys.argv[1]))
clock = SharedClock(memory, SystemTiming(), 0)
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "hold":
        with memory.locked():
            print("held", flush=True)
            time.sleep(1000)
    elif line.startswith("many"):
        print(*[clock.reserve(3) for _ in range(int(line.split()[1]))], flush=True)
    else:
        print(clock.reserve(int(line)), flush=True)
"""


class Worker:
    def __init__(self, process: Process) -> None:
        self.process = process

    async def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        return (await self.process.stdout.readline()).decode().strip()


@asynccontextmanager
async def worker(path: Path) -> AsyncIterator[Worker]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WORKER, str(path), stdin=PIPE, stdout=PIPE, limit=2**24
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        yield Worker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared"


async def test_processes_that_reserve_at_once_never_get_the_same_stamp(path: Path) -> None:
    async with worker(path) as one, worker(path) as two, worker(path) as three:
        await one.ask("1000000000000")  # so far ahead that only what the others gave tells them apart
        answers = await asyncio.gather(*(each.ask("many 30000") for each in (one, two, three)))
    runs = [list(map(int, answer.split())) for answer in answers]
    assert all(run == sorted(run) for run in runs)
    firsts = sorted(chain.from_iterable(runs))
    assert len(firsts) == 90_000
    assert all(later - earlier >= 3 for earlier, later in pairwise(firsts))


async def test_a_later_call_gets_a_later_stamp_whichever_process_makes_it(path: Path) -> None:
    async with worker(path) as one, worker(path) as two:
        end = 0
        for number in range(200):
            count = 1_000_000 if number == 50 else 5  # far ahead of the wall clock from then on
            first = int(await (one, two)[number % 2].ask(str(count)))
            assert first > end
            end = first + count - 1


async def test_a_process_that_is_killed_with_the_lock_is_in_nobodys_way(path: Path) -> None:
    memory = SharedMemory(path)
    clock = SharedClock(memory, SystemTiming(), 0)
    before = clock.reserve(1)
    async with worker(path) as other:
        assert await other.ask("hold") == "held"
        other.process.kill()
        await other.process.wait()
    assert clock.reserve(1) > before
    with memory.locked() as is_alone:
        assert is_alone
    memory.close()


async def test_a_process_that_is_stopped_with_the_lock_holds_the_others_up_for_a_moment_only(path: Path) -> None:
    memory = SharedMemory(path)
    clock = SharedClock(memory, SystemTiming(), 0)
    async with worker(path) as other:
        assert await other.ask("hold") == "held"
        os.kill(other.process.pid, signal.SIGSTOP)
        stamps = [clock.reserve(10) for _ in range(1000)]
    assert all(later - earlier >= 10 for earlier, later in pairwise(stamps))
    memory.close()


def test_stamps_go_on_where_the_wall_clock_jumps_back(path: Path) -> None:
    timing = ManualTiming()
    memory = SharedMemory(path)
    one, two = SharedClock(memory, timing, 0), SharedClock(memory, timing, 0)
    first = one.reserve(1)
    assert first == timing.wall_us()
    timing.set_wall(timing.wall_us() - _DAY_US)
    assert two.reserve(3) == first + 1
    assert one.reserve(1) == first + 4
    assert (one.high_water_us, two.high_water_us) == (first + 4, first + 4)
    memory.close()


def test_a_worker_whose_journal_has_newer_stamps_takes_all_clocks_past_them(path: Path) -> None:
    timing = ManualTiming()
    memory = SharedMemory(path)
    one = SharedClock(memory, timing, 0)
    newest = timing.wall_us() + _DAY_US
    two = SharedClock(memory, timing, newest)
    assert one.reserve(1) == newest + 1
    assert two.reserve(1) == newest + 2
    memory.close()


GARBAGE = {
    "missing": None,
    "empty": b"",
    "short": b"PSSHARE\x01" + b"\xff" * 100,
    "garbage": Random(1).randbytes(4096),
    "longer garbage": b"\xff" * 10_000,
    "another version": b"PSSHARE\x00" + b"\xff" * 4088,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_file_that_is_not_ours_is_made_anew_and_the_clock_begins_behind_the_journals(
    path: Path, content: bytes | None
) -> None:
    if content is not None:
        path.write_bytes(content)
    timing = ManualTiming()
    newest = timing.wall_us() + 7
    prepare(path, wall_us=timing.wall_us(), high_water_us=newest, journal_bytes={0: 5, 3: 6})
    memory = SharedMemory(path)
    assert not memory.is_new
    assert SharedClock(memory, timing, 0).reserve(1) == newest + 1
    assert SharedBytes(memory).total() == 11
    memory.close()


def test_what_an_earlier_run_reached_is_kept(path: Path) -> None:
    timing = ManualTiming()
    memory = SharedMemory(path)
    SharedClock(memory, timing, 0).reserve(500)
    memory.close()
    prepare(path, wall_us=timing.wall_us(), high_water_us=0, journal_bytes={})
    memory = SharedMemory(path)
    assert SharedClock(memory, timing, 0).reserve(1) == timing.wall_us() + 500
    memory.close()


def test_a_clock_that_nothing_explains_is_not_believed(path: Path) -> None:
    timing = ManualTiming()
    memory = SharedMemory(path)
    SharedClock(memory, timing, timing.wall_us() + 900 * _DAY_US)
    memory.close()
    prepare(path, wall_us=timing.wall_us(), high_water_us=0, journal_bytes={})
    memory = SharedMemory(path)
    assert SharedClock(memory, timing, 0).reserve(1) == timing.wall_us() + 1
    memory.close()


def test_what_a_slot_takes_is_seen_by_all_and_stays_when_its_worker_is_gone(path: Path) -> None:
    one, two = SharedMemory(path), SharedMemory(path)
    SharedBytes(one).publish(0, 7)
    SharedBytes(one).publish(MAX_SLOTS - 1, 5)
    SharedBytes(one).publish(MAX_SLOTS + 3, 100)  # there is no such worker
    one.close()
    seen = SharedBytes(two)
    assert (seen.total(), seen.of(0), seen.of(MAX_SLOTS - 1), seen.of(1)) == (12, 7, 5, 0)
    two.close()

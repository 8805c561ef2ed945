"""Orders reach every process of a service, and those that are not there hinder nobody."""

from collections.abc import Iterator
from contextlib import ExitStack
from errno import EIO
from pathlib import Path

import pytest

from persistence_service.testing.clocks import JumpingTiming
from persistence_service.testing.faulty_files import FaultyFiles
from persistence_service.testing.under_faults import Obedience
from persistence_service.torture.orders import Fail, Figures, Heal, Look, Orders, SetClock, of_worker

_WORKERS = 2


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "orders"


@pytest.fixture
def workers(socket: Path) -> Iterator[list[tuple[FaultyFiles, JumpingTiming]]]:
    """What each worker has that listens."""
    of_each = [(FaultyFiles(), JumpingTiming()) for _ in range(_WORKERS)]
    with ExitStack() as stack:
        for number, (files, timing) in enumerate(of_each, 1):
            server = stack.enter_context(Obedience(of_worker(socket, number), files, timing))
            stack.callback(server.shutdown)
        yield of_each


def fails(files: FaultyFiles, folder: Path) -> bool:
    """Whether the disk of a worker does."""
    try:
        files.sync_directory(folder)
    except OSError:
        return True
    return False


async def test_all_workers_have_the_same_disk_and_clock_and_what_was_felt_is_summed(
    socket: Path, workers: list[tuple[FaultyFiles, JumpingTiming]], tmp_path: Path
) -> None:
    orders = Orders.to_service(socket, _WORKERS + 1)  # one of them does not listen
    await orders.give(Fail("sync_directory", EIO))
    await orders.give(SetClock(60))
    assert [fails(files, tmp_path) for files, _ in workers] == [True, True]
    workers[0][1].wall_us()
    assert await orders.give(Look()) == Figures({"sync_directory": 2}, 1)
    await orders.heal()
    assert [fails(files, tmp_path) for files, _ in workers] == [False, False]
    assert [timing.offset_us for _, timing in workers] == [0, 0]


async def test_a_service_of_one_worker_listens_where_it_was_told(socket: Path) -> None:
    files = FaultyFiles()
    with Obedience(socket, files, JumpingTiming()) as server:
        assert await Orders.to_service(socket, 1).give(Heal()) == Figures({}, 0)
        server.shutdown()


async def test_where_nobody_listens_there_is_no_answer(socket: Path) -> None:
    assert await Orders.to_service(socket, _WORKERS).heal() is None

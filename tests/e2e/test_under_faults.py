"""Faults of the disk and of the clock reach the service process, which is the ordinary one else, and heal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

import pytest

from persistence_service.client import PersistenceClient, SessionRequest
from persistence_service.models.status import Status
from persistence_service.torture.orders import Fail, Heal, Look, Orders, SetClock
from persistence_service.torture.processes import ServiceProcess
from persistence_service.torture.subject_faults import SETTINGS, ClockJump, DiskFault, clock_faults, disk_faults

pytestmark = pytest.mark.slow

_EIO = 5
_STRIKES = 6
DISK = [fault.name for fault in disk_faults(Orders(Path()))]
CLOCK = [fault.name for fault in clock_faults(Orders(Path()))]


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    folder = tmp_path
    settings = {
        "journal.directory": folder / "journal",
        "sqlite.path": folder / "persistence.db",
        "logging.file": "",
        "buffer.flush_interval": 1,
        **SETTINGS,
    }
    program = ("-m", "persistence_service.testing.under_faults", str(folder / "orders"), "serve")
    process = ServiceProcess(folder, settings, program=program)
    try:
        await process.start()
        yield process
        assert await process.terminate() == 0
    finally:
        await process.close()


@pytest.fixture
def orders(subject: ServiceProcess) -> Orders:
    return Orders(subject.folder / "orders")


@asynccontextmanager
async def reports(subject: ServiceProcess) -> AsyncIterator[list[str]]:
    """Sessions are sent on and on during the block; the ids of those that were acknowledged."""
    kept: list[str] = []
    over = asyncio.Event()

    async def report(number: int) -> None:
        for place in count():
            if over.is_set():
                return
            session_id = f"{id(kept)}-{number}-{place}"
            await client.send_sessions([request(session_id)])
            kept.append(session_id)

    async with PersistenceClient(subject.url, give_up_s=120) as client, asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(report(number))
        yield kept
        over.set()


def request(session_id: str) -> SessionRequest:
    return SessionRequest(
        session_id=session_id,
        filename="a.xlsx",
        file_path="/a.xlsx",
        llm_provider="openai",
        status=Status.PROCESSING,
    )


async def check_all_there(subject: ServiceProcess, kept: list[str]) -> None:
    async with PersistenceClient(subject.url, give_up_s=120) as client:
        for session_id in kept[:: max(1, len(kept) // 100)]:
            assert (await client.session(session_id)).session_id == session_id


@pytest.mark.parametrize("name", DISK)
async def test_a_fault_of_the_disk_is_felt_and_over_and_nothing_acknowledged_is_lost(
    subject: ServiceProcess, orders: Orders, name: str
) -> None:
    (fault,) = [fault for fault in disk_faults(orders) if fault.name == name]
    assert isinstance(fault, DiskFault)
    async with asyncio.timeout(250), reports(subject) as kept:
        for seed in range(_STRIKES):
            await fault.strike(Random(seed))
            if fault.hits >= 2:  # which takes more, where a machine does nothing for seconds
                break
    assert fault.hits >= 2, name
    healed = await orders.give(Look())
    async with reports(subject) as more:
        pass
    assert (await orders.give(Look())) == healed, "nothing is spoilt any more"
    await check_all_there(subject, kept + more)


@pytest.mark.parametrize("name", CLOCK)
async def test_a_jump_of_the_wall_clock_is_seen_and_over(subject: ServiceProcess, orders: Orders, name: str) -> None:
    (fault,) = [fault for fault in clock_faults(orders) if fault.name == name]
    assert isinstance(fault, ClockJump)
    async with asyncio.timeout(250), reports(subject) as kept:
        for seed in range(_STRIKES):
            await fault.strike(Random(seed))
            if fault.hits > 0:
                break
    assert fault.hits > 0
    await check_all_there(subject, kept)


async def test_a_wrong_clock_shows_in_what_is_stamped(subject: ServiceProcess, orders: Orders) -> None:
    await orders.give(SetClock(7200))
    async with PersistenceClient(subject.url) as client:
        await client.send_sessions([request("stamped")])
        stamped = await client.session("stamped")
    await orders.give(Heal())
    assert stamped.updated_at - datetime.now(UTC) > timedelta(hours=1)


async def test_orders_to_nobody_are_not_answered(tmp_path: Path) -> None:
    assert await Orders(tmp_path / "nobody").give(Fail("sync", _EIO)) is None


def test_names_tell_the_faults_apart() -> None:
    names = DISK + CLOCK
    assert len(set(names)) == len(names)

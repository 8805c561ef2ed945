"""The faults of torture that strike through the database's server do what they say, and heal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random

import pytest

from persistence_service.buffer.record_writer import write_records
from persistence_service.errors import PersistenceError, StorageUnavailable, TransactionConflict
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.testing.samples import at, session_record, task_record
from persistence_service.torture import rival
from persistence_service.torture.database_faults import KilledConnections, ReadOnly, database_faults
from persistence_service.torture.proxy import Cut, Proxy, proxy_to
from persistence_service.torture.rival import Deadlock, LockWait, LockWaitTimeout, Rival
from tests.servers.server import Server

PREFIX = "tortured_"
TASK_IDS = [f"{PREFIX}{number}" for number in range(20)]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server, and a machine, that do nothing for a while."""
    monkeypatch.setattr(rival, "_PATIENCE_S", 60.0)


@pytest.fixture
def options(own_server: Server) -> Iterator[MysqlOptions]:
    """Those of an account that has rights on its database alone."""
    with own_server.ordinary_account("ordinary") as ordinary:
        yield ordinary


@pytest.fixture
def administrator(own_server: Server, options: MysqlOptions) -> MysqlOptions:
    return own_server.options(options.database)


@pytest.fixture
async def service(options: MysqlOptions) -> AsyncIterator[Service]:
    async with open_service(options) as service:
        yield service


@asynccontextmanager
async def open_service(options: MysqlOptions) -> AsyncIterator[Service]:
    backend = MysqlBackend(options)
    await backend.open()
    try:
        await backend.migrate()
        service = Service(backend)
        await service.write(0)
        yield service
    finally:
        await backend.close()


class Service:
    """What writes, as the flush does: the same tasks again and again; `errors` counts what it met."""

    def __init__(self, backend: MysqlBackend) -> None:
        self.backend = backend
        self.errors: Counter[type[PersistenceError]] = Counter()
        self.written = 0

    async def write(self, number: int) -> None:
        async with self.backend.transaction() as transaction:
            await write_records(transaction, SESSIONS, [session_record(f"{PREFIX}session", event_time=at(number))])
        tasks = [
            # MySQL's tables of what goes on can't tell of statements with such characters.
            task_record(key, f"{PREFIX}session", event_time=at(number), retry_count=0, source_text="🏹")
            for key in TASK_IDS
        ]
        async with self.backend.transaction() as transaction:
            await write_records(transaction, TASKS, tasks)
        self.written = number

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """It writes on and on during the block, and once more after it."""
        is_over = False

        async def write_on() -> None:
            for number in count(self.written + 1):
                try:
                    await self.write(number)
                except PersistenceError as exc:
                    self.errors[type(exc)] += 1
                else:
                    if is_over:
                        return

        async with asyncio.timeout(240), asyncio.TaskGroup() as group:
            group.create_task(write_on())
            yield
            is_over = True

    async def check_rows(self) -> None:
        """What is stored is what was written last: nobody else has changed it."""
        tasks = await self.backend.read(TASKS, TASK_IDS)
        assert {(task.event_time, task.retry_count) for task in tasks} == {(at(self.written), 0)}
        (session,) = await self.backend.read(SESSIONS, [f"{PREFIX}session"])
        assert (session.event_time, session.failed_tasks) == (at(self.written), 0)


async def test_a_lock_wait_keeps_the_service_waiting_and_changes_nothing(
    service: Service, administrator: MysqlOptions
) -> None:
    fault = LockWait(Rival(administrator, PREFIX))
    async with service.writing():
        await fault.strike(Random(1))
    assert fault.hits == 1
    assert service.errors.keys() <= {TransactionConflict}, "where the two met while the rival took its rows"
    await service.check_rows()


async def test_a_lock_wait_timeout_makes_the_service_give_up_waiting(
    service: Service, administrator: MysqlOptions
) -> None:
    fault = LockWaitTimeout(Rival(administrator, PREFIX))
    async with service.writing():
        await fault.strike(Random(1))
    assert fault.hits == 1
    assert service.errors.keys() == {TransactionConflict}
    await service.check_rows()


async def test_a_deadlock_ends_a_transaction_of_the_service(service: Service, administrator: MysqlOptions) -> None:
    fault = Deadlock(Rival(administrator, PREFIX))
    async with service.writing():
        for _ in range(10):
            await fault.strike(Random(1))
            if fault.hits and service.errors:
                break
    assert fault.hits >= 1
    assert service.errors.keys() == {TransactionConflict}
    assert service.errors[TransactionConflict] >= fault.hits, "more, where the rival met it before it was meant to"
    await service.check_rows()


async def test_a_rival_touches_nothing_of_other_sessions(service: Service, administrator: MysqlOptions) -> None:
    other = Rival(administrator, "tortured.")  # "_" of the pattern is no wildcard, and "." none either
    async with other.holding():
        await service.write(1)


async def test_every_connection_of_the_service_is_killed_and_no_other(
    service: Service, options: MysqlOptions, administrator: MysqlOptions
) -> None:
    fault = KilledConnections(options, administrator)
    other = MysqlBackend(administrator)
    await other.open()
    try:
        async with other.transaction() as transaction:
            async with service.writing():
                # Between two transactions nobody is hit.
                while fault.hits < 2 or not service.errors[StorageUnavailable]:
                    await fault.strike(Random(1))
            assert await transaction.read(SESSIONS, [f"{PREFIX}session"])
    finally:
        await other.close()
    assert fault.hits > 1
    assert service.errors[StorageUnavailable] >= 1
    await service.check_rows()


async def test_a_read_only_server_refuses_the_service_and_writes_again_afterwards(
    service: Service, options: MysqlOptions, administrator: MysqlOptions
) -> None:
    fault = ReadOnly(options, administrator)
    async with service.writing():
        await fault.strike(Random(1))
    assert fault.hits == 1
    assert service.errors[StorageUnavailable] >= 1
    await service.check_rows()


async def test_an_administrator_can_make_all_faults(
    service: Service, options: MysqlOptions, administrator: MysqlOptions
) -> None:
    faults, skipped = await database_faults(options, administrator, PREFIX)
    assert (len({fault.name for fault in faults}), skipped) == (5, [])


async def test_what_an_account_without_rights_can_not_make_is_told(service: Service, options: MysqlOptions) -> None:
    faults, skipped = await database_faults(options, options, PREFIX)
    assert [fault.name for fault in faults] == ["database: connections killed"]
    assert {skip.name for skip in skipped} == {
        "database: lock wait",
        "database: lock wait timeout",
        "database: deadlock",
        "database: read-only",
    }
    assert all(skip.reason for skip in skipped)
    async with service.writing():
        while not service.errors[StorageUnavailable]:  # as above
            await faults[0].strike(Random(1))
    assert service.errors[StorageUnavailable] >= 1


@asynccontextmanager
async def behind_proxy(options: MysqlOptions) -> AsyncIterator[tuple[Service, Proxy]]:
    async with proxy_to(options.addresses[0]) as proxy:
        fields = {name: getattr(options, name) for name in options.__slots__} | {"addresses": (proxy.address,)}
        async with open_service(MysqlOptions(**fields)) as service:
            yield service, proxy


@pytest.mark.parametrize(
    "cut, stored", [(Cut.BEFORE_COMMIT, False), (Cut.BEFORE_ANSWER, True), (Cut.AFTER_COMMIT, None)]
)
async def test_a_transaction_cut_around_commit_is_stored_or_not_as_the_cut_says(
    options: MysqlOptions, cut: Cut, stored: bool | None
) -> None:
    async with behind_proxy(options) as (service, proxy):
        cutting = asyncio.ensure_future(proxy.cut_next(cut, timeout_s=60))
        await asyncio.sleep(0)
        with pytest.raises(StorageUnavailable):
            async with service.backend.transaction() as transaction:
                await write_records(transaction, SESSIONS, [session_record(f"{PREFIX}session", event_time=at(9))])
        assert await cutting
        (session,) = await service.backend.read(SESSIONS, [f"{PREFIX}session"])
        if stored is not None:
            assert (session.event_time == at(9)) == stored
        await service.write(10)
        await service.check_rows()

"""Instances that delete and write the same session at once get in each other's way, and nobody learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.record_writer import write_records
from persistence_service.errors import SessionNotFound, StorageSetupError, TransactionConflict
from persistence_service.models.status import Status
from persistence_service.models.times import from_micros
from persistence_service.storage.collections import TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.testing.samples import session_record, task_record
from tests.servers.server import Server
from tests.unit.buffer.harness import session_request, task_request
from tests.unit.services.rig import Rig, open_rig

ROUNDS = 30


@pytest.fixture
async def instances(database_server: Server, tmp_path: Path) -> AsyncIterator[list[Rig]]:
    """Three of the service, on one database."""
    database = database_server.new_database()
    async with AsyncExitStack() as stack:
        rigs = []
        for number in range(3):
            backend = MysqlBackend(database_server.options(database))
            await backend.open()
            stack.push_async_callback(backend.close)
            await backend.migrate()
            rigs.append(await stack.enter_async_context(open_rig(tmp_path / str(number), backend)))
        yield rigs
    database_server.drop(database)


async def delete(rig: Rig, session_id: str) -> bool:
    """Whether it was there."""
    try:
        await rig.deletion.delete(session_id)
    except SessionNotFound:
        return False
    return True


async def test_deletions_at_once_beside_a_flush_all_come_through(instances: list[Rig]) -> None:
    first, second, third = instances
    with capture_logs() as logs:
        for number in range(ROUNDS):
            session_id = f"s{number}"
            await first.store(
                session_request(session_id), *(task_request(f"{session_id}t{n}", session_id) for n in range(5))
            )
            await third.keep(*(task_request(f"{session_id}t{n}", session_id, status="completed") for n in range(5)))
            outcomes = await asyncio.gather(
                delete(first, session_id), delete(second, session_id), third.services.buffer.flush()
            )
            assert any(outcomes[:2])

    assert not [line for line in logs if line["log_level"] in ("warning", "error")]


async def until_waiting(server: Server, *transactions: asyncio.Task[Any]) -> None:
    """Until these wait for a lock, all of them, or one of them waits no more."""
    question = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    async with asyncio.timeout(120):
        while (await asyncio.to_thread(server.sql, question))[0][0] < len(transactions):
            if any(transaction.done() for transaction in transactions):
                return
            await asyncio.sleep(0.15)  # asked again within 0.1 s, InnoDB gives the same answer


@pytest.mark.parametrize("how", ["delete", "cleanup"])
async def test_what_another_instance_is_about_to_store_is_never_deleted_by_a_tombstone_older_than_it(
    own_server: Server, tmp_path: Path, how: str
) -> None:
    database = own_server.new_database()
    async with AsyncExitStack() as stack:
        backends = [MysqlBackend(own_server.options(database)) for _ in range(2)]
        for backend in backends:
            await backend.open()
            stack.push_async_callback(backend.close)
        await backends[0].migrate()
        rig = await stack.enter_async_context(open_rig(tmp_path, backends[1]))
        now = rig.timing.wall_us()
        old = from_micros(now - 100 * 86_400_000_000)
        before = {"event_time": old, "created_at": old, "updated_at": old}
        await rig.write([session_record("S", status=Status.COMPLETED, **before)])
        await rig.write([task_record("T", "S", status=Status.FAILED, **before)])
        ahead = from_micros(now + 60_000_000)  # of the deleter's clock
        paid_for = task_record("T", "S", status=Status.COMPLETED, event_time=ahead, created_at=ahead, updated_at=ahead)
        async with backends[0].transaction() as transaction:
            await write_records(transaction, TASKS, [paid_for])
            deleting = asyncio.create_task(
                rig.cleanup.cleanup() if how == "cleanup" else rig.deletion.delete("S"), name=how
            )
            await until_waiting(own_server, deleting)
        await deleting
        tombstone = await rig.tombstone("S")
        is_deleted = tombstone is not None and tombstone.deleted_up_to >= ahead
        assert is_deleted == (how == "delete"), "which is decided by what is stored then"
        assert [task.task_id for task in await backends[0].read(TASKS, ["T"])] == ([] if is_deleted else ["T"])


async def test_many_may_hold_a_name_and_who_wants_it_alone_is_not_passed_over(own_server: Server) -> None:
    backend = MysqlBackend(own_server.options(own_server.new_database()))
    await backend.open()
    await backend.migrate()
    for _ in range(4):  # the server lets nobody wait for 5 s, in which a machine may do nothing
        with suppress(TransactionConflict):
            assert await _order(own_server, backend) == ["alone", "late"]
            break
    else:
        pytest.fail("nobody gets the lock")
    await backend.close()


async def _order(server: Server, backend: MysqlBackend) -> list[str]:
    """In which they have the lock who wait for it: first one who wants it alone, then one who does not."""
    order: list[str] = []

    async def hold(who: str, *, exclusively: bool) -> None:
        async with backend.transaction() as transaction:
            await transaction.lock(["name"], exclusively=exclusively)
            order.append(who)

    async with backend.transaction() as first, backend.transaction() as second:
        await first.lock(["name"])
        await second.lock(["name"])
        alone = asyncio.create_task(hold("alone", exclusively=True))
        await until_waiting(server, alone)
        late = asyncio.create_task(hold("late", exclusively=False))
        await until_waiting(server, alone, late)
    await asyncio.gather(alone, late)
    return order


async def test_a_row_to_lock_that_is_missing_is_said(own_server: Server) -> None:
    database = own_server.new_database()
    backend = MysqlBackend(own_server.options(database))
    await backend.open()
    await backend.migrate()
    own_server.sql("DELETE FROM name_locks", database)
    with pytest.raises(StorageSetupError, match="name_locks are missing"):
        await _hold(backend)
    await backend.close()


async def _hold(backend: MysqlBackend) -> None:
    async with backend.transaction() as transaction:
        await transaction.lock(["name"])

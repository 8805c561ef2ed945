"""Transactions: all or nothing, isolation, and cancellation at any moment."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from persistence_service.errors import BackendClosed, StorageUnavailable
from persistence_service.storage.backend import StorageBackend, Transaction
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.query import COUNT, Contains, Equals, Query
from persistence_service.testing.conformance.base import ConformanceBase, all_rows, told_healthy
from persistence_service.testing.samples import session_record, task_record


class _Abandoned(Exception):  # noqa: N818  # what a test raises to leave a transaction
    pass


class TransactionConformance(ConformanceBase):
    """Transactions: all or nothing, isolation, and cancellation at any moment."""

    async def test_a_transaction_commits_at_the_end_of_its_block(self, backend: StorageBackend) -> None:
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("one")])
            await transaction.write(SESSIONS, [session_record("two")])
            await transaction.delete(SESSIONS, [Equals("session_id", "one")])
        assert [session.session_id for session in await all_rows(backend, SESSIONS)] == ["two"]

    async def test_an_exception_in_the_block_undoes_everything(self, with_session: StorageBackend) -> None:
        with pytest.raises(_Abandoned):  # noqa: PT012  # the whole block is what must fail
            async with with_session.transaction() as transaction:
                await transaction.write(SESSIONS, [session_record("two")])
                await transaction.write(TASKS, [task_record()])
                await transaction.delete(SESSIONS, [Equals("session_id", "session-1")])
                raise _Abandoned
        assert [session.session_id for session in await all_rows(with_session, SESSIONS)] == ["session-1"]
        assert await with_session.count(TASKS) == 0

    async def test_a_transaction_reads_its_own_writes_and_nobody_else_does(self, with_session: StorageBackend) -> None:
        async with with_session.transaction() as transaction:
            await transaction.write(TASKS, [task_record()])
            assert [task.task_id for task in await transaction.read(TASKS, ["task-1"])] == ["task-1"]
            assert len(await all_rows(transaction, TASKS)) == 1
            assert await transaction.count(TASKS) == 1
            (group,) = await transaction.aggregate(TASKS, group_by=["status"], measure=[COUNT])
            assert group.figures == (1,)
            assert await with_session.count(TASKS) == 0
            assert await with_session.read(TASKS, ["task-1"]) == []
        assert await with_session.count(TASKS) == 1

    async def test_a_transaction_can_not_be_used_after_its_end(self, backend: StorageBackend) -> None:
        kept: list[Transaction] = []
        async with backend.transaction() as transaction:
            kept.append(transaction)
        with pytest.raises(BackendClosed):
            await kept[0].write(SESSIONS, [session_record()])
        with pytest.raises(BackendClosed):
            await kept[0].delete(SESSIONS, ())
        assert await backend.count(SESSIONS) == 0

    async def test_what_a_transaction_has_read_by_key_stays_so_until_its_end(self, backend: StorageBackend) -> None:
        async def add_one() -> None:
            async with backend.transaction() as transaction:
                found = await transaction.read(SESSIONS, ["counter"])
                await asyncio.sleep(0)
                assert await transaction.read(SESSIONS, ["counter"]) == found
                total = found[0].total_tasks if found else 0
                await transaction.write(SESSIONS, [session_record("counter", total_tasks=total + 1)])

        async def add_one_at_last() -> None:
            for _ in range(100):
                with suppress(StorageUnavailable):  # it was in another one's way
                    await add_one()
                    return

        await asyncio.gather(*(add_one_at_last() for _ in range(20)))
        (counter,) = await backend.read(SESSIONS, ["counter"])
        assert counter.total_tasks == 20

    async def test_who_holds_a_name_alone_sees_what_the_former_holder_left(self, backend: StorageBackend) -> None:
        async def add_one() -> None:
            async with backend.transaction() as transaction:
                await transaction.lock(["counter", "another"], exclusively=True)
                found = await transaction.query(SESSIONS, Query((Equals("session_id", "counter"),)))
                total = found[0].total_tasks if found else 0
                await asyncio.sleep(0)
                await transaction.write(SESSIONS, [session_record("counter", total_tasks=total + 1)])

        await asyncio.gather(*(add_one() for _ in range(20)))
        (counter,) = await backend.read(SESSIONS, ["counter"])
        assert counter.total_tasks == 20

    async def test_a_name_is_let_go_of_at_the_transaction_s_end(self, backend: StorageBackend) -> None:
        with pytest.raises(_Abandoned):  # noqa: PT012  # the whole block is what must fail
            async with backend.transaction() as transaction:
                await transaction.lock(["name"], exclusively=True)
                raise _Abandoned
        async with backend.transaction() as transaction:
            await transaction.lock(["name", "name"])
            await transaction.lock(["name"])
            await transaction.lock([])
        async with backend.transaction() as transaction:
            await transaction.lock(["name"], exclusively=True)

    async def test_reads_do_not_wait_for_a_transaction(self, with_session: StorageBackend) -> None:
        async with with_session.transaction() as transaction:
            await transaction.write(TASKS, [task_record()])
            async with asyncio.timeout(60):
                await asyncio.gather(*(with_session.count(TASKS) for _ in range(20)))

    async def test_a_backend_that_is_writing_is_healthy(self, with_session: StorageBackend) -> None:
        async with with_session.transaction() as transaction:
            await transaction.write(TASKS, [task_record()])
            async with asyncio.timeout(60):  # it may not wait for the transaction's end
                await told_healthy(with_session)

    async def test_a_transaction_cancelled_in_its_block_is_undone(self, backend: StorageBackend) -> None:
        inside = asyncio.Event()

        async def write_and_wait() -> None:
            async with backend.transaction() as transaction:
                await transaction.write(SESSIONS, [session_record()])
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(write_and_wait())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await backend.count(SESSIONS) == 0
        assert (await backend.write(SESSIONS, [session_record("next")])).stored == 1

    @pytest.mark.parametrize("yields", [*range(12), 20, 50, 100])
    async def test_a_write_cancelled_at_any_moment_stores_everything_or_nothing(
        self, with_session: StorageBackend, yields: int
    ) -> None:
        tasks = [task_record(f"task-{number}", source_text="x" * 1000) for number in range(600)]
        writing = asyncio.ensure_future(with_session.write(TASKS, tasks))
        for _ in range(yields):
            await asyncio.sleep(0)
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        # The next transaction waits for the end of the cancelled one, so its outcome is settled now.
        await with_session.write(SESSIONS, [session_record("next")])
        assert await with_session.count(TASKS) in (0, len(tasks))
        assert (await with_session.write(TASKS, tasks)).stored == len(tasks)
        assert await with_session.count(TASKS) == len(tasks)

    async def test_a_transaction_that_hides_a_cancelled_write_stores_everything_or_nothing(
        self, with_session: StorageBackend
    ) -> None:
        tasks = [task_record(f"task-{number}", source_text="x" * 1000) for number in range(600)]
        with suppress(StorageUnavailable):
            async with with_session.transaction() as transaction:
                await transaction.write(SESSIONS, [session_record("two")])
                writing = asyncio.ensure_future(transaction.write(TASKS, tasks))
                await asyncio.sleep(0)
                writing.cancel()
                await asyncio.wait([writing])
        stored = (await with_session.count(SESSIONS), await with_session.count(TASKS))
        assert stored in ((1, 0), (2, len(tasks)))

    @pytest.mark.parametrize("yields", range(6))
    async def test_cancelled_reads_leave_the_backend_usable(self, with_session: StorageBackend, yields: int) -> None:
        await with_session.write(TASKS, [task_record(f"task-{number}") for number in range(300)])
        reads = [asyncio.ensure_future(with_session.count(TASKS, [Contains("source_text", "x")])) for _ in range(30)]
        for _ in range(yields):
            await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        assert await with_session.count(TASKS) == 300

    async def test_waiting_for_a_transaction_may_be_cancelled(self, backend: StorageBackend) -> None:
        async with backend.transaction() as transaction:
            waiting = [asyncio.ensure_future(backend.write(SESSIONS, [session_record(f"w-{n}")])) for n in range(5)]
            await asyncio.sleep(0)
            for each in waiting[:4]:
                each.cancel()
            await transaction.write(SESSIONS, [session_record("held")])
        await asyncio.wait(waiting)
        assert {session.session_id for session in await all_rows(backend, SESSIONS)} == {"held", "w-4"}

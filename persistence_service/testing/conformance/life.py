"""Opening, migrating, closing."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

import asyncio

import pytest

from persistence_service.errors import BackendClosed, UnknownCollection
from persistence_service.models.merge import merge_tasks
from persistence_service.models.task import Task
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.storage.query import COUNT, Query
from persistence_service.testing.conformance.base import ConformanceBase, NewBackend, told_healthy
from persistence_service.testing.samples import session_record


class LifeConformance(ConformanceBase):
    """Opening, migrating, closing."""

    async def test_an_open_migrated_backend_is_healthy(self, backend: StorageBackend) -> None:
        async with asyncio.timeout(60):
            health = await told_healthy(backend)
        assert health.detail == ""
        assert health.engine

    async def test_a_backend_that_was_never_opened_refuses_every_call(self, new_backend: NewBackend) -> None:
        backend = new_backend()
        await self._check_refuses_every_call(backend)
        await backend.close()

    async def test_a_closed_backend_refuses_every_call(self, new_backend: NewBackend) -> None:
        backend = new_backend()
        await backend.open()
        await backend.migrate()
        await backend.close()
        await self._check_refuses_every_call(backend)
        with pytest.raises(BackendClosed):
            await backend.open()

    async def test_closing_twice_is_closing_once(self, new_backend: NewBackend) -> None:
        backend = new_backend()
        await backend.open()
        await asyncio.gather(backend.close(), backend.close())
        await backend.close()

    async def test_opening_changes_nothing_and_migrating_twice_is_migrating_once(self, new_backend: NewBackend) -> None:
        backend = new_backend()
        await backend.open()
        await backend.migrate()
        await backend.write(SESSIONS, [session_record()])
        await backend.migrate()
        assert await backend.count(SESSIONS) == 1
        await backend.close()

    async def test_two_instances_may_migrate_at_once(self, new_backend: NewBackend) -> None:
        backends = [new_backend(), new_backend()]
        await asyncio.gather(*(backend.open() for backend in backends))
        await asyncio.gather(*(backend.migrate() for backend in backends))
        for number, backend in enumerate(backends):
            result = await backend.write(SESSIONS, [session_record(f"session-{number}")])
            assert result.stored == 1
        for backend in backends:
            await backend.close()

    async def test_an_unknown_collection_is_named(self, backend: StorageBackend) -> None:
        unknown: Collection[Task] = Collection("nowhere", Task, "task_id", TASKS.rule, merge_tasks)
        for call in (
            lambda: backend.read(unknown, ["x"]),
            lambda: backend.query(unknown, Query()),
            lambda: backend.select(unknown, ["task_id"], Query()),
            lambda: backend.count(unknown),
            lambda: backend.write(unknown, []),
            lambda: backend.delete(unknown, ()),
        ):
            with pytest.raises(UnknownCollection, match="nowhere"):
                await call()

    async def test_closing_while_calls_run_leaves_none_of_them_hanging(self, new_backend: NewBackend) -> None:
        backend = new_backend()
        await backend.open()
        await backend.migrate()
        calls = [
            asyncio.ensure_future(backend.write(SESSIONS, [session_record(f"session-{number}")])) for number in range(5)
        ]
        reads = [asyncio.ensure_future(backend.count(SESSIONS)) for _ in range(5)]
        await asyncio.sleep(0)
        await backend.close()
        for outcome in await asyncio.gather(*calls, *reads, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, BackendClosed)

    async def _check_refuses_every_call(self, backend: StorageBackend) -> None:
        assert not (await backend.health_check()).healthy
        with pytest.raises(BackendClosed):
            await backend.migrate()
        with pytest.raises(BackendClosed):
            await backend.read(SESSIONS, ["x"])
        with pytest.raises(BackendClosed):
            await backend.query(SESSIONS, Query())
        with pytest.raises(BackendClosed):
            await backend.select(SESSIONS, ["session_id"], Query())
        with pytest.raises(BackendClosed):
            await backend.count(SESSIONS)
        with pytest.raises(BackendClosed):
            await backend.aggregate(SESSIONS, group_by=["status"], measure=[COUNT])
        with pytest.raises(BackendClosed):
            await backend.write(SESSIONS, [session_record()])
        with pytest.raises(BackendClosed):
            await backend.delete(SESSIONS, ())
        with pytest.raises(BackendClosed):
            async with backend.transaction():
                pytest.fail("a transaction began")

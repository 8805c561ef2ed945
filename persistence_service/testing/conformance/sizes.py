"""The power `SizeReporter`: a suite of its own, for backends that have it."""

# ruff: noqa: S101  # assert is how a test speaks

from __future__ import annotations

import pytest

from persistence_service.errors import BackendClosed
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import ALL_COLLECTIONS, SESSIONS, TASKS
from persistence_service.storage.powers import SizeReporter, Sizes
from persistence_service.testing.conformance.base import ConformanceBase, NewBackend
from persistence_service.testing.samples import session_record, task_record


class SizesConformance(ConformanceBase):
    """Inherit it beside `BackendConformance`, with the same fixture."""

    async def test_the_parts_of_the_sizes_are_within_the_whole(self, with_session: StorageBackend) -> None:
        for number in range(3):
            tasks = [task_record(f"task-{number}-{row}", source_text="x" * 1000) for row in range(200)]
            await with_session.write(TASKS, tasks)
            sizes = await _sizes(with_session)
            assert 0 <= (sizes.log_bytes or 0) <= sizes.total_bytes
            assert 0 <= (sizes.free_bytes or 0) <= sizes.total_bytes
            for size in sizes.collections.values():
                assert size.rows is None or size.rows >= 0
                assert 0 <= (size.bytes or 0) <= sizes.total_bytes

    async def test_sizes_name_collections_as_they_are_named(self, backend: StorageBackend) -> None:
        known = {collection.name for collection in ALL_COLLECTIONS}
        assert set((await _sizes(backend)).collections) <= known

    async def test_sizes_do_not_wait_for_an_open_transaction(self, backend: StorageBackend) -> None:
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record()])
            assert (await _sizes(backend)).total_bytes >= 0

    async def test_a_backend_that_is_not_open_has_no_sizes(self, new_backend: NewBackend) -> None:
        backend = new_backend()
        with pytest.raises(BackendClosed):
            await _sizes(backend)
        await backend.open()
        await backend.close()
        with pytest.raises(BackendClosed):
            await _sizes(backend)


async def _sizes(backend: StorageBackend) -> Sizes:
    assert isinstance(backend, SizeReporter)
    return await backend.sizes()

"""The faults of the backend that tests use are the faults that they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from persistence_service.errors import DataRejected, StorageUnavailable
from persistence_service.storage.collections import SESSIONS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.conformance import BackendConformance
from persistence_service.testing.conformance.base import NewBackend
from persistence_service.testing.faulty_backend import FaultyBackend, When
from persistence_service.testing.samples import session_record

AWAY = StorageUnavailable("away")


class TestWithoutFaults(BackendConformance):
    @pytest.fixture
    def new_backend(self) -> NewBackend:
        return lambda: FaultyBackend(MemoryBackend())


@pytest.fixture
async def backend() -> AsyncIterator[FaultyBackend]:
    backend = FaultyBackend(MemoryBackend())
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.parametrize("when", When)
async def test_a_transaction_fails_at_the_point_that_was_named_and_once(backend: FaultyBackend, when: When) -> None:
    backend.fail_next(AWAY, when=when)
    with pytest.raises(StorageUnavailable):
        await backend.write(SESSIONS, [session_record("one")])
    assert await backend.inner.count(SESSIONS) == (1 if when is When.AFTER_COMMIT else 0)
    await backend.write(SESSIONS, [session_record("two")])
    assert backend.transactions == 2


async def test_while_it_is_away_nothing_works(backend: FaultyBackend) -> None:
    backend.go_away(AWAY)
    with pytest.raises(StorageUnavailable):
        await backend.count(SESSIONS)
    with pytest.raises(StorageUnavailable):
        await backend.write(SESSIONS, [session_record()])
    assert not (await backend.health_check()).healthy
    backend.come_back()
    await backend.write(SESSIONS, [session_record()])
    assert (backend.commits, backend.reads) == (1, 0)


async def test_records_that_are_refused_refuse_their_transaction(backend: FaultyBackend) -> None:
    backend.reject(lambda record: record.session_id == "bad")
    with pytest.raises(DataRejected):
        await backend.write(SESSIONS, [session_record("good"), session_record("bad")])
    assert await backend.count(SESSIONS) == 0
    backend.reject(None)
    await backend.write(SESSIONS, [session_record("bad")])
    assert [(name, len(records)) for name, records in backend.written] == [("translation_sessions", 1)]


async def test_a_held_write_waits_until_it_is_released(backend: FaultyBackend) -> None:
    backend.hold()
    writing = asyncio.ensure_future(backend.write(SESSIONS, [session_record()]))
    await backend.held()
    assert not writing.done()
    assert await backend.count(SESSIONS) == 0
    backend.release()
    assert (await writing).stored == 1


async def test_a_held_answer_is_of_what_is_stored_and_keeps_nobody_else_waiting(backend: FaultyBackend) -> None:
    backend.hold_next_answer()
    writing = asyncio.create_task(backend.write(SESSIONS, [session_record("one")]))
    await backend.held()
    await backend.write(SESSIONS, [session_record("two")])
    assert await backend.inner.count(SESSIONS) == 2
    assert backend.is_holding
    assert not writing.done()
    backend.release()
    await writing

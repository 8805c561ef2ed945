"""Instances that delete and write the same session at once get in each other's way, and nobody learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.errors import SessionNotFound
from persistence_service.storage.mysql import MysqlBackend
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

"""What the health check says is wrong, and that it says so in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import pytest

from persistence_service.errors import SchemaTooNew
from persistence_service.storage.collections import SESSIONS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.testing.samples import session_record
from tests.integration.mysql.proxy import proxy_to
from tests.servers.server import Server

# A check takes about one second, at most four; the rest is for a machine that is busy. One that waits for the server takes
# as long as an answer or a connection may (60 s), or for ever.
IN_TIME_S = 25.0


@asynccontextmanager
async def opened(options: MysqlOptions, *, migrate: bool = True) -> AsyncIterator[MysqlBackend]:
    backend = MysqlBackend(options)
    await backend.open()
    try:
        if migrate:
            await backend.migrate()
        yield backend
    finally:
        await backend.close()


async def becomes(backend: MysqlBackend, *, healthy: bool) -> str:
    """What is said when it is so; each check is told in time."""
    async with asyncio.timeout(120):
        while True:
            begun = monotonic()
            health = await backend.health_check()
            assert monotonic() - begun < IN_TIME_S
            if health.healthy is healthy:
                return health.detail
            await asyncio.sleep(0.01)  # some answers are immediate


async def test_the_server_is_named_with_its_version(database_server: Server, database: str) -> None:
    async with opened(database_server.options(database)) as backend:
        async with asyncio.timeout(120):
            while not (health := await backend.health_check()).version:
                pass  # what a slow server says is told when it has said it
    assert (health.engine, health.detail) == (database_server.kind, "")
    assert health.version == database_server.sql("SELECT VERSION()")[0][0]


async def test_a_schema_that_is_not_migrated_is_told_with_what_to_do(database_server: Server) -> None:
    database = database_server.new_database()
    async with opened(database_server.options(database), migrate=False) as backend:
        assert "persistence-service migrate" in await becomes(backend, healthy=False)
        await backend.migrate()
        await becomes(backend, healthy=True)


async def test_a_schema_of_a_later_version_is_told_and_not_opened_until_it_is_gone(database_server: Server) -> None:
    database = database_server.new_database()
    options = database_server.options(database)
    async with opened(options) as backend:
        [(version,)] = database_server.sql("SELECT version_num FROM alembic_version", database)
        database_server.sql("UPDATE alembic_version SET version_num = '9999'", database)
        assert "9999" in await becomes(backend, healthy=False)
    other = MysqlBackend(options)
    for _ in range(2):
        with pytest.raises(SchemaTooNew):
            await other.open()
    database_server.sql(f"UPDATE alembic_version SET version_num = '{version}'", database)
    await other.open()
    await becomes(other, healthy=True)
    assert (await other.write(SESSIONS, [session_record()])).stored == 1
    await other.close()


async def test_a_read_only_server_is_told_until_it_is_writable_again(own_server: Server) -> None:
    async with opened(own_server.options(own_server.new_database())) as backend:
        own_server.sql("SET GLOBAL read_only=1")
        try:
            assert "read-only" in await becomes(backend, healthy=False)
        finally:
            own_server.sql("SET GLOBAL read_only=0")
        await becomes(backend, healthy=True)


async def test_a_server_that_is_silent_is_told_and_one_that_speaks_again_too(
    database_server: Server, database: str
) -> None:
    async with proxy_to((database_server.host, database_server.port)) as proxy:
        options = database_server.options(database, addresses=(proxy.address,), connect_timeout_s=1)
        async with opened(database_server.options(database)), opened(options, migrate=False) as backend:
            await becomes(backend, healthy=True)
            proxy.swallows = True
            assert await becomes(backend, healthy=False)
            proxy.swallows = False
            await becomes(backend, healthy=True)


async def test_a_backend_all_of_whose_connections_write_is_healthy(database_server: Server, database: str) -> None:
    async with (
        opened(database_server.options(database, pool_size=2, acquire_timeout_s=60)) as backend,
        AsyncExitStack() as stack,
    ):
        await becomes(backend, healthy=True)
        for number in range(2):
            transaction = await stack.enter_async_context(backend.transaction())
            await transaction.write(SESSIONS, [session_record(f"session-{number}")])
        await becomes(backend, healthy=True)

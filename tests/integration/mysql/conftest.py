"""A backend on each server, empty at each test's start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from persistence_service.storage.collections import ALL_COLLECTIONS
from persistence_service.storage.mysql import MysqlBackend
from tests.integration.mysql.migrating import migrated
from tests.servers.server import Server


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """A database for all tests of the module, migrated once: that it is up to date takes longer to see than most of them."""
    database = database_server.new_database()
    asyncio.run(migrated(database_server.options(database)))
    yield database
    database_server.drop(database)


@pytest.fixture
async def backend(database_server: Server, database: str) -> AsyncIterator[MysqlBackend]:
    """Open; what former tests left is removed."""
    backend = MysqlBackend(database_server.options(database))
    await backend.open()
    for collection in reversed(ALL_COLLECTIONS):
        await backend.delete(collection, ())
    yield backend
    await backend.close()

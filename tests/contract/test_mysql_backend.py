"""The MySQL backend keeps the contract, on MySQL and on MariaDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import ALL_COLLECTIONS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.migration import migrate
from persistence_service.testing.conformance import BackendConformance, SizesConformance
from persistence_service.testing.conformance.base import NewBackend
from tests.servers.server import Server


@pytest.fixture(scope="class")
def database(database_server: Server) -> Iterator[str]:
    """One for all tests of the class: to make one, to migrate and to drop it takes longer than most of them."""
    database = database_server.new_database()
    options = database_server.options(database)
    asyncio.run(migrate(options, options.addresses[0]))
    yield database
    database_server.drop(database)


class TestMysqlBackend(BackendConformance, SizesConformance):
    @pytest.fixture
    def new_backend(self, database_server: Server, database: str) -> NewBackend:
        with database_server.connected(database) as run:
            for collection in reversed(ALL_COLLECTIONS):
                run(f"DELETE FROM {collection.name}")
        return lambda: MysqlBackend(database_server.options(database))

    @pytest.fixture
    async def backend(self, new_backend: NewBackend) -> AsyncIterator[StorageBackend]:
        """The database is migrated."""
        backend = new_backend()
        await backend.open()
        yield backend
        await backend.close()

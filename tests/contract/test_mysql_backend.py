"""The MySQL backend keeps the contract, on MySQL and on MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from persistence_service.storage.collections import ALL_COLLECTIONS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.testing.conformance import BackendConformance, SizesConformance
from persistence_service.testing.conformance.base import NewBackend
from tests.servers.server import Server


@pytest.fixture(scope="class")
def database(database_server: Server) -> Iterator[str]:
    """One for all tests of the class: to make and to drop one takes longer than most of them."""
    database = database_server.new_database()
    yield database
    database_server.drop(database)


class TestMysqlBackend(BackendConformance, SizesConformance):
    @pytest.fixture
    def new_backend(self, database_server: Server, database: str) -> NewBackend:
        with database_server.connected(database) as run:
            present = {name for (name,) in run("SHOW TABLES")}
            for collection in reversed(ALL_COLLECTIONS):
                if collection.name in present:
                    run(f"DELETE FROM {collection.name}")
        return lambda: MysqlBackend(database_server.options(database))

"""Databases that really go away, and come back with all that they had."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import ExitStack

from tests.e2e.database import Database, OnServer, SqliteFile
from tests.servers.server import Server


class Outage(ABC):
    """A database, and how it goes away."""

    database: Database

    @abstractmethod
    async def begin(self) -> None:
        """From now on nothing is stored."""

    @abstractmethod
    async def end(self) -> None:
        """It is there again."""


class Locked(Outage):
    """Somebody else holds the lock of an embedded database."""

    def __init__(self, database: SqliteFile) -> None:
        self.database = self._file = database
        self._held = ExitStack()

    async def begin(self) -> None:
        self._held.enter_context(self._file.locked())

    async def end(self) -> None:
        self._held.close()


class Stopped(Outage):
    """The server is shut down. Its database is a new one."""

    def __init__(self, server: Server) -> None:
        self.database = OnServer(server)
        self._server = server

    async def begin(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def end(self) -> None:
        await asyncio.to_thread(self._server.start)

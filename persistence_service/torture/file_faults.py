"""What another program does to a service through its embedded database's file."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

from persistence_service.storage.sqlite.connection import ConnectionSettings, SqliteConnection
from persistence_service.storage.sqlite.errors import translated
from persistence_service.storage.sqlite.file import DatabaseFile
from persistence_service.torture.faults import CouldNotRun

_SHORTEST_S: Final = 3.0
_LONGEST_S: Final = 9.0
_LONGEST_REST_S: Final = 5.0
_PATIENCE_S: Final = 30.0


class FileLocked:
    """Another connection is the only writer for so long that the service has to give up, more than once."""

    name = "database: locked"

    def __init__(self, path: Path) -> None:
        self._settings = ConnectionSettings(DatabaseFile(path), _PATIENCE_S, cache_kib=100, read_only=False)
        self.hits = 0
        """How often the lock was held; the service writes all the time."""

    async def strike(self, random: Random) -> None:
        connection = await asyncio.to_thread(self._locked)
        with closing(connection):
            self.hits += 1
            await asyncio.sleep(random.uniform(_SHORTEST_S, _LONGEST_S))
        await asyncio.sleep(random.uniform(0, _LONGEST_REST_S))  # in which the service writes what has come meanwhile

    def _locked(self) -> SqliteConnection:
        try:
            connection = SqliteConnection(self._settings)
            connection.begin()
        except Exception as exc:
            error = translated(exc)
            if error is None:
                raise
            raise CouldNotRun(f"{self.name}: {error}") from exc
        return connection

"""What an administrator and other writers do to a service through its database server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

from persistence_service.errors import PersistenceError
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.errors import READ_ONLY
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.administration import (
    NO_SUCH_THREAD,
    NO_SUCH_VARIABLE,
    connected,
    deadlocks,
    is_waited_for,
)
from persistence_service.torture.faults import Fault
from persistence_service.torture.rival import Deadlock, LockWait, LockWaitTimeout, Rival

_LONGEST_KILLING_S: Final = 1.5
_LONGEST_READ_ONLY_S: Final = 2.0
_A_WRITE: Final = "UPDATE translation_sessions SET total_tasks = total_tasks WHERE 1 = 0"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A fault that can't be made here, and why: to be said, so that nobody believes in it."""

    name: str
    reason: str


async def database_faults(
    service: MysqlOptions, administrator: MysqlOptions, prefix: str
) -> tuple[list[Fault], list[Skipped]]:
    """Those that `administrator`, who may be the service's own account, can make, and those that it can't.

    Rows of sessions whose ids begin with `prefix` are locked, and of their tasks, and for a moment all name locks. Each fault has `hits`: what it did in fact.

    Raises:
        CouldNotRun: there is no way to the database.
    """
    rival = Rival(administrator, prefix)
    waits: list[Fault] = [LockWait(rival), LockWaitTimeout(rival), Deadlock(rival)]
    read_only = ReadOnly(service, administrator)
    offered: list[Fault] = [KilledConnections(service, administrator)]
    skipped: list[Skipped] = []
    for faults, obstacle in (
        (waits, await _obstacle_to_waits(administrator)),
        ([read_only], await read_only.obstacle()),
    ):
        if obstacle is None:
            offered += faults
        else:
            skipped += [Skipped(fault.name, obstacle) for fault in faults]
    return offered, skipped


async def _obstacle_to_waits(administrator: MysqlOptions) -> str | None:
    async with connected(administrator) as connection:
        try:
            await is_waited_for(connection)
            await deadlocks(connection)
        except PersistenceError as exc:
            return f"{administrator.user} can't see who waits for a lock, for which it needs PROCESS: {exc}"
    return None


class KilledConnections:
    """The server ends every connection of the service, again and again for a moment."""

    name = "database: connections killed"

    def __init__(self, service: MysqlOptions, administrator: MysqlOptions) -> None:
        self._service = service
        self._administrator = administrator
        self.hits = 0

    async def strike(self, random: Random) -> None:
        ends_at = time.monotonic() + random.uniform(0, _LONGEST_KILLING_S)
        async with connected(self._administrator) as connection:
            while True:
                await self._kill_all(connection)
                if time.monotonic() >= ends_at:
                    return
                await asyncio.sleep(random.uniform(0, 0.1))

    async def _kill_all(self, connection: MysqlConnection) -> None:
        own = (await connection.run("SELECT CONNECTION_ID()")).rows[0][0]
        for number, user, _, database, *_ in (await connection.run("SHOW PROCESSLIST")).rows:
            if number == own or (user, database) != (self._service.user, self._service.database):
                continue
            try:
                await connection.run(f"KILL {number}")
            except PersistenceError as exc:
                if getattr(exc, "number", None) != NO_SUCH_THREAD:  # it ended by itself meanwhile
                    raise
            else:
                self.hits += 1


class ReadOnly:
    """The server takes no writes for a moment, as one that was demoted."""

    name = "database: read-only"

    def __init__(self, service: MysqlOptions, administrator: MysqlOptions) -> None:
        self._service = service
        self._administrator = administrator
        self.hits = 0

    async def strike(self, random: Random) -> None:
        async with self._switched_on():
            self.hits += await self._is_felt()
            await asyncio.sleep(random.uniform(0, _LONGEST_READ_ONLY_S))

    async def obstacle(self) -> str | None:
        """Why it can't be made, if it can't: found by making it."""
        if len(self._service.addresses) > 1:
            return "a group decides by itself which of its nodes are read-only"
        try:
            async with self._switched_on():
                if await self._is_felt():
                    return None
        except PersistenceError as exc:
            return f"{self._administrator.user} can't make the server read-only: {exc}"
        return f"{self._service.user} may write to a read-only server"

    @asynccontextmanager
    async def _switched_on(self) -> AsyncIterator[None]:
        try:
            async with connected(self._administrator) as connection:
                await _set_read_only(connection, "ON")
            yield
        finally:
            async with connected(self._administrator) as connection:
                await _set_read_only(connection, "OFF")

    async def _is_felt(self) -> bool:
        """Whether the service's account can write no more."""
        try:
            async with connected(self._service) as connection:
                await connection.run(_A_WRITE)
        except PersistenceError as exc:
            return getattr(exc, "number", None) in READ_ONLY
        return False


async def _set_read_only(connection: MysqlConnection, value: str) -> None:
    """MySQL's stronger form takes the right to write from administrators too; MariaDB has none."""
    try:
        await connection.run(f"SET GLOBAL super_read_only = {value}")
    except PersistenceError as exc:
        if getattr(exc, "number", None) != NO_SUCH_VARIABLE:
            raise
    await connection.run(f"SET GLOBAL read_only = {value}")

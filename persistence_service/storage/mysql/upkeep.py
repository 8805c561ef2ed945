"""Looks after idle connections: some are kept warm, the rest is closed, and a server that is back is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from persistence_service.errors import PersistenceError, StorageSetupError
from persistence_service.storage.mysql.connection import SESSION_IDLE_S, MysqlConnection
from persistence_service.storage.mysql.idle import IdleConnections
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.mysql.permits import Permits

_log = structlog.get_logger(__name__)

_ROUND_S = 1.0
_SETUP_ROUND_S = 10.0  # a server that refuses the account may block it, or this host, after too many attempts
_PING_AFTER_S = SESSION_IDLE_S / 3
_PING_S = 5.0
_SURPLUS_AFTER_S = 30.0


class Upkeep:
    """A round every second. It uses a connection only with a permit that is free: nobody waits for it.

    Args:
        connect: opens a connection to the primary.
        size: how many connections there are, those in use included.
    """

    def __init__(
        self,
        options: MysqlOptions,
        idle: IdleConnections,
        permits: Permits,
        *,
        connect: Callable[[], Awaitable[MysqlConnection]],
        size: Callable[[], int],
    ) -> None:
        self._options = options
        self._idle = idle
        self._permits = permits
        self._connect = connect
        self._size = size
        self._called = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        """Returns when nothing of it runs any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def call(self) -> None:
        """Have a round now."""
        self._called.set()

    async def _go_on(self) -> None:
        pause_s = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._called.wait()
            self._called.clear()
            pause_s = _ROUND_S
            try:
                await self._round()
            except StorageSetupError:
                pause_s = _SETUP_ROUND_S
            except PersistenceError:
                pass  # who needs a connection is told
            except Exception:  # noqa: BLE001  # a mistake here must not end it: it is the supervision point of this loop
                _log.exception("mysql.upkeep_failed")

    async def _round(self) -> None:
        least = min(self._options.pool_min, self._options.pool_size)
        self._idle.drop(older_than_s=self._options.pool_recycle_s)
        while self._size() > least and self._idle.oldest_s > _SURPLUS_AFTER_S:
            await self._close_oldest()
        while self._idle.oldest_s > _PING_AFTER_S and self._permits.take():
            await self._ping_oldest()
        while self._size() < least and self._permits.take():
            await self._add()

    async def _close_oldest(self) -> None:
        connection = self._idle.take_oldest()
        if connection is not None:
            await connection.close()

    async def _ping_oldest(self) -> None:
        try:
            connection = self._idle.take_oldest()
            if connection is not None:
                await connection.run("DO 1", limit_s=_PING_S)
                self._idle.put(connection)
        finally:
            self._permits.release()

    async def _add(self) -> None:
        try:
            self._idle.put(await self._connect())
        finally:
            self._permits.release()

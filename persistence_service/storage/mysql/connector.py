"""Connects to the primary, wherever that is when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from persistence_service.errors import PersistenceError
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.facts import ServerFacts
from persistence_service.storage.mysql.options import Address, MysqlOptions


class Connector:
    """Any number of attempts at the same time.

    Args:
        target: where to connect to now; raises a PersistenceError if there is nothing.
    """

    def __init__(self, options: MysqlOptions, target: Callable[[], Address]) -> None:
        self._options = options
        self._target = target
        self._attempts: dict[asyncio.Task[MysqlConnection], Address] = {}
        self._known: dict[Address, ServerFacts] = {}
        self._notify: list[Callable[[], None]] = []
        self._is_away = False

    def on_available(self, notify: Callable[[], None]) -> None:
        """Call `notify`, from the event loop, whenever the server lets us in again after it did not."""
        self._notify.append(notify)

    async def connect(self) -> MysqlConnection:
        """A connection to the target.

        Raises:
            PersistenceError: there is none, or it does not let us in.
        """
        try:
            connection = await self._connect()
        except PersistenceError:
            self._is_away = True
            raise
        if self._is_away:
            self._is_away = False
            for notify in self._notify:
                notify()
        return connection

    def retarget(self) -> None:
        """The target is another: attempts to connect to the former one begin anew."""
        self._is_away = True
        for attempt, address in self._attempts.items():
            if not self._is_target(address):
                attempt.cancel()

    async def _connect(self) -> MysqlConnection:
        while True:
            address = self._target()
            attempt = asyncio.create_task(MysqlConnection.open(self._options, address, self._known.get(address)))
            self._attempts[attempt] = address
            try:
                await asyncio.wait([attempt])
            except asyncio.CancelledError:
                attempt.cancel()
                attempt.add_done_callback(_abandon_result)
                raise
            finally:
                del self._attempts[attempt]
            if attempt.cancelled():
                continue
            connection = attempt.result()
            if self._is_target(address):
                self._known[address] = connection.facts
                return connection
            connection.abandon()

    def _is_target(self, address: Address) -> bool:
        try:
            return self._target() == address
        except PersistenceError:
            return False


def _abandon_result(attempt: asyncio.Task[MysqlConnection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abandon()

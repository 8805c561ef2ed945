"""A rival writer: its transactions are in the way of the service's, and are rolled back, so that its writes change nothing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final

from persistence_service.errors import TransactionConflict
from persistence_service.storage.mysql.connection import Answer, MysqlConnection
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.administration import connected, deadlocks, is_waited_for, lock_timeouts

_PATIENCE_S: Final = 10.0
"""How long a strike waits for somebody to come into its way."""
_GIVES_WAY_S: Final = 60.0
"""For how long it gives way to a service that is first, whose transactions last as long as the machine is slow."""
_LONGEST_WAIT_S: Final = 1.5
_POLL_S: Final = 0.03

# Those that were written last are those that will most likely be written next. Read without a lock: of what it only looks at
# the rival holds nothing.
_TASKS: Final = """
    SELECT task_id FROM translation_tasks WHERE session_id LIKE @tortured ORDER BY updated_at DESC LIMIT 1000
"""
_SESSIONS: Final = """
    SELECT session_id FROM translation_sessions WHERE session_id LIKE @tortured ORDER BY updated_at DESC LIMIT 200
"""
_HOLD_TASKS: Final = "UPDATE translation_tasks SET retry_count = retry_count + 1 WHERE task_id IN "
_HOLD_SESSIONS: Final = "UPDATE translation_sessions SET failed_tasks = failed_tasks + 1 WHERE session_id IN "
_WANT: Final = "SELECT COUNT(*) FROM name_locks FOR UPDATE"
"""What the service takes first of all, in each of its transactions."""


class Rival:
    """Holds rows of the sessions whose ids begin with `prefix`, and of their tasks."""

    def __init__(self, administrator: MysqlOptions, prefix: str) -> None:
        self._administrator = administrator
        self._pattern = re.sub(r"([\\%_])", r"\\\1", prefix) + "%"

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[MysqlConnection]:
        """The rows are its own for the block, tasks first and then their sessions; all is rolled back at its end."""
        async with connected(self._administrator) as connection:
            await connection.run(f"SET @tortured = '{connection.escape_text(self._pattern)}'")
            statements = [
                head + _listed(connection, await connection.run(question))
                for question, head in ((_TASKS, _HOLD_TASKS), (_SESSIONS, _HOLD_SESSIONS))
            ]
            await self._take(connection, statements)
            try:
                yield connection
            finally:
                if connection.is_usable:
                    await connection.roll_back()

    async def _take(self, connection: MysqlConnection, statements: Sequence[str]) -> None:
        """Begin a transaction and lock the rows; again where the service was first and the rival had to give way."""
        ends_at = time.monotonic() + _GIVES_WAY_S
        while True:
            await connection.begin()
            try:
                for statement in statements:
                    await connection.run(statement)
            except TransactionConflict:
                if time.monotonic() > ends_at:
                    raise
                await connection.roll_back()
            else:
                return


def _listed(connection: MysqlConnection, answer: Answer) -> str:
    """The keys that were answered, as a list in SQL; without any one that is nobody's."""
    return "(" + ", ".join(f"'{connection.escape_text(key)}'" for (key,) in answer.rows or [("",)]) + ")"


class LockWait:
    """The service waits for rows, and gets them."""

    name = "database: lock wait"

    def __init__(self, rival: Rival) -> None:
        self._rival = rival
        self.hits = 0

    async def strike(self, random: Random) -> None:
        async with self._rival.holding() as connection:
            if await _comes_true(lambda: is_waited_for(connection)):
                self.hits += 1
                await asyncio.sleep(random.uniform(0, _LONGEST_WAIT_S))


class LockWaitTimeout:
    """The service waits for rows longer than the server lets it (innodb_lock_wait_timeout)."""

    name = "database: lock wait timeout"

    def __init__(self, rival: Rival) -> None:
        self._rival = rival
        self.hits = 0

    async def strike(self, random: Random) -> None:  # noqa: ARG002  # it lasts until the server has given up
        async with self._rival.holding() as connection:
            before = await lock_timeouts(connection)

            async def gave_up() -> bool:
                return await lock_timeouts(connection) > before

            self.hits += await _comes_true(gave_up)


class Deadlock:
    """The service and the rival have what the other wants; the server ends the service's transaction."""

    name = "database: deadlock"

    def __init__(self, rival: Rival) -> None:
        self._rival = rival
        self.hits = 0

    async def strike(self, random: Random) -> None:  # noqa: ARG002  # when it happens is the service's to say
        async with self._rival.holding() as connection:
            before = await deadlocks(connection)
            if not await _comes_true(lambda: is_waited_for(connection)):
                return
            with suppress(TransactionConflict):  # the rival was the one that had to end, after all
                await connection.run(_WANT)
                self.hits += await deadlocks(connection) > before


async def _comes_true(condition: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it did before patience was over."""
    ends_at = time.monotonic() + _PATIENCE_S
    while not await condition():
        if time.monotonic() > ends_at:
            return False
        await asyncio.sleep(_POLL_S)
    return True

"""One host asked what it is, over a connection kept for that."""

from __future__ import annotations

import asyncio
import time

from pymysql.constants import ER

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.primary import Membership, Sighting, View, is_majority

# The first that the server knows is taken: without the plugin there is no such name, and MariaDB has no super_read_only.
_OF_GROUP = "@@global.group_replication_group_name, @@global.group_replication_single_primary_mode"
_STATES = (
    f"SELECT @@global.read_only OR @@global.super_read_only, {_OF_GROUP}",
    "SELECT @@global.read_only OR @@global.super_read_only, NULL, NULL",
    "SELECT @@global.read_only, NULL, NULL",
)
_MEMBERS = (
    "SELECT member_id = @@server_uuid, member_state, member_role FROM performance_schema.replication_group_members"
)
_VIEW = "SELECT view_id FROM performance_schema.replication_group_member_stats WHERE member_id = @@server_uuid"
_SILENT = "no answer"
_REST_S = 0.25
_LONGEST_REST_S = 10.0


class HostProbe:
    """Asks one host again and again."""

    def __init__(self, options: MysqlOptions, address: Address) -> None:
        self._options = options
        self._address = address
        self._connection: MysqlConnection | None = None
        self._state = _STATES[0]
        self._silences = 0
        self._rests_until = 0.0

    async def look(self, limit_s: float) -> Sighting:
        """What the host says of itself now.

        Raises:
            PersistenceError: it can't be asked; StorageUnavailable if there is no answer within `limit_s`, and for a while after
                several such looks.
        """
        if time.monotonic() < self._rests_until:
            raise StorageUnavailable(_SILENT)
        try:
            async with asyncio.timeout(limit_s):
                sighting = await self._ask()
        except TimeoutError as exc:
            self.close()
            self._rest()
            raise StorageUnavailable(_SILENT) from exc
        except BaseException:
            self.close()
            raise
        self._silences = 0
        return sighting

    def _rest(self) -> None:
        # When a frozen server goes on, it finds all the connections that were given up meanwhile, and after
        # max_connect_errors (100) of them it refuses this machine for good.
        self._silences += 1
        if self._silences > 1:
            self._rests_until = time.monotonic() + min(_LONGEST_REST_S, _REST_S * 2 ** min(self._silences, 10))

    def close(self) -> None:
        """The next look connects anew."""
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None

    async def _ask(self) -> Sighting:
        if self._connection is not None and not self._connection.is_usable:
            self.close()
        if self._connection is None:
            self._connection = await MysqlConnection.open(self._options, self._address)
            self._state = await _known_state(self._connection)
        is_read_only, group, single = (await self._connection.run(self._state)).rows[0]
        membership = await _membership(self._connection, has_single_primary=bool(single)) if group else None
        return Sighting(not is_read_only, membership)


async def _known_state(connection: MysqlConnection) -> str:
    for statement in _STATES:
        try:
            await connection.run(statement)
        except StorageSetupError as exc:
            if exc.number != ER.UNKNOWN_SYSTEM_VARIABLE:
                raise
        else:
            return statement
    raise StorageSetupError("the database server does not say whether it can be written")


async def _membership(connection: MysqlConnection, *, has_single_primary: bool) -> Membership | None:
    """None while the host has left its group, or was not started into it."""
    try:
        members = (await connection.run(_MEMBERS)).rows
        views = (await connection.run(_VIEW)).rows
    except PersistenceError as exc:
        if getattr(exc, "number", None) != ER.TABLEACCESS_DENIED_ERROR:
            raise
        raise StorageSetupError(
            "the account may not see the state of the replication group: GRANT SELECT ON "
            "performance_schema.replication_group_members and performance_schema.replication_group_member_stats to it",
            number=ER.TABLEACCESS_DENIED_ERROR,
        ) from exc
    own = next(((state, role) for is_own, state, role in members if is_own), ("OFFLINE", ""))
    if own[0] == "OFFLINE":
        return None
    return Membership(
        is_primary=own == ("ONLINE", "PRIMARY"),
        has_majority=is_majority([state for _, state, _ in members]),
        view=_view(views[0][0]) if views else None,
        has_single_primary=has_single_primary,
    )


def _view(text: str) -> View | None:
    """A view's id is the group's birth and a counter: `17953277098554029:3`."""
    group, _, number = text.rpartition(":")
    return View(group, int(number)) if number.isdigit() else None

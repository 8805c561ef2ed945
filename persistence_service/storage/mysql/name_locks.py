"""Locks on names for the time of a transaction, as row locks of a small table.

A name that has no row anywhere can't be locked by reading it: InnoDB would lock the gap, which two may hold at once and then
wait for each other to fill, and which whoever comes later gets before who waits to fill it. So names are spread over a few rows
that are always there. Row locks are given in the order in which they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.schema import NAME_LOCK_ROWS, NAME_LOCKS


async def lock_names(connection: MysqlConnection, names: Iterable[str], *, exclusively: bool) -> None:
    """See `Transaction.lock`.

    Raises:
        StorageSetupError: a row is not there.
    """
    rows = sorted({crc32(name.encode("utf-8", "surrogatepass")) % NAME_LOCK_ROWS for name in names})
    if not rows:
        return
    listed = ", ".join(map(str, rows))
    # By the key: of so small a table a server would rather read, and lock, every row.
    statement = f"SELECT id FROM {NAME_LOCKS} FORCE INDEX (PRIMARY) WHERE id IN ({listed}) ORDER BY id "
    answer = await connection.run(statement + ("FOR UPDATE" if exclusively else "LOCK IN SHARE MODE"))
    if len(answer.rows) < len(rows):
        raise StorageSetupError(
            f"rows of the table {NAME_LOCKS} are missing: insert the ids from 0 to {NAME_LOCK_ROWS - 1} that it lacks"
        )

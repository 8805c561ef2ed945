"""What the tables take, as the server has last counted."""

from __future__ import annotations

from collections.abc import Container

from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.powers import CollectionSize, Sizes

# MySQL renews what it tells here once a day, or by ANALYZE TABLE; MariaDB at each question.
_SIZES = (
    "SELECT table_name, table_rows, COALESCE(data_length, 0) + COALESCE(index_length, 0), COALESCE(data_free, 0) "
    "FROM information_schema.tables WHERE table_schema = DATABASE()"
)


async def sizes_of(connection: MysqlConnection, collections: Container[str]) -> Sizes:
    """Of the whole database, and of each of `collections`. The log is the server's, and no part of it."""
    rows = (await connection.run(_SIZES)).rows
    free_bytes = sum(free for _, _, _, free in rows)
    return Sizes(
        total_bytes=sum(used for _, _, used, _ in rows) + free_bytes,
        free_bytes=free_bytes,
        collections={name: CollectionSize(count, used) for name, count, used, _ in rows if name in collections},
    )

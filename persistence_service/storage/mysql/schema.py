"""The tables in MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sqlalchemy import Column, MetaData, Table, text
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import DefaultClause

from persistence_service.storage.collections import ALL_COLLECTIONS, Collection
from persistence_service.storage.mysql.session import COLLATION
from persistence_service.storage.sql.schema_text import schema_text
from persistence_service.storage.sql.tables import Schema

ARRIVING_WINS = "arriving_wins"
"""A column of each table whose merge rule has parts, 0 in every stored row.

An upsert assigns from left to right, and what it has assigned is what it sees from then on. So it decides once, notes here
whether the arriving record wins, and sets 0 again at its end; nothing of that is ever written.
"""

NAME_LOCKS = "name_locks"
"""A table of `NAME_LOCK_ROWS` rows that are only there to be locked: see `name_locks`."""

NAME_LOCK_ROWS = 64

_DATABASE = "ai_terminal"
_HEADER = """\
-- The complete current schema for MySQL and MariaDB. Generated: see README.md beside this file.
--
-- Times are UTC. `digest` and `…_digest` are the 16 bytes that break ties of the merge rule, `game_info_time` and
-- `metadata_time` the event times that these two values won with. `arriving_wins` is where an upsert notes whether the
-- arriving record wins; it is 0 in every row. The collation compares texts byte by byte, and each of the two kinds of server
-- reads the comment that names its own.

"""


class MysqlSchema(Schema):
    """Tables of InnoDB that compare texts byte by byte and don't pad them, and store any Unicode text."""

    table_options: ClassVar[Mapping[str, Any]] = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": COLLATION,
        "mysql_row_format": "DYNAMIC",
    }

    def service_columns(self, collection: Collection[Any]) -> list[Column[Any]]:
        """See `ARRIVING_WINS`."""
        if not collection.rule.parts:
            return []
        return [Column(ARRIVING_WINS, mysql.TINYINT(), DefaultClause(text("0")), nullable=False)]

    def reference_name(self, collection: Collection[Any]) -> str | None:
        """A name of our own: one that the database makes up depends on what else it has."""
        return None if collection.parent is None else f"fk_{collection.name}_{collection.parent.field}"


def service_tables() -> MetaData:
    """Every table that the service reads and writes: those of the collections, and `NAME_LOCKS`."""
    metadata = MysqlSchema(ALL_COLLECTIONS).metadata
    _rows_to_lock(NAME_LOCKS, metadata)
    return metadata


def lock_table(metadata: MetaData) -> Table:
    """The table with the one row that whoever migrates holds."""
    return _rows_to_lock("migration_lock", metadata)


def _rows_to_lock(name: str, metadata: MetaData) -> Table:
    key = Column("id", mysql.TINYINT(), primary_key=True, autoincrement=False)
    return Table(name, metadata, key, **MysqlSchema.table_options)


def mysql_schema() -> str:
    """Statements that make, on a server without the database, what the migrations make."""
    metadata = service_tables()
    lock_table(metadata)
    rows = f"INSERT INTO {NAME_LOCKS} (id) VALUES {', '.join(f'({row})' for row in range(NAME_LOCK_ROWS))}"
    creation = f"CREATE DATABASE IF NOT EXISTS `{_DATABASE}` CHARACTER SET utf8mb4 COLLATE {COLLATION}"
    database = f"{creation};\n\nUSE `{_DATABASE}`;\n\n"
    return _HEADER + database + schema_text(metadata, mysql.dialect(), [rows])

"""The tables in MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sqlalchemy import Column
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import DefaultClause

from persistence_service.storage.collections import Collection
from persistence_service.storage.sql.tables import Schema

ARRIVING_WINS = "arriving_wins"
"""A column of each table whose merge rule has parts, 0 in every stored row.

An upsert assigns from left to right, and what it has assigned is what it sees from then on. So it decides once, notes here
whether the arriving record wins, and sets 0 again at its end; nothing of that is ever written.
"""


class MysqlSchema(Schema):
    """Tables of InnoDB that compare texts byte by byte and don't pad them, and store any Unicode text."""

    table_options: ClassVar[Mapping[str, Any]] = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        # Each server reads the comment that is meant for it.
        "mysql_collate": "/*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */",
        "mysql_row_format": "DYNAMIC",
    }

    def service_columns(self, collection: Collection[Any]) -> list[Column[Any]]:
        """See `ARRIVING_WINS`."""
        if not collection.rule.parts:
            return []
        return [Column(ARRIVING_WINS, mysql.TINYINT(), DefaultClause("0"), nullable=False)]

    def reference_name(self, collection: Collection[Any]) -> str | None:
        """A name of our own: one that the database makes up depends on what else it has."""
        return None if collection.parent is None else f"fk_{collection.name}_{collection.parent.field}"

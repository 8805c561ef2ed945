"""What migrations do, each step for each database.

On MySQL every step can be repeated: a statement that changes the schema commits by itself there, so a migration that was
interrupted begins again at its start. A step looks first, or does nothing where its work is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from persistence_service.storage.sql.creation import creation

LOOKING = "looking"
"""The option of a migration's context with a connection to look with: where SQL is only written down there is no other."""

TABLES = "tables"
"""The option of a migration's context with a list that notes the tables which are created, as they are created."""

_MYSQL_OPTIONS: Mapping[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    # Byte by byte and without padding. Each server reads the comment that is meant for it.
    "mysql_collate": "/*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */",
    "mysql_row_format": "DYNAMIC",
}


def create_table(
    name: str, *columns: sa.Column[Any], indexes: Mapping[str, Sequence[str]] | None = None, merging: bool = False
) -> None:
    """Create a table with its indexes; on MySQL, if it is `merging`, with the column in which an upsert notes who wins."""
    dialect = op.get_context().dialect
    behind = []
    if merging and dialect.name == "mysql":
        behind = [sa.Column("arriving_wins", mysql.TINYINT(), sa.DefaultClause(sa.text("0")), nullable=False)]
    table = sa.Table(name, sa.MetaData(), *columns, *behind, sqlite_strict=True, **_MYSQL_OPTIONS)
    for index, fields in (indexes or {}).items():
        sa.Index(index, *(table.c[field] for field in fields))
    _note(table)
    for statement in creation(table, dialect, if_missing=dialect.name == "mysql"):
        op.execute(statement)


def create_rows_to_lock(name: str, rows: int) -> None:
    """Create a table whose rows, numbered from 0, are only there to be locked; on MySQL alone."""
    dialect = op.get_context().dialect
    if dialect.name != "mysql":
        return
    key = sa.Column("id", mysql.TINYINT(), primary_key=True, autoincrement=False)
    table = sa.Table(name, sa.MetaData(), key, **_MYSQL_OPTIONS)
    _note(table)
    (statement,) = creation(table, dialect, if_missing=True)
    op.execute(statement)
    op.execute(f"INSERT IGNORE INTO {name} (id) VALUES {', '.join(f'({row})' for row in range(rows))}")


def reference(table: str, key: str, *, name: str) -> sa.ForeignKey:
    """A reference to `key` of `table`, with which the row goes; called `name` on MySQL."""
    target = sa.Table(table, sa.MetaData(), sa.Column(key, sa.Text))
    on_mysql = op.get_context().dialect.name == "mysql"
    return sa.ForeignKey(target.c[key], name=name if on_mysql else None, ondelete="CASCADE")


def replace_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Have the index `name`, which is there with other columns, be one of these."""
    if op.get_context().dialect.name != "mysql":
        op.drop_index(name, table)
        op.create_index(name, table, columns)
    elif _indexed(name, table) != list(columns):
        op.execute(f"ALTER TABLE {table} DROP INDEX {name}, ADD INDEX {name} ({', '.join(columns)})")


def version_table(dialect: sa.Dialect) -> sa.Table:
    """Where the version is kept: Alembic's own table, which says how it compares texts on MySQL."""
    options: Mapping[str, Any] = _MYSQL_OPTIONS if dialect.name == "mysql" else {}
    column = sa.Column("version_num", sa.String(32), nullable=False)
    key = sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc")
    return sa.Table("alembic_version", sa.MetaData(), column, key, **options)


def _note(table: sa.Table) -> None:
    noted: list[sa.Table] | None = op.get_context().opts.get(TABLES)
    if noted is not None:
        noted.append(table)


def _indexed(name: str, table: str) -> list[str]:
    """The columns of an index, none where it is not there (yet)."""
    question = sa.text(
        "SELECT column_name FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = :of AND index_name = :called ORDER BY seq_in_index"
    )
    connection: sa.Connection = op.get_context().opts[LOOKING]
    return [row[0] for row in connection.execute(question, {"of": table, "called": name})]

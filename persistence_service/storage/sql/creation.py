"""Statements that create a table with its indexes, as each database takes them."""

from __future__ import annotations

from sqlalchemy import Dialect, Table
from sqlalchemy.schema import CreateIndex, CreateTable


def creation(table: Table, dialect: Dialect, *, if_missing: bool = False) -> list[str]:
    """The statements, without their semicolons; `if_missing` makes that of the table do nothing where there is one.

    On MySQL it is a single one, since there every statement that changes the schema commits by itself: after a crash a table
    has all of its indexes, or is not there.
    """
    created = str(CreateTable(table, if_not_exists=if_missing).compile(dialect=dialect))
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    if dialect.name != "mysql":
        return [created, *(str(CreateIndex(index).compile(dialect=dialect)) for index in indexes)]
    quote = dialect.identifier_preparer.quote
    inline = [f"INDEX {index.name} ({', '.join(quote(column.name) for column in index.columns)})" for index in indexes]
    body, _, options = created.rpartition("\n)")
    return [", \n\t".join([body, *inline]) + "\n) " + options.strip()]

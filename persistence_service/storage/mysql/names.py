"""Whether the names of the tables that a migration makes are free: tables of others may have them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import MetaData, Table

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql import plain_design
from persistence_service.storage.mysql.migration_connection import MigrationConnection
from persistence_service.storage.mysql.schema import lock_table
from persistence_service.storage.mysql.shape import TOLD, Shape, told_shape, wanted_shapes
from persistence_service.storage.sql.migrate import schema_problem, tables_to_come

_ADOPTED = {table.name for table in plain_design.TABLES}


def check_names(connection: MigrationConnection) -> None:
    """See that what is there under the name of a table to come is that table, left by a migration that was interrupted.

    What is adopted has a look of its own.

    Raises:
        StorageSetupError: it is another's.
    """
    if not schema_problem(connection.sql):
        return
    to_come = [lock_table(MetaData()), *tables_to_come(connection.sql)]
    problems = [problem for table in to_come if table.name not in _ADOPTED and (problem := _problem(connection, table))]
    if problems:
        raise StorageSetupError(
            "the database has tables of others under names that the service needs; nothing was changed. Rename them, or give "
            f"the service a database of its own: {'; '.join(problems)}"
        )


def _problem(connection: MigrationConnection, table: Table) -> str:
    """What shows that the table of this name is another's; empty if nothing does, or it is not there."""
    named = {"table": table.name}
    of_table = "WHERE table_schema = DATABASE() AND table_name = :table"
    if connection.run(f"SELECT 1 FROM information_schema.views {of_table}", named):
        return f"{table.name} is a view"
    rows = connection.run(f"SELECT {TOLD} FROM information_schema.columns {of_table}", named)
    found = {name: told_shape(*told) for _, name, *told in rows}
    return "" if not found else _difference(table.name, found, wanted_shapes(table))


def _difference(name: str, found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
    for column in (*wanted, *found):
        if column not in found:
            return f"{name} has no column {column}"
        if column not in wanted:
            return f"{name} has a column {column}"
        if found[column] != wanted[column]:
            return f"{name}.{column} is {found[column]}"
    return ""

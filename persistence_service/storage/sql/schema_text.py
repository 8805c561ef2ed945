"""The complete current schema as SQL, for people to read and to load by hand."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Dialect, MetaData

from persistence_service.storage.sql.creation import creation
from persistence_service.storage.sql.migrate import first_stamp, newest_version
from persistence_service.storage.sql.migrations.steps import version_table


def schema_text(metadata: MetaData, dialect: Dialect, rows: Sequence[str] = ()) -> str:
    """Statements that make, on an empty database, what the migrations make, version stamp included.

    `rows` are the statements for what is in the tables from the beginning.
    """
    texts = [f"{_tidy(statement)};\n" for table in metadata.sorted_tables for statement in creation(table, dialect)]
    (stamp_table,) = creation(version_table(dialect), dialect)
    return "\n".join(
        [
            *texts,
            *(f"{statement};\n" for statement in rows),
            "-- The version of the schema, so that the service accepts a database made from this file.",
            f"{_tidy(stamp_table)};\n",
            f"{first_stamp(newest_version())};\n",
        ]
    )


def _tidy(statement: str) -> str:
    lines = [line.rstrip().replace("\t", "    ") for line in statement.strip().splitlines()]
    return "\n".join(line for line in lines if line).replace(")\n STRICT", ") STRICT")

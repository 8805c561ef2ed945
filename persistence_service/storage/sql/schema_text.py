"""The complete current schema as SQL, for people to read and to load by hand."""

from __future__ import annotations

from sqlalchemy import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from persistence_service.storage.sql.migrate import newest_version
from persistence_service.storage.sql.tables import Schema

_VERSION_STAMP = """\
-- The version of the schema, so that the service accepts a database made from this file.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

INSERT INTO alembic_version (version_num) VALUES ('{version}');
"""


def schema_text(schema: Schema, dialect: Dialect) -> str:
    """Statements that make, on an empty database, what the migrations make, version stamp included."""
    statements: list[str] = []
    for table in schema.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    texts = [f"{_tidy(statement)};\n" for statement in statements]
    return "\n".join([*texts, _VERSION_STAMP.format(version=newest_version())])


def _tidy(statement: str) -> str:
    lines = [line.rstrip().replace("\t", "    ") for line in statement.strip().splitlines()]
    return "\n".join(line for line in lines if line).replace(")\n STRICT", ") STRICT")

"""What `database/sqlite_schema.sql` holds."""

from __future__ import annotations

from sqlalchemy.dialects.sqlite import dialect

from persistence_service.storage.collections import ALL_COLLECTIONS
from persistence_service.storage.sql.schema_text import schema_text
from persistence_service.storage.sql.tables import Schema

_HEADER = """\
-- The complete current schema of the SQLite database. Generated: see README.md beside this file.
--
-- Times are texts `YYYY-MM-DD HH:MM:SS.ffffff` in UTC. `digest` and `…_digest` are the 16 bytes that break ties of the
-- merge rule, `game_info_time` and `metadata_time` the event times that these two values won with.

"""


def sqlite_schema() -> str:
    """Statements that make, in an empty file, what the migrations make."""
    return _HEADER + schema_text(Schema(ALL_COLLECTIONS).metadata, dialect())

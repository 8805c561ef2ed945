"""SQLAlchemy's words for MySQL and MariaDB, without a driver: only to write statements."""

from __future__ import annotations

from sqlalchemy.dialects.mysql.pymysql import dialect

DIALECT = dialect()


def quoted(name: str) -> str:
    """A table's or column's name as it stands in a statement."""
    return DIALECT.identifier_preparer.quote(name)

"""The kinds of columns that migrations make tables of, for each database.

They are fixed for ever, unlike those of the tables that the code uses today: what a version made must stay what it was. A
column that needs another kind gets one with another name here.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine


def text(width: int | None = None) -> TypeEngine[Any]:
    """A text; MySQL bounds it to `width` characters, or to 16 MiB."""
    return sa.Text().with_variant(mysql.MEDIUMTEXT() if width is None else mysql.VARCHAR(width), "mysql")


def time() -> TypeEngine[Any]:
    """A time in UTC with microseconds."""
    return sa.Text().with_variant(mysql.DATETIME(fsp=6), "mysql")


def integer() -> TypeEngine[Any]:
    """A whole number of 32 bits at least."""
    return sa.Integer().with_variant(mysql.INTEGER(), "mysql")


def large_integer() -> TypeEngine[Any]:
    """A whole number of 64 bits."""
    return sa.Integer().with_variant(mysql.BIGINT(), "mysql")


def real() -> TypeEngine[Any]:
    """A floating point number of 64 bits."""
    return sa.REAL().with_variant(mysql.DOUBLE(), "mysql")


def digest() -> TypeEngine[Any]:
    """A few bytes."""
    return sa.BLOB().with_variant(mysql.VARBINARY(32), "mysql")


def blob() -> TypeEngine[Any]:
    """Many bytes."""
    return sa.BLOB().with_variant(mysql.MEDIUMBLOB(), "mysql")

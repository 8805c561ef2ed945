"""What a column is, in words that are the same for the tables of the code and for what either kind of server says of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Table
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import DefaultClause

_DIALECT = mysql.dialect()
# The width that MariaDB shows, and older servers of MySQL, says nothing of the values.
_SHOWN_WIDTH = re.compile(r"^(tinyint|int|bigint)\(\d+\)")
_HARMLESS = re.compile(r"DEFAULT_GENERATED|INVISIBLE")

TOLD = "table_name, column_name, column_type, is_nullable, column_default, extra"
"""The columns of `information_schema.columns` from which there is a `Shape`: after two names what `told_shape` takes."""


class Shape(NamedTuple):
    """The type as the server names it; `default` is empty where there is none; `extra` is what else makes its values others."""

    type: str
    nullable: bool
    default: str
    extra: str

    def __str__(self) -> str:
        null = "" if self.nullable else "NOT NULL"
        default = f"DEFAULT {self.default}" if self.default else ""
        return " ".join(filter(None, (self.type.upper(), null, default, self.extra.upper())))

    def serves_as(self, wanted: Shape) -> bool:
        """Whether it takes the same values; a default does no harm where none is wanted."""
        return self == wanted or (not wanted.default and self._replace(default="") == wanted)


def told_shape(column_type: str, is_nullable: str, default: str | None, extra: str | None) -> Shape:
    """Of a column that there is."""
    shown = _SHOWN_WIDTH.sub(r"\1", str(column_type).lower())
    given = "" if default in (None, "NULL") else str(default)
    return Shape(shown, is_nullable == "YES", given, _HARMLESS.sub("", extra or "").strip())


def wanted_shapes(table: Table) -> Mapping[str, Shape]:
    """Of the columns of a table as the code has it."""
    return {
        column.name: Shape(
            column.type.compile(_DIALECT).lower().replace("integer", "int"),
            bool(column.nullable),
            str(column.server_default.arg) if isinstance(column.server_default, DefaultClause) else "",
            "",
        )
        for column in table.columns
    }

"""Records as rows of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import astuple
from sqlalchemy import Dialect, Table

from persistence_service.errors import DataRejected
from persistence_service.storage.collections import Collection

R = TypeVar("R", bound=msgspec.Struct)


class RowWriter(Generic[R]):
    """Gives the values that a driver takes for each column of a record's row."""

    def __init__(self, collection: Collection[R], table: Table, dialect: Dialect) -> None:
        self._conversions = []
        self._fields = collection.record.__struct_fields__
        for place, field in enumerate(self._fields):
            convert = table.c[field].type.dialect_impl(dialect).bind_processor(dialect)
            if convert is not None:
                self._conversions.append((place, convert))

    def values(self, record: R) -> Sequence[Any]:
        """The row of `record`.

        Raises:
            DataRejected: a value can't be written; the error names its column.
        """
        row = list(astuple(record))
        place = 0
        try:
            for place, convert in self._conversions:
                row[place] = convert(row[place])
        except DataRejected as exc:
            raise DataRejected(str(exc), column=self._fields[place]) from exc
        return row

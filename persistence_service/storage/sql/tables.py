"""The tables of the collections: a column for each field of the record, and the indexes that the API's queries need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

import msgspec
from sqlalchemy import Column, ForeignKey, Index, MetaData, Table

from persistence_service.errors import UnknownCollection
from persistence_service.storage.collections import Collection
from persistence_service.storage.sql.types import column_type

INDEXES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "translation_tasks": {
        # A session's tasks in position order, and those of one sheet.
        "ix_tasks_position": ("session_id", "sheet_name", "row_index", "column_name", "task_id"),
        # Progress, unfinished tasks, last activity; with what the statistics are made of, so that they read no rows. It
        # is written anew with every change of a row anyway, so the two columns cost a few bytes.
        "ix_tasks_status": ("session_id", "status", "updated_at", "duration_ms", "confidence"),
        "ix_tasks_batch": ("batch_id", "created_at", "task_id"),
        "ix_tasks_created": ("created_at", "task_id"),
        "ix_tasks_updated": ("updated_at", "task_id"),
    },
    "translation_sessions": {
        # The default order of the list. Its other orders sort the table, which is small.
        "ix_sessions_created": ("created_at", "session_id"),
    },
    "deleted_sessions": {
        # Deletions that were interrupted.
        "ix_deleted_removed": ("removed_at", "session_id"),
    },
    "dead_letters": {
        "ix_letters_created": ("created_at", "letter_id"),
        # Orphans' letters, when their session comes.
        "ix_letters_reason": ("reason", "session_id", "letter_id"),
    },
    "dead_letter_parts": {
        "ix_letter_parts": ("letter_id", "part_id"),
    },
}
"""Collection → index → columns. Every index costs each write, and none is a prefix of another."""


class Schema:
    """The tables of some collections, by collection. A database that needs more than the fields says so in a subclass."""

    table_options: ClassVar[Mapping[str, Any]] = {"sqlite_strict": True}

    def __init__(self, collections: Sequence[Collection[Any]]) -> None:
        self.metadata = MetaData()
        self.collections = {collection.name: collection for collection in collections}
        for collection in collections:
            self._add_table(collection)

    def table(self, collection: Collection[Any]) -> Table:
        """The table of `collection`.

        Raises:
            UnknownCollection: it has none here; the error lists those that have.
        """
        try:
            return self.metadata.tables[collection.name]
        except KeyError:
            raise UnknownCollection(collection.name, list(self.collections)) from None

    def children(self, collection: Collection[Any]) -> list[Collection[Any]]:
        """The collections whose parent is `collection`."""
        return [
            other
            for other in self.collections.values()
            if other.parent is not None and other.parent.collection.name == collection.name
        ]

    def service_columns(self, collection: Collection[Any]) -> list[Column[Any]]:  # noqa: ARG002  # for subclasses
        """Columns behind those of the record."""
        return []

    def reference_name(self, collection: Collection[Any]) -> str | None:  # noqa: ARG002  # for subclasses
        """What the foreign key to the collection's parent is called; None leaves it to the database."""
        return None

    def _add_table(self, collection: Collection[Any]) -> None:
        columns = [self._column(collection, field) for field in msgspec.structs.fields(collection.record)]
        columns += self.service_columns(collection)
        table = Table(collection.name, self.metadata, *columns, **self.table_options)
        for name, fields in INDEXES.get(collection.name, {}).items():
            Index(name, *(table.c[field] for field in fields))

    def _column(self, collection: Collection[Any], field: msgspec.structs.FieldInfo) -> Column[Any]:
        parent = collection.parent
        references = []
        if parent is not None and parent.field == field.name:
            target = f"{parent.collection.name}.{parent.collection.key}"
            references.append(ForeignKey(target, name=self.reference_name(collection), ondelete="CASCADE"))
        python_type, nullable = _plain_type(field.type)
        is_key = field.name == collection.key
        return Column(
            field.name,
            column_type(python_type, field.name, is_key=is_key or bool(references)),
            *references,
            primary_key=is_key,
            nullable=nullable,
        )


def _plain_type(annotation: Any) -> tuple[type, bool]:  # noqa: ANN401  # any annotation
    """The type of a field's values, and whether they may be None."""
    if get_origin(annotation) in (Union, UnionType):
        (plain,) = (each for each in get_args(annotation) if each is not type(None))
        return plain, True
    return annotation, False

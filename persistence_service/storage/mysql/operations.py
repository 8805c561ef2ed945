"""What changes a database, on a connection that is in a transaction: writes with their rejections, deletes with the children."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, TypeVar

import msgspec
import pymysql
from pymysql.constants import ER

from persistence_service.errors import DataRejected, PersistenceError, UnclassifiedStorageError
from persistence_service.storage.backend import Rejection, WriteResult
from persistence_service.storage.collections import Collection
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.errors import column_in, translated
from persistence_service.storage.mysql.literals import escape_for
from persistence_service.storage.mysql.queries import Queries
from persistence_service.storage.mysql.schema import ARRIVING_WINS
from persistence_service.storage.mysql.translate import MysqlTranslator, sql_text
from persistence_service.storage.mysql.upsert import Upsert
from persistence_service.storage.query import Condition, OneOf
from persistence_service.storage.sql.rejections import kept, rejections
from persistence_service.storage.sql.tables import Schema

R = TypeVar("R", bound=msgspec.Struct)

_NO_PARENT = {ER.NO_REFERENCED_ROW, ER.NO_REFERENCED_ROW_2}


class Operations:
    """Writes and deletes, each on a connection that it is given."""

    def __init__(self, schema: Schema, queries: Queries) -> None:
        self._schema = schema
        self._queries = queries
        self._translator = MysqlTranslator(schema)
        self._upserts = {name: Upsert(schema, collection) for name, collection in schema.collections.items()}

    async def write(self, connection: MysqlConnection, collection: Collection[R], records: Sequence[R]) -> WriteResult:
        """See `Transaction.write`.

        The usual write looks at no stored row: that a record would change a fixed field, or that its parent went meanwhile, the
        statement itself finds, which is then undone alone, and only then is it looked up which records those are.
        """
        table = self._schema.table(collection)
        parents = await self._parents(connection, collection, records)
        every_key = bool(collection.fixed) and ARRIVING_WINS not in table.c
        parents_locked = False
        while True:  # at most three times: each cause is looked into once
            rejected = await self._rejected(connection, collection, records, parents, every_key=every_key)
            remaining = kept(records, rejected)
            try:
                await self._upsert(connection, collection, remaining)
            except DataRejected as exc:
                if exc.number == ER.BAD_NULL_ERROR and exc.column is None and not every_key:
                    every_key = True
                elif exc.number in _NO_PARENT and collection.parent is not None and not parents_locked:
                    parents = await self._parents(connection, collection, records, "LOCK IN SHARE MODE")
                    parents_locked = True
                else:  # of a missing parent: it is none of ours, which can't go any more
                    raise
            else:
                return WriteResult(len(remaining), tuple(rejected))

    async def delete(self, connection: MysqlConnection, collection: Collection[Any], where: Sequence[Condition]) -> int:
        """See `Transaction.delete`."""
        escape = escape_for(connection)
        children = self._schema.children(collection)
        if children:
            # The conditions may be about the children, so the keys are read before any of these goes; and locked, so that
            # what is deleted is what was judged.
            statement = self._translator.keys(collection, where).with_for_update()
            chosen = [row[0] for row in (await connection.run(sql_text(statement, escape))).rows]
            if not chosen:
                return 0
            for child in children:
                if child.parent is not None:
                    await self.delete(connection, child, [OneOf(child.parent.field, chosen)])
            where = [OneOf(collection.key, chosen)]
        return (await connection.run(self._translator.deletion(collection, where, escape))).affected

    async def _upsert(self, connection: MysqlConnection, collection: Collection[R], records: Sequence[R]) -> None:
        """Write `records` in the order of their keys, so that two writers of the same rows wait for each other, and no more.

        Those of one key stay in their order.
        """
        statements = self._upserts[collection.name].statements(
            sorted(records, key=collection.key_of),
            escape_for(connection),
            max_packet_bytes=connection.facts.max_packet_bytes,
            row_alias=connection.facts.row_alias,
        )
        for statement in statements:
            try:
                answer = await connection.run(statement)
                if answer.warnings:
                    raise await _warning(connection)
            except DataRejected as exc:
                column = exc.column or column_in(exc, collection.fields)
                raise DataRejected(str(exc), number=exc.number, column=column) from exc

    async def _parents(
        self, connection: MysqlConnection, collection: Collection[R], records: Sequence[R], lock: str = ""
    ) -> set[str]:
        """The parents of `records` that are stored."""
        parent = collection.parent
        if parent is None:
            return set()
        named = {getattr(record, parent.field) for record in records}
        rows = await self._queries.by_keys(connection, parent.collection, named, (parent.collection.key,), lock)
        return {row[0] for row in rows}

    async def _rejected(
        self,
        connection: MysqlConnection,
        collection: Collection[R],
        records: Sequence[R],
        parents: Container[str],
        *,
        every_key: bool,
    ) -> list[Rejection]:
        """The records to leave out; those that change a fixed field are told only with `every_key`, or without a parent."""
        parent = collection.parent
        unknown = {
            collection.key_of(record)
            for record in records
            if every_key or (parent is not None and getattr(record, parent.field) not in parents)
        }
        if not unknown:
            return []
        fields = (collection.key, *collection.fixed)
        rows = (
            await self._queries.by_keys(connection, collection, unknown, fields, "FOR UPDATE")
            if collection.fixed
            else []
        )
        return rejections(collection, records, parents, {row[0]: tuple(row[1:]) for row in rows})


async def _warning(connection: MysqlConnection) -> PersistenceError:
    """What the server warned of, as an error: with it a value may be stored that is not the one written."""
    warnings = (await connection.run("SHOW WARNINGS")).rows
    if not warnings:
        return UnclassifiedStorageError("the database warned, and does not say of what: is max_error_count 0?")
    _, number, message = warnings[0]
    error = pymysql.err.DataError(number, message)
    known = translated(error)
    if not isinstance(known, DataRejected):  # it says nothing about the records
        known = UnclassifiedStorageError(f"the database warned with {number}", number=number)
    known.__cause__ = error
    return known

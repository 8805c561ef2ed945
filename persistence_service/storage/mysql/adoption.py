"""Takes over tables of the plain design with their rows: they become backups, and the service's own tables get the rows.

All of it can be interrupted at any point and goes on from there. What decides is what is there: tables without this service's
columns are to be set aside, and rows of tables that were set aside are to be copied, as long as the first version is not stamped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from persistence_service.errors import DataRejected, StorageSetupError
from persistence_service.storage.mysql.migration_connection import MigrationConnection
from persistence_service.storage.mysql.plain_design import SESSIONS, TABLES, TASKS, PlainTable
from persistence_service.storage.mysql.schema import ARRIVING_WINS

_log = structlog.get_logger(__name__)

_ROWS_OF_A_TRANSACTION = 2000


@dataclass(frozen=True, slots=True)
class _Column:
    """What the server says of a column; the last two are empty where it holds no text."""

    type: str
    charset: str
    collation: str

    def of_text(self, expression: str) -> str:
        """`expression`, compared as this column's texts are."""
        return f"CONVERT({expression} USING {self.charset}) COLLATE {self.collation}"


class Adoption:
    """The adoption on one database. `confirm` is called before each step, and raises if another may be at work."""

    VERSION = "0001"
    """The version of the schema whose tables the rows are copied to, and before whose stamp that is done."""

    def __init__(self, connection: MigrationConnection, confirm: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._confirm = confirm

    def set_aside(self) -> None:
        """Rename tables of the plain design, if there are any, after a look at each of their values.

        Raises:
            StorageSetupError: they can't be adopted; nothing was changed.
        """
        for statement in self.set_aside_plan():
            self._confirm()
            self._connection.run(statement)

    def set_aside_plan(self) -> list[str]:
        """The statements of `set_aside`, none if there is nothing to do.

        Raises:
            StorageSetupError: the tables can't be adopted.
        """
        if self._is_stamped():
            return []
        plain = [table for table in TABLES if self._is_plain(table)]
        self._check(plain)
        if not plain:
            return []
        # A name of a foreign key is taken for the whole database, and the backups need none.
        released = [
            f"ALTER TABLE {table.name} DROP FOREIGN KEY `{name}`"
            for table in plain
            for name in self._foreign_keys(table)
        ]
        renamed = ", ".join(f"{table.name} TO {table.backup}" for table in plain)
        return [*released, f"RENAME TABLE {renamed}"]

    def copy(self) -> None:
        """Copy the rows of what was set aside, a bounded number in each transaction; those that are there already stay.

        Raises:
            StorageSetupError: a row does not fit after all. What is mended in the backup is copied the next time.
        """
        for table in TABLES:
            columns = self._columns(table.backup)
            if not columns:
                continue
            for chunk, bounds in self._chunks(table):
                self._confirm()
                self._copy_chunk(table, chunk, bounds)
            self._check_complete(table)
            left = sorted(set(columns) - {column.name for column in table.columns})
            _log.warning("storage.adopted", table=table.name, backup=table.backup, columns_left_behind=left)

    def copy_plan(self) -> list[str]:
        """What `copy` does, with one statement a table."""
        return [
            self._insertion(table, "TRUE") for table in TABLES if self._is_plain(table) or self._columns(table.backup)
        ]

    # ------------------------------------------------------------------------------------------------------- checks

    def _is_stamped(self) -> bool:
        return bool(self._columns("alembic_version")) and bool(
            self._connection.run("SELECT version_num FROM alembic_version")
        )

    def _is_plain(self, table: PlainTable) -> bool:
        columns = self._columns(table.name)
        return bool(columns) and ARRIVING_WINS not in columns

    def _check(self, plain: Sequence[PlainTable]) -> None:
        problems = [problem for table in plain for problem in self._table_problems(table)]
        if plain == [TASKS]:
            problems.append(f"{TASKS.name} is there without {SESSIONS.name}")
        if not problems:  # only now is it known that the columns can be asked for
            problems = [problem for table in plain for problem in self._value_problems(table)]
            problems += self._orphan_problems() if TASKS in plain else []
        if problems:
            raise StorageSetupError(
                "the database has tables of these names that can't be adopted as they are; nothing was changed. Mend them, "
                f"or rename them and the service begins with empty ones: {'; '.join(problems)}"
            )

    def _table_problems(self, table: PlainTable) -> Iterator[str]:
        columns = self._columns(table.name)
        missing = [column.name for column in table.columns if column.name not in columns]
        if missing:
            yield f"{table.name} has no column {', '.join(missing)}"
        for column in table.columns:
            if column.name in columns and columns[column.name].type not in column.types:
                yield f"{table.name}.{column.name} is of type {columns[column.name].type}"
        if self._columns(table.backup):
            yield f"there is a table {table.backup} already"
        keys = self._unique_keys(table)
        if [table.key] not in keys:
            yield f"{table.name}.{table.key} is neither primary key nor unique"
        others = [", ".join(key) for key in keys if key != [table.key]]
        if others:
            yield f"{table.name} has another unique key ({'; '.join(others)})"
        if self._is_view(table):
            yield f"{table.name} is a view"
        for name in self._triggers(table):
            yield f"{table.name} has a trigger {name}"
        for name in self._referring(table):
            yield f"table {name} refers to {table.name}"

    def _value_problems(self, table: PlainTable) -> Iterator[str]:
        asked = [(column, *misfit) for column in table.columns for misfit in column.misfits().items()]
        sums = ", ".join(f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)" for _, _, condition in asked)
        (counts,) = self._connection.run(f"SELECT {sums} FROM {table.name} AS o")
        for (column, words, _), count in zip(asked, counts, strict=True):
            if count:
                yield f"{table.name}.{column.name} {words} in {count} row(s)"

    def _orphan_problems(self) -> Iterator[str]:
        ((count,),) = self._connection.run(
            f"SELECT COUNT(*) FROM {TASKS.name} AS o LEFT JOIN {SESSIONS.name} AS s ON {self._same_session()}"
            " WHERE s.session_id IS NULL"
        )
        if count:
            yield f"{TASKS.name} has {count} row(s) whose session is not in {SESSIONS.name}"

    def _check_complete(self, table: PlainTable) -> None:
        ((before,),) = self._connection.run(f"SELECT COUNT(*) FROM {table.backup}")
        ((after,),) = self._connection.run(f"SELECT COUNT(*) FROM {table.name}")
        if after < before:
            raise StorageSetupError(
                f"{before - after} row(s) of {table.backup} were added while it was set aside, and have no session; "
                "delete them or add their sessions there, and the service goes on"
            )

    # ------------------------------------------------------------------------------------------------------ copying

    def _chunks(self, table: PlainTable) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Conditions, with their parameters, that divide the rows in the order of their key, which is the old column's."""
        above, bounds = "TRUE", dict[str, object]()
        while True:
            found = self._connection.run(
                f"SELECT {table.key} FROM {table.backup} AS o WHERE {above}"
                f" ORDER BY {table.key} LIMIT 1 OFFSET {_ROWS_OF_A_TRANSACTION - 1}",
                bounds,
            )
            if not found:
                yield above, bounds
                return
            ((upper,),) = found
            yield f"{above} AND o.{table.key} <= :upper", bounds | {"upper": upper}
            above, bounds = f"o.{table.key} > :lower", {"lower": upper}

    def _copy_chunk(self, table: PlainTable, chunk: str, bounds: Mapping[str, object]) -> None:
        try:
            self._connection.run(self._insertion(table, chunk), bounds)
        except DataRejected as exc:
            raise StorageSetupError(
                f"a row of {table.backup} does not fit: {exc}; mend it there, and the service goes on",
                number=exc.number,
            ) from exc

    def _insertion(self, table: PlainTable, chunk: str) -> str:
        values = {column.name: column.value for column in table.columns} | dict(table.added)
        source = f"{table.backup} AS o"
        if table is TASKS:
            # The spelling of the session's own id: the old tables may have taken small letters for capitals.
            values["session_id"] = "s.session_id"
            source += f" JOIN {SESSIONS.backup} AS s ON {self._same_session()}"
        return (
            f"INSERT INTO {table.name} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {source}"
            f" WHERE {chunk} ON DUPLICATE KEY UPDATE digest = {table.name}.digest"
        )

    def _same_session(self) -> str:
        """That `o`, a task, belongs to `s`, as the old tables see it."""
        columns = self._columns(SESSIONS.backup) or self._columns(SESSIONS.name)
        return f"s.session_id = {columns['session_id'].of_text('o.session_id')}"

    # ------------------------------------------------------------------------------------------- what the server knows

    def _columns(self, table: str) -> dict[str, _Column]:
        """The columns of a table, none if it is not there."""
        rows = self._connection.run(
            "SELECT column_name, data_type, character_set_name, collation_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = :table",
            {"table": table},
        )
        return {name: _Column(kind.lower(), charset or "", collation or "") for name, kind, charset, collation in rows}

    def _unique_keys(self, table: PlainTable) -> list[list[str]]:
        """The columns of each unique key; one over the beginning of a text, or an expression, has `?` there."""
        rows = self._connection.run(
            "SELECT index_name, column_name, sub_part FROM information_schema.statistics"
            " WHERE table_schema = DATABASE() AND table_name = :table AND non_unique = 0 ORDER BY index_name, seq_in_index",
            {"table": table.name},
        )
        keys: dict[str, list[str]] = {}
        for index, column, part in rows:
            keys.setdefault(index, []).append(column if column and part is None else "?")
        return list(keys.values())

    def _foreign_keys(self, table: PlainTable) -> list[str]:
        rows = self._connection.run(
            "SELECT constraint_name FROM information_schema.referential_constraints"
            " WHERE constraint_schema = DATABASE() AND table_name = :table",
            {"table": table.name},
        )
        return [name for (name,) in rows]

    def _referring(self, table: PlainTable) -> list[str]:
        rows = self._connection.run(
            "SELECT table_name FROM information_schema.referential_constraints"
            " WHERE unique_constraint_schema = DATABASE() AND referenced_table_name = :table",
            {"table": table.name},
        )
        return sorted({name for (name,) in rows} - {table.name for table in TABLES})

    def _is_view(self, table: PlainTable) -> bool:
        question = "SELECT 1 FROM information_schema.views WHERE table_schema = DATABASE() AND table_name = :table"
        return bool(self._connection.run(question, {"table": table.name}))

    def _triggers(self, table: PlainTable) -> list[str]:
        rows = self._connection.run(
            "SELECT trigger_name FROM information_schema.triggers"
            " WHERE event_object_schema = DATABASE() AND event_object_table = :table",
            {"table": table.name},
        )
        return [name for (name,) in rows]

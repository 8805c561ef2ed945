"""Whether the tables are designed as the code has them: columns, indexes, references, and what others put on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from sqlalchemy import Column, ForeignKey, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateColumn

from persistence_service.storage.mysql.diagnosis.host import Host
from persistence_service.storage.mysql.schema import NAME_LOCK_ROWS, NAME_LOCKS, service_tables
from persistence_service.storage.mysql.shape import TOLD, told_shape, wanted_shapes
from persistence_service.storage.powers import Finding, Level

TABLES: Mapping[str, Table] = service_tables().tables
NAMES = ", ".join(f"'{name}'" for name in sorted(TABLES))

_DIALECT = mysql.dialect()
_PRIMARY = "PRIMARY"
# With these a row of another table is no obstacle to what it refers to.
_FOLLOWS = {"CASCADE", "SET NULL", "SET DEFAULT"}


class _Reference(NamedTuple):
    """A foreign key of one column, whatever it is called."""

    table: str
    column: str
    target: str
    key: str
    on_delete: str


class _Fault(NamedTuple):
    """What is not as it should be, and the statement that mends it."""

    what: str
    statement: str


async def design_findings(host: Host, present: Collection[str]) -> list[Finding]:
    """The findings on those tables that are there, of a schema that calls itself up to date."""
    tables = [table for name, table in TABLES.items() if name in present]
    return [
        _told("column types", await _column_faults(host, tables), "values may be refused, or changed without a word"),
        _told("indexes", await _index_faults(host, tables), "queries fail, or read whole tables"),
        *await _constraints(host, tables),
        *([await _rows_to_lock(host)] if NAME_LOCKS in present else []),
    ]


def _told(name: str, faults: Collection[_Fault], consequence: str) -> Finding:
    if not faults:
        return Finding(name, Level.OK, "as in database/schema.sql")
    detail = f"{'; '.join(fault.what for fault in faults)}: {consequence}"
    statements = " ".join(dict.fromkeys(f"{fault.statement};" for fault in faults))
    return Finding(name, Level.PROBLEM, detail, f"Have it as in database/schema.sql: {statements}")


async def _column_faults(host: Host, tables: Collection[Table]) -> list[_Fault]:
    statement = (
        f"SELECT {TOLD} FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN ({NAMES})"
    )
    found = {(table, column): told_shape(*told) for table, column, *told in await host.rows(statement)}
    faults = []
    for table in tables:
        for name, wanted in wanted_shapes(table).items():
            shape = found.get((table.name, name))
            if shape is None:
                faults.append(_Fault(f"{table.name} has no {name}", _altered(table, "ADD", table.c[name])))
            elif not shape.serves_as(wanted):
                what = f"{table.name}.{name} is {shape} and not {wanted}"
                faults.append(_Fault(what, _altered(table, "MODIFY", table.c[name])))
    return faults


def _altered(table: Table, how: str, column: Column[object]) -> str:
    return f"ALTER TABLE {table.name} {how} COLUMN {CreateColumn(column).compile(dialect=_DIALECT)}"


async def _index_faults(host: Host, tables: Collection[Table]) -> list[_Fault]:
    """Those that are missing, or are over something else; more than ours are nobody's fault."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    statement = (
        "SELECT table_name, index_name, column_name, sub_part FROM information_schema.statistics "
        f"WHERE table_schema = DATABASE() AND table_name IN ({NAMES}) ORDER BY table_name, index_name, seq_in_index"
    )
    for table_name, index, column, part in await host.rows(statement):
        found[table_name, index].append(str(column) if part is None else f"{column}({part})")
    faults = []
    for table in tables:
        for name, columns in _indexes(table).items():
            there = found.get((table.name, name))
            if there != columns:
                what = (
                    f"{table.name} has no index {name}"
                    if there is None
                    else f"{table.name}.{name} is ({', '.join(there)})"
                )
                faults.append(_Fault(what, _index_made(table, name, columns, replaces=there is not None)))
    return faults


def _indexes(table: Table) -> dict[str, list[str]]:
    named = {str(index.name): [column.name for column in index.columns] for index in table.indexes}
    return {_PRIMARY: [column.name for column in table.primary_key], **dict(sorted(named.items()))}


def _index_made(table: Table, name: str, columns: Collection[str], *, replaces: bool) -> str:
    kind = "PRIMARY KEY" if name == _PRIMARY else f"INDEX {name}"
    dropped = f"DROP {kind}, " if replaces else ""
    return f"ALTER TABLE {table.name} {dropped}ADD {kind} ({', '.join(columns)})"


async def _constraints(host: Host, tables: Collection[Table]) -> list[Finding]:
    """A server hides the constraints of a table from who may only read it, its primary key too."""
    rows = await host.rows(
        "SELECT table_name, constraint_name, constraint_type FROM information_schema.table_constraints "
        f"WHERE table_schema = DATABASE() AND table_name IN ({NAMES})"
    )
    seen = {str(table) for table, _, _ in rows}
    references = [table for table in tables if table.name in seen]
    checks = sorted(f"{name} on {table}" for table, name, kind in rows if kind == "CHECK")
    return [_references(await _references_found(host), references), _checks(checks)]


async def _references_found(host: Host) -> dict[_Reference, str]:
    """Those of our tables, and those to them, each with its name."""
    rows = await host.rows(
        "SELECT r.table_name, k.column_name, r.referenced_table_name, k.referenced_column_name, r.delete_rule, "
        "r.constraint_schema = DATABASE(), r.constraint_name, r.constraint_schema "
        "FROM information_schema.referential_constraints AS r JOIN information_schema.key_column_usage AS k "
        "ON k.constraint_schema = r.constraint_schema AND k.constraint_name = r.constraint_name "
        "AND k.table_name = r.table_name "
        f"WHERE (r.constraint_schema = DATABASE() AND r.table_name IN ({NAMES})) "
        f"OR (r.unique_constraint_schema = DATABASE() AND r.referenced_table_name IN ({NAMES}))"
    )
    return {
        _Reference(table if is_here else f"{schema}.{table}", *told): str(name)
        for table, *told, is_here, name, schema in rows
    }


def _references(found: Mapping[_Reference, str], tables: Collection[Table]) -> Finding:
    wanted = {_reference(key): key for table in TABLES.values() for key in table.foreign_keys}
    looked_at = {table.name for table in tables}
    faults = [
        _missing(reference, key)
        for reference, key in wanted.items()
        if reference not in found and reference.table in looked_at
    ]
    faults += [
        _Fault(*fault)
        for reference, name in found.items()
        if reference not in wanted
        for fault in _in_the_way(reference, name)
    ]
    return _told("foreign keys", faults, "tasks without a session are stored, or writes and deletions refused")


def _reference(key: ForeignKey) -> _Reference:
    return _Reference(key.parent.table.name, key.parent.name, key.column.table.name, key.column.name, str(key.ondelete))


def _missing(reference: _Reference, key: ForeignKey) -> _Fault:
    table, column, target, target_key, on_delete = reference
    what = f"{table}.{column} does not refer to {target}.{target_key} (ON DELETE {on_delete})"
    constraint = (
        f"CONSTRAINT {key.name} FOREIGN KEY ({column}) REFERENCES {target} ({target_key}) ON DELETE {on_delete}"
    )
    return _Fault(what, f"ALTER TABLE {table} ADD {constraint}")


def _in_the_way(reference: _Reference, name: str) -> Iterator[_Fault]:
    """A foreign key that is not ours, unless rows of it go along with what they refer to."""
    if reference.table in TABLES or reference.on_delete not in _FOLLOWS:
        what = f"{name} of {reference.table} refers to {reference.target}"
        yield _Fault(what, f"ALTER TABLE {reference.table} DROP FOREIGN KEY {name}")


def _checks(names: Collection[str]) -> Finding:
    if not names:
        return Finding("checks", Level.OK, "none that the account may see")
    return Finding(
        "checks",
        Level.WARNING,
        f"{', '.join(names)}: the database refuses records that the service has accepted",
        "Drop them if they are not meant to be there: ALTER TABLE … DROP CONSTRAINT …;",
    )


async def _rows_to_lock(host: Host) -> Finding:
    rows = {int(row) for (row,) in await host.rows(f"SELECT id FROM {NAME_LOCKS}")}
    missing = sorted(set(range(NAME_LOCK_ROWS)) - rows)
    if not missing:
        return Finding("rows to lock", Level.OK, f"the {NAME_LOCK_ROWS} of {NAME_LOCKS}")
    return Finding(
        "rows to lock",
        Level.PROBLEM,
        f"{NAME_LOCKS} lacks {len(missing)} of its {NAME_LOCK_ROWS} rows: writes and deletions of sessions fail",
        f"INSERT IGNORE INTO {NAME_LOCKS} (id) VALUES {', '.join(f'({row})' for row in missing)};",
    )

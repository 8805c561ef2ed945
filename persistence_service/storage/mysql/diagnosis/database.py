"""The database itself: its schema's version, and tables that somebody may have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from persistence_service.storage.mysql.diagnosis.design import NAMES, TABLES, design_findings
from persistence_service.storage.mysql.diagnosis.host import Host
from persistence_service.storage.mysql.health import schema_versions
from persistence_service.storage.powers import Finding, Level
from persistence_service.storage.sql.schema_finding import schema_finding

_COLLATIONS = frozenset({"utf8mb4_0900_bin", "utf8mb4_nopad_bin"})


async def database_findings(host: Host) -> list[Finding]:
    """The schema's version; and of the tables that there are, whether they are still what the migrations made."""
    version = await _version(host)
    tables = await host.rows(_about("table_name, table_type, engine", "tables"))
    is_complete = version.level is Level.OK
    if not tables and not is_complete:
        return [version, Finding("tables", Level.NOT_CHECKED, "there are none yet")]
    columns = await host.rows(
        _about("table_name, column_name, collation_name, is_nullable, column_default, extra", "columns")
    )
    indexes = await host.rows(
        _about("table_name, index_name", "statistics", "AND non_unique = 0 AND index_name <> 'PRIMARY'")
    )
    triggers = await host.rows(
        "SELECT trigger_name, event_object_table FROM information_schema.triggers "
        f"WHERE event_object_schema = DATABASE() AND event_object_table IN ({NAMES})"
    )
    design = await design_findings(host, [str(table) for table, _, _ in tables]) if is_complete else []
    return [
        version,
        _tables(tables, is_complete=is_complete),
        *design,
        _collations(columns),
        _foreign_columns(columns),
        _unique_keys(indexes),
        _triggers(triggers),
    ]


def _about(what: str, view: str, more: str = "") -> str:
    """What `information_schema` says of our tables; `what` is named in lower case, whatever case the server has it in."""
    return (
        f"SELECT DISTINCT {what} FROM information_schema.{view} "
        f"WHERE table_schema = DATABASE() AND table_name IN ({NAMES}) {more}"
    )


async def _version(host: Host) -> Finding:
    assert host.connection is not None  # noqa: S101  # nothing is asked of hosts that were not reached
    return schema_finding(await schema_versions(host.connection))


def _tables(tables: Sequence[tuple[Any, ...]], *, is_complete: bool) -> Finding:
    """Whether they are tables, and all that there should be of a schema that `is_complete`, as it says itself."""
    views = sorted(str(name) for name, kind, _ in tables if "VIEW" in kind)
    if views:
        return Finding(
            "tables",
            Level.PROBLEM,
            f"a view in place of a table: {', '.join(views)}",
            "Drop it or rename it, and make the table with its statement in database/schema.sql.",
        )
    wrong = sorted(f"{name} ({engine})" for name, _, engine in tables if engine != "InnoDB")
    if wrong:
        return Finding(
            "tables",
            Level.PROBLEM,
            f"not InnoDB, so without transactions: {', '.join(wrong)}",
            "ALTER TABLE … ENGINE=InnoDB;",
        )
    missing = sorted(TABLES.keys() - {name for name, _, _ in tables})
    if missing and is_complete:
        return Finding(
            "tables",
            Level.PROBLEM,
            f"missing, though the schema says that it is complete: {', '.join(missing)}",
            "Restore them from a backup, or make them empty with their statements in database/schema.sql.",
        )
    return Finding("tables", Level.OK, f"{len(tables)} tables of InnoDB")


def _collations(columns: Sequence[tuple[Any, ...]]) -> Finding:
    wrong: dict[str, set[str]] = defaultdict(set)
    for table, column, collation, *_ in columns:
        if column in TABLES[table].columns and collation is not None and collation not in _COLLATIONS:
            wrong[table].add(collation)
    if not wrong:
        return Finding("collation", Level.OK, "texts are compared byte by byte")
    found = ", ".join(f"{table} ({', '.join(sorted(collations))})" for table, collations in sorted(wrong.items()))
    return Finding(
        "collation",
        Level.PROBLEM,
        f"ids that differ in case, accents or blanks at the end may be taken for one another: {found}",
        "ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin; (on MariaDB utf8mb4_nopad_bin)",
    )


def _foreign_columns(columns: Sequence[tuple[Any, ...]]) -> Finding:
    """Columns that are not ours and demand a value, which nobody gives them."""
    wrong = [
        f"{table}.{column}"
        for table, column, _, nullable, default, extra in columns
        if column not in TABLES[table].columns and nullable == "NO" and default is None and not extra
    ]
    if not wrong:
        return Finding("columns", Level.OK, "none that the service does not know demands a value")
    return Finding(
        "columns",
        Level.PROBLEM,
        f"the service knows nothing of {', '.join(wrong)}, which must have a value: every write is refused",
        "Give the column a default, or let it be NULL.",
    )


def _unique_keys(indexes: Sequence[tuple[Any, ...]]) -> Finding:
    if not indexes:
        return Finding("unique keys", Level.OK, "one in each table: its primary key")
    found = ", ".join(f"{table}.{index}" for table, index in sorted(indexes))
    return Finding(
        "unique keys",
        Level.PROBLEM,
        f"beside the primary key there is {found}: an upsert could change another row than its own",
        "Make it an index that is not unique, or drop it.",
    )


def _triggers(triggers: Sequence[tuple[Any, ...]]) -> Finding:
    if not triggers:
        return Finding("triggers", Level.OK, "none that the account may see")
    found = ", ".join(f"{name} on {table}" for name, table in sorted(triggers))
    return Finding(
        "triggers",
        Level.WARNING,
        f"{found}: they run with every write, and their errors refuse records",
        "Drop them if they are not meant to be there.",
    )

"""What `persistence-service check` finds in tables that somebody has changed, and that its remedies mend them."""

from __future__ import annotations

import pytest

from persistence_service.storage.mysql.session import COLLATION
from persistence_service.storage.powers import Level
from tests.integration.mysql.test_check import database, found, levels
from tests.servers.server import Server

__all__ = ["database"]

WARNING, PROBLEM, NOT_CHECKED = Level.WARNING, Level.PROBLEM, Level.NOT_CHECKED

CHANGED: dict[str, tuple[str, str, Level]] = {
    "a later schema": ("schema", "UPDATE alembic_version SET version_num = '9999'", PROBLEM),
    "an earlier schema": ("schema", "UPDATE alembic_version SET version_num = '0001'", WARNING),
    "another program's schema": ("schema", "UPDATE alembic_version SET version_num = 'a1b2c3d4e5f6'", PROBLEM),
    "two schemas": ("schema", "INSERT INTO alembic_version VALUES ('0001')", PROBLEM),
    "a missing table": ("tables", "DROP TABLE dead_letter_parts", PROBLEM),
    "missing rows": ("rows to lock", "DELETE FROM name_locks WHERE id > 60", PROBLEM),
    "another engine": ("tables", "ALTER TABLE deleted_sessions ENGINE=MyISAM", PROBLEM),
    "another collation": (
        "collation",
        "ALTER TABLE deleted_sessions CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        PROBLEM,
    ),
    "another collation of a column": (
        "collation",
        "ALTER TABLE dead_letters MODIFY record_key VARCHAR(255) COLLATE utf8mb4_general_ci NOT NULL",
        PROBLEM,
    ),
    "a column that demands a value": ("columns", "ALTER TABLE dead_letters ADD COLUMN extra INT NOT NULL", PROBLEM),
    "a second unique key": ("unique keys", "CREATE UNIQUE INDEX one ON dead_letters (session_id)", PROBLEM),
    "a trigger": ("triggers", "CREATE TRIGGER t BEFORE INSERT ON dead_letters FOR EACH ROW SET @x = 1", WARNING),
    "a check": ("checks", "ALTER TABLE dead_letters ADD CONSTRAINT few CHECK (parts < 3)", WARNING),
}


@pytest.mark.parametrize("change", CHANGED)
async def test_what_somebody_changed_is_told(database_server: Server, database: str, change: str) -> None:
    name, statement, level = CHANGED[change]
    database_server.sql(statement, database)

    assert levels(await found(database_server.options(database))) == {name: level}


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE dead_letters ADD COLUMN extra INT NOT NULL DEFAULT 1",
        "ALTER TABLE dead_letters ADD COLUMN extra INT",
        "ALTER TABLE dead_letters ADD COLUMN extra INT AS (1) STORED",
        "ALTER TABLE dead_letters ALTER COLUMN error_column SET DEFAULT 'none'",
        "ALTER TABLE dead_letters ALTER COLUMN parts SET DEFAULT 1",
        "CREATE INDEX more ON dead_letters (session_id)",
        (
            "CREATE TABLE of_others (id VARCHAR(36) COLLATE {} PRIMARY KEY,"
            " FOREIGN KEY (id) REFERENCES translation_sessions (session_id) ON DELETE CASCADE)"
        ),
        "CREATE TABLE of_others (a INT UNIQUE) ENGINE=MyISAM",
    ],
)
async def test_what_somebody_added_and_does_no_harm_is_not(
    database_server: Server, database: str, statement: str
) -> None:
    database_server.sql(statement.format(COLLATION), database)

    assert levels(await found(database_server.options(database))) == {}


async def test_an_empty_database_is_told_to_be_migrated(database_server: Server) -> None:
    findings = await found(database_server.options(database_server.new_database()))

    assert levels(findings) == {"schema": WARNING, "tables": NOT_CHECKED}


BROKEN: dict[str, tuple[str, list[str]]] = {
    "a dropped column": ("column types", ["ALTER TABLE dead_letters DROP COLUMN error_column"]),
    "a rounding time": ("column types", ["ALTER TABLE dead_letters MODIFY event_time DATETIME NOT NULL"]),
    "a shorter text": ("column types", ["ALTER TABLE translation_tasks MODIFY sheet_name VARCHAR(50) NOT NULL"]),
    "another type": ("column types", ["ALTER TABLE translation_tasks MODIFY confidence FLOAT"]),
    "a number without sign": ("column types", ["ALTER TABLE dead_letters MODIFY error_number BIGINT UNSIGNED"]),
    "a column that may not be NULL": (
        "column types",
        ["ALTER TABLE translation_tasks MODIFY duration_ms BIGINT NOT NULL"],
    ),
    "a column that may be NULL": ("column types", ["ALTER TABLE dead_letters MODIFY arriving_wins TINYINT DEFAULT 0"]),
    "a column without its default": (
        "column types",
        ["ALTER TABLE dead_letters ALTER COLUMN arriving_wins DROP DEFAULT"],
    ),
    "a column that changes by itself": (
        "column types",
        ["ALTER TABLE dead_letters MODIFY event_time DATETIME(6) NOT NULL ON UPDATE CURRENT_TIMESTAMP(6)"],
    ),
    "a dropped index": ("indexes", ["ALTER TABLE translation_tasks DROP INDEX ix_tasks_updated"]),
    "an index over less": (
        "indexes",
        ["ALTER TABLE translation_tasks DROP INDEX ix_tasks_batch, ADD INDEX ix_tasks_batch (batch_id, created_at)"],
    ),
    "an index over beginnings": (
        "indexes",
        [
            "ALTER TABLE dead_letters DROP INDEX ix_letters_reason",
            "CREATE INDEX ix_letters_reason ON dead_letters (reason(5), session_id, letter_id)",
        ],
    ),
    "a dropped primary key": ("indexes", ["ALTER TABLE settled_dead_letters DROP PRIMARY KEY"]),
    "a dropped foreign key": (
        "foreign keys",
        ["ALTER TABLE translation_tasks DROP FOREIGN KEY fk_translation_tasks_session_id"],
    ),
    "a foreign key that keeps sessions": (
        "foreign keys",
        [
            (
                "CREATE TABLE of_others (id VARCHAR(36) COLLATE {} PRIMARY KEY,"
                " CONSTRAINT keeping FOREIGN KEY (id) REFERENCES translation_sessions (session_id))"
            )
        ],
    ),
    "a foreign key to another table": (
        "foreign keys",
        [
            "CREATE TABLE providers (id VARCHAR(50) COLLATE {} PRIMARY KEY)",
            "ALTER TABLE translation_sessions ADD CONSTRAINT known FOREIGN KEY (llm_provider) REFERENCES providers (id)",
        ],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_somebody_broke_is_told_and_the_remedy_mends_it(
    database_server: Server, database: str, what: str
) -> None:
    name, statements = BROKEN[what]
    for statement in statements:
        database_server.sql(statement.format(COLLATION), database)
    findings = await found(database_server.options(database))
    assert levels(findings) == {name: PROBLEM}

    for statement in findings[name].remedy.partition("schema.sql: ")[2].rstrip(";").split("; "):
        database_server.sql(statement, database)
    assert levels(await found(database_server.options(database))) == {}


async def test_a_view_in_place_of_a_table_is_called_so(database_server: Server, database: str) -> None:
    database_server.sql("ALTER TABLE settled_dead_letters RENAME TO elsewhere", database)
    database_server.sql("CREATE VIEW settled_dead_letters AS SELECT * FROM elsewhere", database)
    findings = await found(database_server.options(database))

    assert (findings["tables"].level, findings["tables"].detail[:4]) == (PROBLEM, "a vi")


async def test_a_schema_without_any_table_is_a_problem_and_not_to_be_migrated(
    database_server: Server, database: str
) -> None:
    """The schema says that it is up to date, and so does `migrate`."""
    made = [row[0] for row in database_server.sql("SHOW TABLES", database)]
    with database_server.connected(database) as run:
        run("SET foreign_key_checks = 0")
        for table in made:
            if table != "alembic_version":
                run(f"DROP TABLE {table}")
    findings = await found(database_server.options(database))

    assert levels(findings) == {"tables": PROBLEM}
    assert "database/schema.sql" in findings["tables"].remedy

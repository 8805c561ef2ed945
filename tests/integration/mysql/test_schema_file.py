"""`database/schema.sql` says what the migrations make, and what the code's tables are."""

import re
from pathlib import Path

import pytest

from persistence_service.storage.mysql.migration import plan
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.mysql.schema import mysql_schema
from tests.integration.mysql.migrating import load, migrated, options, tables
from tests.servers.server import Server

__all__ = ["options"]

FILE = Path(__file__).parents[3] / "database" / "schema.sql"


@pytest.fixture
def loaded(database_server: Server) -> str:
    """A database made from the file by the server's own client, under another name than the file's."""
    name = database_server.new_database()
    database_server.drop(name)  # the file makes it
    text = re.sub("`ai_terminal`", f"`{name}`", FILE.read_text())
    load(database_server, text)
    return name


def test_the_schema_file_is_what_the_code_generates() -> None:
    assert FILE.read_text() == mysql_schema(), "write it anew: see database/README.md"


async def test_the_schema_file_makes_what_the_migrations_make(
    database_server: Server, options: MysqlOptions, loaded: str
) -> None:
    await migrated(options)
    assert tables(database_server, loaded) == tables(database_server, options.database)


async def test_a_database_made_from_the_schema_file_needs_no_migration(database_server: Server, loaded: str) -> None:
    before = tables(database_server, loaded)
    by_hand = database_server.options(loaded)
    assert await plan(by_hand, by_hand.addresses[0]) == ""
    await migrated(by_hand)
    assert tables(database_server, loaded) == before


def test_the_database_compares_texts_byte_by_byte(database_server: Server, loaded: str) -> None:
    question = f"SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = '{loaded}'"
    assert database_server.sql(question)[0][0] in ("utf8mb4_0900_bin", "utf8mb4_nopad_bin")
    answers = database_server.sql("SELECT 'a' = 'a ' COLLATE " + database_server.sql(question)[0][0])
    assert answers == [(0,)]

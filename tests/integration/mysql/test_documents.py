"""The SQL of docs/mysql.md does on both servers what is written beside it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from persistence_service.cli.app import app
from persistence_service.errors import StorageSetupError
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.query import Equals
from persistence_service.testing.samples import session_record, task_record
from tests.servers.server import Server

DOCUMENT = (Path(__file__).parents[3] / "docs" / "mysql.md").read_text(encoding="utf-8")
PASSWORDS = {"persistence_migrate": "change me: first", "persistence": "change me: second"}


def statements(name: str) -> list[str]:
    """Those of the block that is marked so."""
    match = re.search(rf"<!-- sql: {name} -->\n *```sql\n(.*?)```", DOCUMENT, re.DOTALL)
    assert match is not None
    return [statement.strip() for statement in match[1].split(";") if statement.strip()]


@dataclass
class SetUp:
    """The document's database and accounts, under names of the test's own."""

    server: Server
    database: str

    def translated(self, statement: str) -> str:
        names = {"ai_terminal": self.database, **{f"'{name}'@": f"'{self.account(name)}'@" for name in PASSWORDS}}
        for name, own in names.items():
            statement = statement.replace(name, own)
        return statement

    def account(self, name: str) -> str:
        return f"{self.database[-8:]}{name[11:]}"

    def run(self, name: str) -> None:
        for statement in statements(name):
            self.server.sql(self.translated(statement))

    def command(self, name: str, *arguments: str, account: str) -> Result:
        settings = {
            key: value for key, value in self.server.settings(self.database).items() if key != "database.password"
        }
        settings |= {
            "database.user": self.account(account),
            "database.password_file": self._password_file(account),
            "journal.min_free": 0,
        }
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return CliRunner().invoke(app, [name, *arguments, *options])

    def _password_file(self, account: str) -> Path:
        path = Path(f"{account}_password").absolute()
        path.write_text(PASSWORDS[account])
        return path

    async def connection(self, account: str) -> MysqlConnection:
        options = self.server.options(self.database, user=self.account(account), password=PASSWORDS[account])
        return await MysqlConnection.open(options, options.addresses[0])


@pytest.fixture
def set_up(database_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """Made by the document's first block."""
    monkeypatch.chdir(tmp_path)
    name = database_server.new_database()
    database_server.sql(f"DROP DATABASE {name}")
    made = SetUp(database_server, name)
    made.run("accounts")
    yield made
    for account in PASSWORDS:
        database_server.sql(f"DROP USER '{made.account(account)}'@'%'")
    database_server.drop(name)


def test_the_first_account_migrates_and_the_second_runs_without_a_finding(set_up: SetUp) -> None:
    planned = set_up.command("migrate", "--dry-run", account="persistence_migrate")
    migrated = set_up.command("migrate", account="persistence_migrate")
    checked = set_up.command("check", "--json", account="persistence")

    assert planned.stdout
    assert migrated.stdout.startswith("mysql: the schema was migrated from nothing")
    assert checked.exit_code == 0
    of_server = [each for each in json.loads(checked.stdout)["findings"] if each["part"] == "mysql"]
    assert [each for each in of_server if each["level"] != "ok"] == []


def test_the_second_account_is_refused_when_it_migrates(set_up: SetUp) -> None:
    assert isinstance(set_up.command("migrate", account="persistence").exception, StorageSetupError)


async def test_the_second_account_suffices_for_everything_the_service_does(set_up: SetUp) -> None:
    await asyncio.to_thread(set_up.command, "migrate", account="persistence_migrate")
    options = set_up.server.options(
        set_up.database, user=set_up.account("persistence"), password=PASSWORDS["persistence"]
    )
    backend = MysqlBackend(options)
    await backend.open()
    await backend.migrate()
    await backend.write(SESSIONS, [session_record("s")])
    await backend.write(TASKS, [task_record("t", "s")])
    await backend.write(TASKS, [task_record("t", "s", retry_count=1)])
    async with backend.transaction() as transaction:
        assert len(await transaction.read(SESSIONS, ["s"])) == 1
    assert (await backend.health_check()).healthy
    assert (await backend.sizes()).total_bytes > 0
    assert await backend.delete(SESSIONS, (Equals("session_id", "s"),)) == 1
    assert await backend.count(TASKS) == 0
    await backend.close()


async def test_neither_account_may_do_anything_elsewhere(set_up: SetUp) -> None:
    for account in PASSWORDS:
        connection = await set_up.connection(account)
        with pytest.raises(StorageSetupError):
            await connection.run("SELECT 1 FROM mysql.user")
        await connection.close()


async def test_the_grants_for_a_group_let_both_accounts_see_its_members(set_up: SetUp) -> None:
    set_up.run("group")
    view = "replication_group_members" if set_up.server.kind == "mysql" else "threads"  # MariaDB has no such groups
    for account in PASSWORDS:
        connection = await set_up.connection(account)
        await connection.run(f"SELECT 1 FROM performance_schema.{view}")
        await connection.close()


async def test_queries_on_json_find_what_is_there(set_up: SetUp) -> None:
    await asyncio.to_thread(set_up.command, "migrate", account="persistence_migrate")
    backend = MysqlBackend(set_up.server.options(set_up.database))
    await backend.open()
    red = session_with("red", {"team": "red", "model": "large"})
    await backend.write(SESSIONS, [red, session_with("blue", {"team": "blue"}), session_with("none", None)])
    await backend.close()
    answers: list[Sequence[Any]] = [set_up.server.sql(query, set_up.database) for query in statements("queries")]

    assert answers == [[("red", "large")], [], []]


def session_with(session_id: str, metadata: dict[str, str] | None) -> Any:  # noqa: ANN401  # a session
    return session_record(session_id, metadata=None if metadata is None else json.dumps(metadata))

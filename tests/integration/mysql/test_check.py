"""What `persistence-service check` finds on real servers: each finding, provoked."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from persistence_service.cli.app import app
from persistence_service.settings import TlsMode
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.diagnosis import diagnose
from persistence_service.storage.mysql.diagnosis.host import reach
from persistence_service.storage.mysql.diagnosis.server import server_findings
from persistence_service.storage.mysql.options import MysqlOptions, TlsOptions
from persistence_service.storage.powers import Finding, Level
from tests.servers.server import Server

OK, WARNING, PROBLEM, NOT_CHECKED = Level.OK, Level.WARNING, Level.PROBLEM, Level.NOT_CHECKED


async def found(options: MysqlOptions) -> dict[str, Finding]:
    """By name; of those with the same name the last."""
    return {finding.name: finding for finding in await diagnose(options)}


def levels(findings: dict[str, Finding]) -> dict[str, Level]:
    """Of all that are not ok."""
    assert all(finding.remedy for finding in findings.values() if finding.level in (WARNING, PROBLEM))
    return {name: finding.level for name, finding in findings.items() if finding.level is not OK}


async def migrate(options: MysqlOptions) -> None:
    backend = MysqlBackend(options)
    await backend.open()
    await backend.migrate()
    await backend.close()


@pytest.fixture
async def database(database_server: Server) -> AsyncIterator[str]:
    """One that is migrated."""
    name = database_server.new_database()
    await migrate(database_server.options(name))
    yield name
    database_server.drop(name)


# ---------------------------------------------------------------------------------------------------------- all is well


async def test_a_migrated_database_on_a_plain_server_is_well(database_server: Server, database: str) -> None:
    findings = await found(database_server.options(database))

    assert levels(findings) == {}
    assert {"reachable", "login", "tls", "version", "clock", "packet", "durability", "connections", "session"} < set(
        findings
    )
    assert {"writable", "privileges", "privileges to migrate", "schema", "tables", "collation", "triggers"} < set(
        findings
    )


def run_check(
    server: Server, database: str, directory: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, Any]:
    """Exit code and document."""
    monkeypatch.chdir(directory)
    given = [f"{key}={value}" for key, value in server.settings(database).items()]
    settings = [*given, "journal.min_free=0", "journal.max_bytes=64MiB", "journal.segment_bytes=1MiB", *arguments]
    options = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["check", "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def test_the_command_ends_with_0_and_shows_the_server(
    database_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, document = run_check(database_server, database_server.new_database(), tmp_path, monkeypatch)
    of_server = {finding["name"]: finding for finding in document["findings"] if finding["part"] == "mysql"}

    assert (code, document["level"]) == (0, "warning")
    assert of_server["schema"]["level"] == "warning"
    assert ("MariaDB" in of_server["version"]["detail"]) == (database_server.kind == "mariadb")


def test_the_command_ends_with_1_and_never_shows_the_password(
    database_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, document = run_check(database_server, "any", tmp_path, monkeypatch, "database.password=very-secret")

    assert (code, document["level"]) == (1, "problem")
    assert "very-secret" not in json.dumps(document)


# ------------------------------------------------------------------------------------------- getting there and in


async def test_with_nobody_at_the_port_the_rest_is_not_checked(database_server: Server) -> None:
    findings = await found(database_server.options("any", addresses=((database_server.host, 1),)))

    assert levels(findings) == {"reachable": PROBLEM, "others": NOT_CHECKED}


async def test_with_a_wrong_password_the_rest_is_not_checked(database_server: Server) -> None:
    findings = await found(database_server.options("any", user="nobody_here", password="wrong"))

    assert levels(findings) == {"login": PROBLEM, "others": NOT_CHECKED}


async def test_without_the_database_the_server_is_checked_all_the_same(database_server: Server) -> None:
    findings = await found(database_server.options("nothing_here"))

    assert levels(findings) == {"login": PROBLEM, "others": NOT_CHECKED}
    assert findings["version"].level is OK


async def test_tls_is_told_where_there_is_some(database_server: Server, database: str) -> None:
    findings = await found(database_server.options(database, tls=TlsOptions(TlsMode.REQUIRED)))

    if database_server.kind == "mysql":
        assert (levels(findings), findings["tls"].detail[:3]) == ({}, "TLS")
    else:
        assert levels(findings) == {"login": PROBLEM, "others": NOT_CHECKED}


async def test_several_hosts_that_are_no_group_are_a_problem_unless_losses_are_accepted(
    database_server: Server, database: str
) -> None:
    twice = ((database_server.host, database_server.port), ("localhost", database_server.port))
    strict = await found(database_server.options(database, addresses=twice))
    lossy = await found(database_server.options(database, addresses=twice, allow_lossy_failover=True))

    assert levels(strict) == {"group": PROBLEM}
    assert levels(lossy) == {"group": WARNING}
    assert strict["version"].detail.startswith(f"localhost:{database_server.port}: ")


# ------------------------------------------------------------------------------------------------ account and clock


@pytest.fixture
def account(database_server: Server, database: str) -> Iterator[Callable[..., MysqlOptions]]:
    """Makes an account that may do what is given, once."""
    name = database.removeprefix("test_")

    def make(*privileges: str) -> MysqlOptions:
        database_server.sql(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'right'")
        for privilege in privileges:
            database_server.sql(f"GRANT {privilege.format(database)} TO '{name}'@'%'")
        return database_server.options(database, user=name, password="right")

    yield make
    database_server.sql(f"DROP USER '{name}'@'%'")


async def test_an_account_that_may_run_but_not_migrate_is_warned_of_where_a_migration_is_due(
    account: Callable[..., MysqlOptions], database_server: Server, database: str
) -> None:
    options = account("SELECT, INSERT, UPDATE, DELETE ON {}.*")
    assert levels(await found(options)) == {}

    database_server.sql("UPDATE alembic_version SET version_num = '0001'", database)
    assert levels(await found(options)) == {"privileges to migrate": WARNING, "schema": WARNING}


async def test_an_account_that_may_only_read_is_a_problem(account: Callable[..., MysqlOptions]) -> None:
    findings = await found(account("SELECT ON {}.*", "INSERT (session_id) ON {}.translation_sessions"))

    assert levels(findings) == {"privileges": PROBLEM}
    assert "lacks INSERT, UPDATE, DELETE" in findings["privileges"].detail


@pytest.mark.parametrize("on", ["*.*", "`test\\_%`.*", "{}.*"])
async def test_privileges_on_more_than_the_database_count_too(account: Callable[..., MysqlOptions], on: str) -> None:
    assert levels(await found(account(f"ALL PRIVILEGES ON {on}"))) == {}


async def test_an_account_without_any_right_on_the_database_is_told_which_and_what_to_grant(
    account: Callable[..., MysqlOptions], database_server: Server, database: str
) -> None:
    findings = await found(options := account())

    assert levels(findings) == {
        "login": PROBLEM,
        "privileges": PROBLEM,
        "privileges to migrate": WARNING,
        "others": NOT_CHECKED,
    }
    assert f"no right at all on a database {database}" in findings["login"].detail
    granting = findings["login"].remedy.partition("then: ")[2].replace("@…;", "@'%'")
    database_server.sql(granting)
    assert levels(await found(options)) == {}


async def test_a_name_of_a_database_may_have_a_space(
    account: Callable[..., MysqlOptions], database_server: Server, database: str
) -> None:
    odd = f"{database} of `ours`"
    quoted = "`" + odd.replace("`", "``") + "`"
    database_server.sql(f"CREATE DATABASE {quoted}")
    try:
        options = replace(account(f"ALL PRIVILEGES ON {quoted}.*"), database=odd)
        await migrate(options)
        assert levels(await found(options)) == {}
    finally:
        database_server.sql(f"DROP DATABASE {quoted}")


async def test_a_clock_that_is_off_is_a_warning(database_server: Server, database: str) -> None:
    options = database_server.options(database)
    host = await reach(options, options.addresses[0])
    try:
        findings = await server_findings(host, lambda: time.time() + 3.0)
    finally:
        assert host.connection is not None
        await host.connection.close()

    (clock,) = [finding for finding in findings if finding.name == "clock"]
    assert (clock.level, "ms behind" in clock.detail) == (WARNING, True)


async def test_a_pool_that_the_server_does_not_take_is_told(database_server: Server, database: str) -> None:
    most = int(database_server.sql("SELECT @@max_connections")[0][0])
    tight = await found(database_server.options(database, pool_size=most))
    too_many = await found(database_server.options(database, pool_size=most + 1))

    assert (levels(tight), levels(too_many)) == ({"connections": WARNING}, {"connections": PROBLEM})


def test_connections_are_counted_for_every_worker_that_is_configured(
    database_server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = int(database_server.sql("SELECT @@max_connections")[0][0])
    pool = f"database.pool_size={most // 2}"
    alone, _ = run_check(database_server, database, tmp_path, monkeypatch, pool)
    code, document = run_check(database_server, database, tmp_path, monkeypatch, pool, "service.workers=3")
    problems = {finding["name"]: finding["detail"] for finding in document["findings"] if finding["level"] == PROBLEM}

    assert (alone, code, set(problems)) == (0, 1, {"connections"})
    assert f"up to {3 * (most // 2)} (3 workers" in problems["connections"]


async def test_an_account_with_fewer_connections_than_the_pool_is_a_problem(
    account: Callable[..., MysqlOptions], database_server: Server
) -> None:
    options = account("ALL PRIVILEGES ON {}.*")
    database_server.sql(f"ALTER USER '{options.user}'@'%' WITH MAX_USER_CONNECTIONS 5")

    assert levels(await found(options)) == {"connections": PROBLEM}


# ----------------------------------------------------------------------------------------------- the server's set-up

SET: dict[str, tuple[str, dict[str, str], Level]] = {
    "a commit that is not flushed": ("durability", {"innodb_flush_log_at_trx_commit": "2"}, PROBLEM),
    "a binary log that is not flushed": ("durability", {"sync_binlog": "0"}, PROBLEM),
    "too small a packet": ("packet", {"max_allowed_packet": str(4 * 2**20)}, PROBLEM),
    "a smallish packet": ("packet", {"max_allowed_packet": str(8 * 2**20)}, WARNING),
    "a server that may only be read": ("writable", {"read_only": "1"}, PROBLEM),
}


@pytest.fixture
def changed(own_server: Server) -> Iterator[Callable[[dict[str, str]], None]]:
    """Sets variables of the server until the test's end."""
    before: list[tuple[str, Any]] = []

    with own_server.connected() as run:

        def change(values: dict[str, str]) -> None:
            for name, value in values.items():
                before.append((name, run(f"SELECT @@global.{name}")[0][0]))
                run(f"SET GLOBAL {name} = {value}")

        yield change
        for name, value in reversed(before):
            run(f"SET GLOBAL {name} = {value}")


@pytest.mark.parametrize("what", SET)
async def test_how_the_server_is_set_is_told(
    own_server: Server, changed: Callable[[dict[str, str]], None], what: str
) -> None:
    name, values, level = SET[what]
    database = own_server.new_database()
    await migrate(own_server.options(database))
    changed(values)
    has_binary_log = bool(own_server.sql("SELECT @@log_bin")[0][0])
    findings = await found(own_server.options(database))

    assert levels(findings) == ({name: level} if has_binary_log or "sync_binlog" not in values else {})


async def test_a_server_that_is_silent_is_told_within_the_time_for_connecting(own_server: Server) -> None:
    own_server.freeze()
    try:
        findings = await found(own_server.options("any", connect_timeout_s=0.5))
    finally:
        own_server.thaw()

    assert levels(findings) == {"reachable": PROBLEM, "others": NOT_CHECKED}

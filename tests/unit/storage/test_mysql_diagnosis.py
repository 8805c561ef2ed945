"""Findings on servers that no test can have: judged from what such a server would say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from persistence_service.errors import (
    PersistenceError,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.settings import TlsMode
from persistence_service.storage.mysql.diagnosis import group, server
from persistence_service.storage.mysql.diagnosis.host import Host, _refusal
from persistence_service.storage.mysql.grants import MIGRATING, RUNNING, granted_on
from persistence_service.storage.mysql.options import MysqlOptions, TlsOptions
from persistence_service.storage.powers import Level

OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM


def host(*names: str, tls: TlsMode = TlsMode.DISABLED, **variables: str) -> Host:
    addresses = tuple((name, 3306) for name in names or ("db.example",))
    options = MysqlOptions(addresses=addresses, user="u", password="", database="d", tls=TlsOptions(tls))
    return Host(options, addresses[0], variables=variables)


@pytest.mark.parametrize(
    "version, level",
    [
        ("9.7.4-2", OK),
        ("9.1.0", OK),
        ("8.4.3", OK),
        ("8.0.40", WARNING),
        ("8.0.16", PROBLEM),
        ("5.7.44-log", PROBLEM),
        ("10.11.19-MariaDB-0+deb12u1", OK),
        ("11.8.2-MariaDB", OK),
        ("10.6.20-MariaDB-log", WARNING),
        ("10.5.9-MariaDB", PROBLEM),
        ("8.0.11-TiDB-v8.5.0", PROBLEM),
        ("what is this", PROBLEM),
    ],
)
def test_versions_are_tested_expected_unknown_or_too_old(version: str, level: Level) -> None:
    assert server._version(host(version=version)).level is level


@pytest.mark.parametrize(
    "name, mode, cipher, level",
    [
        ("db.example", TlsMode.DISABLED, "", WARNING),
        ("localhost", TlsMode.DISABLED, "", OK),
        ("::1", TlsMode.DISABLED, "", OK),
        ("db.example", TlsMode.REQUIRED, "TLS_AES_128", OK),
        ("db.example", TlsMode.VERIFY_IDENTITY, "TLS_AES_128", OK),
    ],
)
def test_plain_text_over_a_network_is_a_warning(name: str, mode: TlsMode, cipher: str, level: Level) -> None:
    looked = host(name, tls=mode)
    looked.status = {"ssl_cipher": cipher}
    finding = server._tls(looked)

    assert finding.level is level
    assert ("not verified" in finding.detail) == (mode is TlsMode.REQUIRED)


@pytest.mark.parametrize(
    "variables, level",
    [
        ({}, OK),
        ({"innodb_flush_log_at_trx_commit": "0"}, PROBLEM),
        ({"log_bin": "ON", "sync_binlog": "1"}, OK),
        ({"log_bin": "ON", "sync_binlog": "100"}, PROBLEM),
        ({"log_bin": "OFF", "sync_binlog": "0"}, OK),
        ({"innodb_doublewrite": "OFF"}, PROBLEM),
        ({"innodb_doublewrite": "DETECT_ONLY"}, PROBLEM),
        ({"innodb_doublewrite": "DETECT_AND_RECOVER"}, OK),
    ],
)
def test_what_a_power_cut_takes_is_a_problem(variables: dict[str, str], level: Level) -> None:
    looked = host()
    looked.variables = variables

    assert server._durability(looked).level is level


@pytest.mark.parametrize(
    "size, shown, level",
    [
        ("4096", "4KiB", PROBLEM),
        (str(5 * 2**20), "5MiB", PROBLEM),
        (str(8 * 2**20), "8MiB", WARNING),
        ("67108864", "64MiB", OK),
    ],
)
def test_a_packet_is_shown_as_sizes_are_written(size: str, shown: str, level: Level) -> None:
    finding = server._packet(host(max_allowed_packet=size))

    assert (finding.level, f"max_allowed_packet is {shown}" in finding.detail) == (level, True)


@pytest.mark.parametrize(
    "error, name",
    [
        (StorageUnavailable("away", number=2003), "reachable"),
        (StorageUnavailable("silent"), "reachable"),
        (StorageUnavailable("too many", number=1040), "connections"),
        (StorageUnavailable("too many", number=1226), "connections"),
        (StorageSetupError("wrong password", number=1045), "login"),
        (UnclassifiedStorageError("not understood", number=1064), "session"),
    ],
)
def test_who_does_not_let_us_in_is_told_apart(error: PersistenceError, name: str) -> None:
    finding = _refusal(host(), error)

    assert (finding.name, finding.level, bool(finding.remedy)) == (name, PROBLEM, True)


@pytest.mark.parametrize(
    "workers, hosts, most, level, remedy",
    [
        (1, 1, 151, OK, ""),
        (2, 1, 151, OK, ""),
        (3, 1, 151, PROBLEM, "Lower database.pool_size or service.workers, or raise max_connections."),
        (3, 1, 180, WARNING, "Raise max_connections, or lower database.pool_size or service.workers."),
        (3, 1, 190, OK, ""),
        (1, 1, 59, PROBLEM, "Lower database.pool_size, or raise max_connections."),
        (3, 3, 182, PROBLEM, "Lower database.pool_size or service.workers, or raise max_connections."),
    ],
)
def test_connections_are_counted_for_every_worker_and_those_that_watch_a_group_with_them(
    workers: int, hosts: int, most: int, level: Level, remedy: str
) -> None:
    looked = host(*(f"db{number}" for number in range(hosts)), max_connections=str(most))
    looked.options = replace(looked.options, pool_size=60, workers=workers)
    finding = server._connections(looked)

    assert (finding.level, finding.remedy) == (level, remedy)
    assert f"this service up to {workers * (60 + (hosts > 1))}" in finding.detail


def test_an_account_needs_the_connections_of_all_workers() -> None:
    looked = host(max_connections="1000")
    looked.session = {"max_user_connections": "25"}
    looked.options = replace(looked.options, pool_size=10, workers=2)
    two = server._connections(looked)
    looked.options = replace(looked.options, workers=3)
    three = server._connections(looked)

    assert (two.level, three.level) == (OK, PROBLEM)
    assert "wants up to 30 (3 workers with 10 each)" in three.detail


GOOD_SESSION = {
    "transaction_isolation": "REPEATABLE-READ",
    "time_zone": "+00:00",
    "sql_mode": "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
}


@pytest.mark.parametrize(
    "change, level",
    [
        ({}, OK),
        ({"transaction_isolation": "READ-COMMITTED"}, PROBLEM),
        ({"sql_mode": "STRICT_TRANS_TABLES,ANSI_QUOTES"}, PROBLEM),
        ({"time_zone": "SYSTEM"}, PROBLEM),
    ],
)
def test_a_session_that_a_proxy_changed_is_a_problem(change: dict[str, str], level: Level) -> None:
    looked = host()
    looked.session = GOOD_SESSION | change

    assert server._session(looked).level is level


@pytest.mark.parametrize(
    "states, hosts, level",
    [
        (["ONLINE"] * 3, 3, OK),
        (["ONLINE"] * 3, 1, WARNING),
        (["ONLINE", "ONLINE", "UNREACHABLE"], 3, WARNING),
        (["ONLINE", "UNREACHABLE", "UNREACHABLE"], 3, PROBLEM),
        (["ONLINE", "RECOVERING"], 3, WARNING),
    ],
)
def test_a_group_needs_a_majority_and_someone_to_spare(states: list[str], hosts: int, level: Level) -> None:
    looked = host(*(f"db{number}" for number in range(hosts)), group_replication_single_primary_mode="ON")
    members = [(state, "SECONDARY" if number else "PRIMARY") for number, state in enumerate(states)]

    assert group._members(looked, members).level is level


@pytest.mark.parametrize(
    "mode, roles, level",
    [
        ("OFF", ["PRIMARY"] * 3, PROBLEM),
        ("OFF", ["PRIMARY", "SECONDARY", "SECONDARY"], PROBLEM),
        ("ON", ["SECONDARY"] * 3, WARNING),
    ],
)
def test_a_group_of_several_primaries_is_a_problem_and_one_without_will_have_one(
    mode: str, roles: list[str], level: Level
) -> None:
    looked = host("db1", "db2", "db3", group_replication_single_primary_mode=mode)

    assert group._members(looked, [("ONLINE", role) for role in roles]).level is level


@pytest.mark.parametrize("consistency, level", [("EVENTUAL", WARNING), ("BEFORE_ON_PRIMARY_FAILOVER", OK)])
def test_reads_that_may_miss_what_was_stored_are_a_warning(consistency: str, level: Level) -> None:
    assert group._consistency(host(group_replication_consistency=consistency)).level is level


@pytest.mark.parametrize(
    "grant, privileges",
    [
        ("GRANT USAGE ON *.* TO `u`@`%`", {"USAGE"}),
        ("GRANT SELECT, INSERT ON `d`.* TO `u`@`%`", {"SELECT", "INSERT"}),
        ("GRANT SELECT, INSERT (a, b), UPDATE ON `d`.* TO `u`@`%`", {"SELECT", "UPDATE"}),
        ("GRANT SELECT ON `other`.* TO `u`@`%`", set()),
        ("GRANT SELECT ON `d`.`t` TO `u`@`%`", set()),
        ("GRANT SELECT ON `_`.* TO `u`@`%`", {"SELECT"}),
        (r"GRANT SELECT ON `\_`.* TO `u`@`%`", set()),
        ("GRANT SELECT ON `%`.* TO `u`@`%` WITH GRANT OPTION", {"SELECT"}),
        ("GRANT `role`@`%` TO `u`@`%`", set()),
        ("GRANT ALL PRIVILEGES ON *.* TO `u`@`%`", {*RUNNING, *MIGRATING}),
        ("GRANT SELECT ON `D`.* TO `u`@`%`", set()),
        ("GRANT EXECUTE ON FUNCTION `d`.* TO `u`@`%`", set()),
    ],
)
def test_only_grants_on_all_of_the_database_count(grant: str, privileges: set[str]) -> None:
    assert granted_on("d", [grant]) == privileges


@pytest.mark.parametrize("database", ["my data", "a.b", "of `two` ticks", "on to `"])
def test_a_database_may_have_any_name(database: str) -> None:
    quoted = "`" + database.replace("`", "``") + "`"

    assert granted_on(database, [f"GRANT SELECT, INSERT ON {quoted}.* TO `u`@`%`"]) == {"SELECT", "INSERT"}


def test_case_counts_for_nothing_where_the_server_ignores_it() -> None:
    assert granted_on("Data", [r"GRANT SELECT ON `dat\_`.* TO `u`@`%`"], ignore_case=True) == set()
    assert granted_on("Data", ["GRANT SELECT ON `data`.* TO `u`@`%`"], ignore_case=True) == {"SELECT"}

"""What the fixtures of real servers promise to all other tests."""

import subprocess

import pymysql
import pytest

from tests.servers.group import Group
from tests.servers.process import running_pid
from tests.servers.server import Server


def test_a_server_is_of_the_kind_that_it_says(database_server: Server) -> None:
    version = database_server.sql("SELECT VERSION()")[0][0]

    assert ("MariaDB" in version) == (database_server.kind == "mariadb")


def test_each_database_is_new_and_empty(database_server: Server) -> None:
    first, second = database_server.new_database(), database_server.new_database()

    database_server.sql("CREATE TABLE t (id INT PRIMARY KEY)", first)

    assert database_server.sql("SHOW TABLES", first) == [("t",)]
    assert database_server.sql("SHOW TABLES", second) == []
    database_server.drop(first)
    assert database_server.sql(f"SHOW DATABASES LIKE '{first}'") == []


def test_the_client_runs_what_it_reads(database_server: Server) -> None:
    name = database_server.new_database()
    script = "CREATE TABLE t (word TEXT) CHARACTER SET utf8mb4; INSERT INTO t VALUES ('字');"

    command = [*database_server.client(), "--default-character-set=utf8mb4", name]
    subprocess.run(command, input=script.encode(), check=True)

    assert database_server.sql("SELECT word FROM t", name) == [("字",)]


def test_a_server_syncs_what_it_commits(database_server: Server) -> None:
    assert database_server.sql("SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite")[0][0] == 1


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_committed_rows_are_there_after_an_end_and_a_start(own_server: Server, end: str) -> None:
    name = own_server.new_database()
    own_server.sql("CREATE TABLE t (id INT PRIMARY KEY)", name)
    own_server.sql("INSERT INTO t VALUES (7)", name)

    getattr(own_server, end)()
    assert running_pid(own_server.folder) is None
    with pytest.raises(pymysql.OperationalError):
        own_server.sql("SELECT 1")
    own_server.start()

    assert own_server.sql("SELECT id FROM t", name) == [(7,)]


def test_a_frozen_server_answers_again_when_it_is_thawed(own_server: Server) -> None:
    pid = own_server.pid

    own_server.freeze()
    own_server.thaw()

    assert own_server.pid == pid
    assert own_server.sql("SELECT 1") == [(1,)]


@pytest.mark.slow
def test_a_group_elects_another_primary_and_takes_the_old_one_back(group_server: Group) -> None:
    database = group_server.new_database()
    old = group_server.primary()
    assert old is not None
    old.sql("CREATE TABLE t (id INT PRIMARY KEY)", database)
    old.sql("INSERT INTO t VALUES (7)", database)

    old.kill()
    while (new := group_server.primary()) in (None, old):
        pass

    assert new is not None
    assert new.sql("SELECT id FROM t", database) == [(7,)]
    group_server.rejoin(old)
    assert sorted(group_server.roles().values()) == [("ONLINE", "PRIMARY"), *[("ONLINE", "SECONDARY")] * 2]

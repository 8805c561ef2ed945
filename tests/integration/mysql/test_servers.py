"""What the fixtures of real servers promise to all other tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pymysql
import pytest

from tests.servers.process import running_pid
from tests.servers.run import ROOT
from tests.servers.server import Server

POLL_S = 0.02

# A run of its own, whose only test names the server's folder and then does not end, or fails.
INNER_TEST = """
import os, signal
from pathlib import Path

def test_inner(mariadb_server, server_run):
    [folder] = Path((server_run.shared / "servers").read_text()).glob("mariadb-*")
    Path("folder.new").write_text(str(folder))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    Path("folder.new").rename("folder")
    assert "fails" not in os.environ
    signal.pause()
"""


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
@pytest.mark.parametrize("how", ["fails", "is interrupted", "is killed"])
def test_no_server_is_left_when_a_run_ends(mariadb_server: Server, tmp_path: Path, how: str) -> None:
    (tmp_path / "test_inner.py").write_text(INNER_TEST)
    plugins = ["-p", "no:cacheprovider", "-p", "tests.servers.fixtures", "-n", "0" if how == "is interrupted" else "1"]
    command = [sys.executable, "-m", "pytest", *plugins, f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_", "PYTEST_"))
    }
    environment |= {"PYTHONPATH": str(ROOT)} | ({"fails": "1"} if how == "fails" else {})
    with subprocess.Popen(
        [*command, "test_inner.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        while not (tmp_path / "folder").exists():
            assert run.poll() is None, run.communicate()[0]
            time.sleep(POLL_S)
        folder = Path((tmp_path / "folder").read_text())
        if how != "fails":
            assert running_pid(folder) is not None
            run.send_signal(signal.SIGINT if how == "is interrupted" else signal.SIGKILL)
        try:
            output, _ = run.communicate(timeout=240)
        finally:
            run.kill()

    deadline = time.monotonic() + 120
    while folder.parent.exists():
        assert time.monotonic() < deadline, output
        time.sleep(POLL_S)
    assert running_pid(folder) is None

"""Servers started from binaries that are installed on this machine, with data of their own; no service is touched."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pymysql

from tests.servers.process import NotInstalledError, StartError, end, launch, log_tail, running_pid

_ANSWER_S = 240.0
_POLL_S = 0.05
# What the defaults take of memory is meant for a machine of its own. Everything durable stays as it is by default.
MODEST = (
    "--innodb-buffer-pool-size=128M",
    "--table-open-cache=400",
    "--table-definition-cache=800",
    "--max-connections=200",
)


class InstalledServer:
    """A `mariadbd` or `mysqld` on one port of 127.0.0.1, user root, no password."""

    def __init__(self, folder: Path, command: Sequence[str], port: int) -> None:
        self.folder = folder
        self._port = port
        self._command = [
            *command,
            *MODEST,
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder / 'sock'}",
            f"--pid-file={folder / 'own.pid'}",
            f"--tmpdir={folder}",  # MariaDB removes at its start what others have in a shared one
        ]

    def start(self) -> None:
        for left in ("sock", "sock.lock"):  # by one that was killed; MySQL refuses to start while its pid is in use
            (self.folder / left).unlink(missing_ok=True)
        launch(self._command, self.folder, os.environ)
        deadline = time.monotonic() + _ANSWER_S
        while (problem := self._problem()) is not None:
            if running_pid(self.folder) is None or time.monotonic() > deadline:
                raise StartError(f"{problem}\n{log_tail(self.folder)}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        end(self.folder, signal.SIGTERM)

    def kill(self) -> None:
        end(self.folder, signal.SIGKILL)

    def _problem(self) -> pymysql.Error | None:
        """Why it does not answer, if it does not."""
        try:
            pymysql.connect(host="127.0.0.1", port=self._port, user="root", ssl_disabled=True).close()
        except pymysql.Error as exc:
            return exc
        return None


def new_mariadb(folder: Path, port: int) -> InstalledServer:
    """A new, empty MariaDB, not started yet."""
    program, installer = _find("mariadbd"), _find("mariadb-install-db")
    data = f"--datadir={folder / 'data'}"
    _initialise(
        [installer, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db", *_user()]
    )
    return InstalledServer(folder, [program, "--no-defaults", data, *_user()], port)


def new_mysql(folder: Path, port: int) -> InstalledServer:
    """A new, empty MySQL, not started yet."""
    program = mysqld_on_path()
    if program is None:
        raise NotInstalledError(
            "there is no MySQL: PERSISTENCE_TEST_MYSQL9 names no launcher, and no mysqld of MySQL 8 or later is on PATH"
        )
    options = [program, "--no-defaults", f"--datadir={folder / 'data'}", *_user()]
    _initialise([*options, "--initialize-insecure"])
    return InstalledServer(folder, [*options, "--secure-file-priv=", "--mysqlx=OFF"], port)


def mysqld_on_path() -> str | None:
    """The server of MySQL 8 or later; MariaDB offers itself under that name too."""
    program = _search("mysqld")
    if program is None:
        return None
    version = subprocess.run(
        [program, "--no-defaults", "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Ver (\d+)", version)
    return program if found and int(found[1]) >= 8 and "MariaDB" not in version else None


def client_program(kind: str) -> str:
    """The database's own command-line client."""
    for name in ("mariadb", "mysql") if kind == "mariadb" else ("mysql",):
        if program := _search(name):
            return program
    raise NotInstalledError(f"no command-line client of {kind} is on PATH")


def _find(name: str) -> str:
    program = _search(name)
    if program is None:
        raise NotInstalledError(
            f"{name} is neither on PATH nor in /usr/sbin (Debian, Ubuntu: apt-get install mariadb-server-core mariadb-client)"
        )
    return program


def _search(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


def _user() -> list[str]:
    """A database refuses to run as root unless it is told so."""
    return [f"--user={pwd.getpwuid(0).pw_name}"] if os.geteuid() == 0 else []


def _initialise(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{command[0]} could not make a data directory:\n{(done.stdout + done.stderr)[-2000:]}")

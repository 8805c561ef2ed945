"""How each kind of server comes to be: private ones, those that a run shares, and one that is named by its address."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pymysql

from tests.servers.installed import InstalledServer, client_program, new_mariadb, new_mysql
from tests.servers.launcher import LaunchedServer, copy_template, launcher_program
from tests.servers.ports import free_port
from tests.servers.process import NotInstalledError, ServerProcess, StartError, log_tail, running_pid
from tests.servers.run import ServerRun
from tests.servers.server import Server

URL_VARIABLE = "PERSISTENCE_TEST_MYSQL_URL"
_ATTEMPTS = 3
_ANSWER_S = 120.0
_POLL_S = 0.05


class _Answering:
    """A server process whose start returns when it answers."""

    def __init__(self, inner: InstalledServer, port: int) -> None:
        self._inner = inner
        self._port = port
        self.folder = inner.folder
        self.stop = inner.stop
        self.kill = inner.kill

    def start(self) -> None:
        self._inner.start()
        deadline = time.monotonic() + _ANSWER_S
        while True:
            try:
                pymysql.connect(host="127.0.0.1", port=self._port, user="root", ssl_disabled=True).close()
            except pymysql.OperationalError as exc:
                if running_pid(self.folder) is None or time.monotonic() > deadline:
                    raise StartError(f"{exc}\n{log_tail(self.folder)}") from exc
                time.sleep(_POLL_S)
            else:
                return


def start_private(run: ServerRun, kind: str) -> Server:
    """A new server of this kind.

    Raises:
        StartError: it is not installed, or does not come up.
    """
    attempts = _ATTEMPTS
    while True:
        folder, port = run.new_folder(kind), free_port()
        try:
            process, client = _new_process(run, kind, folder, port)
            process.start()
        except NotInstalledError:
            raise
        except StartError:
            # Most likely somebody took the port in the meantime.
            attempts -= 1
            if not attempts:
                raise
        else:
            return Server(kind, "127.0.0.1", port, client, process=process)


def shared_server(run: ServerRun, kind: str) -> Server:
    """The server of this kind that all workers of the run share; the first to ask starts it.

    Raises:
        StartError: there is none, as the first who tried found out.
    """
    note = run.shared / f"{kind}.json"
    with run.lock(kind):
        if not note.exists():
            note.write_text(json.dumps(_start_shared(run, kind)))
    state = json.loads(note.read_text())
    if "reason" in state:
        raise StartError(state["reason"])
    return Server(**state)


def _start_shared(run: ServerRun, kind: str) -> dict[str, object]:
    try:
        server = _named_server(kind) or start_private(run, kind)
    except StartError as exc:
        return {"reason": str(exc)}
    return {
        "kind": kind,
        "host": server.host,
        "port": server.port,
        "client_command": server.client(),
        "user": server.user,
        "password": server.password,
    }


def _new_process(run: ServerRun, kind: str, folder: Path, port: int) -> tuple[ServerProcess, list[str]]:
    if kind == "mysql" and (program := launcher_program()):
        copy_template(run, port, folder)
        return LaunchedServer(folder, port), [program, "client", str(folder)]
    make: Callable[[Path, int], InstalledServer] = new_mariadb if kind == "mariadb" else new_mysql
    client = [client_program(kind), "--no-defaults", "-u", "root", "-S", str(folder / "sock")]
    return _Answering(make(folder, port), port), client


def _named_server(kind: str) -> Server | None:
    """The server that the environment names, if it is of this kind."""
    url = urlsplit(os.environ.get(URL_VARIABLE, ""))
    if not url.hostname:
        return None
    user, password, port = unquote(url.username or "root"), unquote(url.password or ""), url.port or 3306
    client = [kind, "--no-defaults", "-h", url.hostname, "-P", str(port), "-u", user, f"--password={password}"]
    server = Server(kind, url.hostname, port, client, user, password)
    try:
        version: str = server.sql("SELECT VERSION()")[0][0]
    except pymysql.Error as exc:
        raise StartError(f"the server of {URL_VARIABLE} does not answer: {exc}") from exc
    return server if ("MariaDB" in version) == (kind == "mariadb") else None

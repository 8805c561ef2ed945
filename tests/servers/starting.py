"""How each kind of server comes to be: private ones, those that a run shares, and one that is named by its address."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pymysql

from tests.servers.installed import InstalledServer, client_program, new_mariadb, new_mysql
from tests.servers.launcher import LaunchedServer, copy_template, launcher_program
from tests.servers.ports import free_port
from tests.servers.process import NotInstalledError, ServerProcess, StartError
from tests.servers.run import ServerRun
from tests.servers.server import Server

URL_VARIABLE = "PERSISTENCE_TEST_MYSQL_URL"
_ATTEMPTS = 3


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
        return {"reason": f"{exc}; {URL_VARIABLE} may name one instead"}
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
    return make(folder, port), client


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

"""A Group Replication cluster of three: one primary, and failover by itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql

from persistence_service.storage.mysql.options import MysqlOptions
from tests.servers.launcher import LaunchedServer, copy_template, launcher, launcher_program
from tests.servers.ports import free_port
from tests.servers.process import NotInstalledError, StartError
from tests.servers.run import ServerRun
from tests.servers.server import Server

_NODES = 3
# Of the launcher: each node's port, and the one on which it talks to the others.
_PORT_OFFSETS = (1, 2, 101, 102, 103)
_ATTEMPTS = 2
_CONNECT_S = 5.0


class Group:
    """The nodes are servers of their own that a test may kill or freeze; a killed one comes back with `rejoin`."""

    kind = "group"

    def __init__(self, folder: Path, nodes: tuple[Server, ...]) -> None:
        self._folder = folder
        self.nodes = nodes

    def roles(self) -> dict[int, tuple[str, str]]:
        """By each node's port its state and role (ONLINE, PRIMARY …), as the first node sees them that has a majority."""
        for node in self.nodes:
            roles = self.roles_at(node)
            if 2 * sum(state == "ONLINE" for state, _ in roles.values()) > _NODES:
                return roles
        return {}

    def roles_at(self, node: Server) -> dict[int, tuple[str, str]]:
        """The same as one node sees it, right or wrong; nothing if it does not answer."""
        try:
            rows = node.sql(
                "SELECT member_port, member_state, member_role FROM performance_schema.replication_group_members"
            )
        except pymysql.Error:
            return {}
        return {int(port): (str(state), str(role)) for port, state, role in rows}

    def primary(self) -> Server | None:
        """The node that takes writes now; None while there is none."""
        roles = self.roles()
        return next((node for node in self.nodes if roles.get(node.port) == ("ONLINE", "PRIMARY")), None)

    def known_primary(self) -> Server:
        """The node that takes writes now; the group is known to have one."""
        primary = self.primary()
        assert primary is not None, f"the group has no primary: {self.roles()}"
        return primary

    def is_whole(self) -> bool:
        """Whether all nodes are online, as each of them sees it: one that was frozen does not know that it is out."""
        seen = [[state for state, _ in self.roles_at(node).values()] for node in self.nodes]
        return seen == [["ONLINE"] * _NODES] * _NODES

    def rejoin(self, node: Server) -> None:
        """Start a node that was killed or stopped, and let it join the others again."""
        launcher("rejoin", self._folder, self.nodes.index(node) + 1)

    def reboot(self) -> None:
        """Start the whole group again after all nodes were stopped."""
        launcher("reboot", self._folder)

    def new_database(self) -> str:
        """The name of a new, empty database on the group."""
        return self.known_primary().new_database()

    @contextmanager
    def connected(self, database: str | None = None) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        """See `Server.connected`, on the primary of the moment."""
        with self.known_primary().connected(database) as run:
            yield run

    def options(self, database: str, **changes: Any) -> MysqlOptions:  # noqa: ANN401  # fields of several types
        """What the backend takes; `changes` are fields of it."""
        addresses = tuple((node.host, node.port) for node in self.nodes)
        limit = {"connect_timeout_s": _CONNECT_S}  # one that does not answer is to be left soon
        return self.nodes[0].options(database, **({"addresses": addresses} | limit | changes))

    def settings(self, database: str) -> dict[str, object]:
        """Settings of a service on the group, by their dotted keys."""
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return self.nodes[0].settings(database) | {"database.host": hosts}

    def end(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.kill()


def start_group(run: ServerRun) -> Group:
    """A new group, all of whose nodes are online.

    Raises:
        StartError: there is no launcher, or it failed.
    """
    program = launcher_program()
    if program is None:
        raise NotInstalledError("PERSISTENCE_TEST_MYSQL9 names no program that starts a group")
    attempts = _ATTEMPTS
    while True:
        folder, port = run.new_folder("group"), free_port(*_PORT_OFFSETS)
        folders = [folder / str(number + 1) for number in range(_NODES)]
        try:
            copy_template(run, port, *folders)
            launcher("cluster", folder, port)
        except StartError:
            attempts -= 1
            if not attempts:
                raise
            continue
        nodes = tuple(_node(program, folders[i], port + i) for i in range(_NODES))
        return Group(folder, nodes)


def _node(program: str, folder: Path, port: int) -> Server:
    return Server("mysql", "127.0.0.1", port, [program, "client", str(folder)], process=LaunchedServer(folder, port))

"""Real database servers as fixtures. Nothing is started that no test asks for, and nothing is left at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import require_or_skip
from tests.servers.group import Group, start_group
from tests.servers.process import StartError
from tests.servers.run import ServerRun
from tests.servers.server import Server
from tests.servers.starting import shared_server, start_private

KINDS = ("mysql", "mariadb")


@pytest.fixture(scope="session")
def server_run(tmp_path_factory: pytest.TempPathFactory) -> ServerRun:
    """What the workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    return ServerRun(base.parent if is_worker else base, os.getppid() if is_worker else os.getpid())


@pytest.fixture(scope="session")
def mysql_server(server_run: ServerRun) -> Iterator[Server]:
    """MySQL, shared by all tests of the run: each makes databases of its own."""
    yield from _shared(server_run, "mysql")


@pytest.fixture(scope="session")
def mariadb_server(server_run: ServerRun) -> Iterator[Server]:
    """MariaDB, shared by all tests of the run: each makes databases of its own."""
    yield from _shared(server_run, "mariadb")


@pytest.fixture(scope="session", params=KINDS)
def database_server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn, shared by all tests of the run."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(scope="session")
def private_servers() -> Iterator[dict[str, Server]]:
    """By their kind, those that no module has at the moment: a start takes longer than most tests."""
    servers: dict[str, Server] = {}
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture(scope="module", params=KINDS)
def own_server(
    request: pytest.FixtureRequest, server_run: ServerRun, private_servers: dict[str, Server]
) -> Iterator[Server]:
    """Each kind of server in turn, which the tests of this module may stop, kill and freeze.

    They leave it running and set as it was: the next module gets the same one, unless a test failed.
    """
    kind: str = request.param
    failed = request.session.testsfailed
    try:
        server = private_servers.pop(kind, None) or start_private(server_run, kind)
    except StartError as exc:
        require_or_skip(kind, str(exc))
    yield server
    if request.session.testsfailed > failed:
        server.kill()
    else:
        private_servers[kind] = server


@pytest.fixture(scope="module")
def group_server(server_run: ServerRun) -> Iterator[Group]:
    """A Group Replication cluster of three; the tests of this module leave all its nodes online."""
    try:
        group = start_group(server_run)
    except StartError as exc:
        require_or_skip("group", str(exc))
    yield group
    group.end()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the servers when all workers are done."""
    factory: pytest.TempPathFactory | None = getattr(session.config, "_tmp_path_factory", None)
    if "PYTEST_XDIST_WORKER" not in os.environ and factory is not None:
        ServerRun(factory.getbasetemp(), os.getpid()).finish()


def _shared(run: ServerRun, kind: str) -> Iterator[Server]:
    try:
        server = shared_server(run, kind)
    except StartError as exc:
        require_or_skip(kind, str(exc))
    yield server
    server.drop_all()

"""An ordinary account on a server that the test owns."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.poison import POISON
from persistence_service.torture.sources import Rig
from tests.servers.server import Server


@pytest.fixture
def options(own_server: Server) -> Iterator[MysqlOptions]:
    """Those of an account with rights on its database alone, so that a read-only server refuses it."""
    with own_server.ordinary_account("tortured") as ordinary:
        yield ordinary


def refusing_poison(server: Server, torn: Rig, database: str) -> Rig:
    """The same service, on a database that refuses poison from now on."""
    server.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON translation_tasks FOR EACH ROW "
        f"IF NEW.source_text = '{POISON}' THEN SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = 'no'; END IF",
        database,
    )
    return replace(torn, refuses_poison=True)


def settings_of(server: Server, options: MysqlOptions) -> dict[str, object]:
    """Those of a service that gives up in seconds what leads nowhere."""
    return server.settings(options.database) | {
        "database.user": options.user,
        "database.connect_timeout": 2,
        "database.statement_timeout": 6,  # longer than the server lets anybody wait for a row
    }

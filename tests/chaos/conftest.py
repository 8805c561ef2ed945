"""An ordinary account on a server that the test owns."""

from collections.abc import Iterator

import pytest

from persistence_service.storage.mysql.options import MysqlOptions
from tests.servers.server import Server

_ACCOUNT = "tortured"


@pytest.fixture
def options(own_server: Server) -> Iterator[MysqlOptions]:
    """Those of an account with rights on its database alone, so that a read-only server refuses it."""
    database = own_server.new_database()
    own_server.sql(f"CREATE USER {_ACCOUNT} IDENTIFIED BY ''")
    own_server.sql(f"GRANT ALL ON {database}.* TO {_ACCOUNT}")
    yield own_server.options(database, user=_ACCOUNT)
    own_server.sql(f"DROP USER {_ACCOUNT}")
    own_server.drop(database)


def settings_of(server: Server, options: MysqlOptions) -> dict[str, object]:
    """Those of a service that gives up in seconds what leads nowhere."""
    return server.settings(options.database) | {
        "database.user": options.user,
        "database.connect_timeout": 2,
        "database.statement_timeout": 6,  # longer than the server lets anybody wait for a row
    }

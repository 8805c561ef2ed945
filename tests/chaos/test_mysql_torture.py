"""Everything at once to a service on MySQL and on MariaDB: process, disk, network, database, and the server itself."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.database_faults import database_faults
from tests.chaos.rig import PREFIX, of, seconds_of, started, torture
from tests.chaos.server_faults import server_faults
from tests.servers.server import Server

pytestmark = pytest.mark.slow

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


async def test_nothing_acknowledged_is_lost_whatever_happens_to_service_disk_network_and_database(
    own_server: Server, options: MysqlOptions, tmp_path: Path
) -> None:
    async with asyncio.timeout(300 + seconds_of(0)), started(tmp_path, settings_of(own_server, options)) as torn:
        of_database, skipped = await database_faults(options, own_server.options(options.database), PREFIX)
        assert not skipped
        faults = [*of(torn.faults, "service", "disk", "network"), *of_database, *server_faults(own_server)]
        await torture(torn, faults, seed=7, seconds=130)

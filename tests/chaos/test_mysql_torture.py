"""Everything at once to a service on MySQL and on MariaDB: process, disk, network, database, and the server itself."""

import asyncio
from pathlib import Path

import pytest

from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.database_faults import database_faults
from tests.chaos.conftest import refusing_poison, settings_of
from tests.chaos.rig import PREFIX, STRAINS, check_strained, of, seconds_of, started, torture
from tests.chaos.server_faults import server_faults
from tests.servers.server import Server

pytestmark = pytest.mark.slow


async def test_nothing_acknowledged_is_lost_whatever_happens_to_service_disk_network_and_database(
    own_server: Server, options: MysqlOptions, tmp_path: Path
) -> None:
    async with asyncio.timeout(1500 + seconds_of(0)), started(tmp_path, settings_of(own_server, options)) as torn:
        of_database, skipped = await database_faults(options, own_server.options(options.database), PREFIX)
        assert not skipped
        faults = [*of(torn.faults, "service", "machine", "disk", "network"), *of_database, *server_faults(own_server)]
        refusing = refusing_poison(own_server, torn, options.database)
        report = await torture(refusing, faults, seed=7, seconds=100, strains=(*STRAINS, "set_aside"))
    assert report.data_rejected > 0
    check_strained(report, at_least=20)
    assert report.seen["set_aside"] > 0

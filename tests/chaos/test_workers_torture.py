"""Everything at once to a service of several workers: to single ones and to all, disk, clock, network, and database."""

import asyncio
from pathlib import Path

import pytest

from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.database_faults import database_faults
from tests.chaos.conftest import refusing_poison, settings_of
from tests.chaos.rig import PREFIX, of, seconds_of, started, torture
from tests.servers.server import Server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("own_server", ["mariadb"], indirect=True)
async def test_nothing_acknowledged_is_lost_by_several_workers(
    own_server: Server, options: MysqlOptions, tmp_path: Path
) -> None:
    settings = settings_of(own_server, options) | {"service.workers": 3}
    async with asyncio.timeout(1500 + seconds_of(0)), started(tmp_path, settings) as torn:
        of_database, skipped = await database_faults(options, own_server.options(options.database), PREFIX)
        assert not skipped
        faults = [*of(torn.faults, "service", "machine", "disk", "clock", "network"), *of_database]
        refusing = refusing_poison(own_server, torn, options.database)
        report = await torture(refusing, faults, seed=17, seconds=80)
    assert report.data_rejected > 0

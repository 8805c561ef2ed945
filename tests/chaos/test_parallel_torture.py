"""Chunks so large that they are written in parallel parts, some of which fail while others are stored."""

import asyncio
from pathlib import Path

import pytest

from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.torture.database_faults import database_faults
from persistence_service.torture.schedule import chosen
from tests.chaos.conftest import refusing_poison, settings_of
from tests.chaos.rig import PREFIX, most_in_a_flush, of, seconds_of, started, torture
from tests.servers.server import Server

pytestmark = pytest.mark.slow

_LARGE_CHUNKS = {"buffer.max_buffer_size": 3000, "buffer.max_memory_records": 8000, "buffer.flush_interval": 5}
_MANY_CLIENTS = 40
_LARGE = 1000
_OF_SINGLE_PARTS = ("COMMIT", "reset", "deadlock", "killed")


@pytest.mark.parametrize("own_server", ["mysql"], indirect=True)
async def test_nothing_acknowledged_is_lost_of_chunks_that_are_written_in_parallel_parts(
    own_server: Server, options: MysqlOptions, tmp_path: Path
) -> None:
    settings = settings_of(own_server, options) | _LARGE_CHUNKS
    async with asyncio.timeout(1500 + seconds_of(0)), started(tmp_path, settings) as torn:
        of_database, skipped = await database_faults(options, own_server.options(options.database), PREFIX)
        assert not skipped
        refusing = refusing_poison(own_server, torn, options.database)
        faults = chosen([*of(torn.faults, "network"), *of_database], _OF_SINGLE_PARTS)
        await torture(refusing, faults, seed=19, seconds=18, clients=_MANY_CLIENTS)
    assert most_in_a_flush(torn.subject) >= _LARGE

"""The wall clock jumps by minutes to days, both ways, while the service is killed, power fails, and its disk too."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.rig import of, seconds_of, started, torture

pytestmark = pytest.mark.slow


async def test_nothing_acknowledged_is_lost_when_the_wall_clock_jumps(tmp_path: Path) -> None:
    async with asyncio.timeout(1500 + seconds_of(0)), started(tmp_path, {}) as torn:
        # The clock more often than all else.
        faults = [*of(torn.faults, "clock") * 4, *of(torn.faults, "disk", "service", "machine")]
        await torture(torn, faults, seed=11, seconds=50)

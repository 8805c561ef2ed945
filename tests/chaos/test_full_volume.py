"""The journal is on a small volume that somebody else fills and frees, while the service is killed under load."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic

import httpx
import pytest

from persistence_service.torture.faults import Subject
from tests.chaos.rig import of, seconds_of, started, torture
from tests.e2e.outside import fill, mounted_volume

pytestmark = pytest.mark.slow

_PATIENCE_S = 30.0
_LONGEST_FULL_S = 2.0
_POLL_S = 0.05


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    with mounted_volume(tmp_path / "volume", 8) as folder:
        yield folder


class VolumeFilled:
    """A foreign file takes all the room, and goes again; `hits` is how often the service said that it has none."""

    name = "volume: filled and freed"

    def __init__(self, volume: Path, subject: Subject) -> None:
        self._volume = volume
        self._subject = subject
        self.hits = 0

    async def strike(self, random: Random) -> None:
        ballast = await asyncio.to_thread(fill, self._volume)
        try:
            self.hits += await self._is_felt()
            await asyncio.sleep(random.uniform(0, _LONGEST_FULL_S))
        finally:
            ballast.unlink()

    async def _is_felt(self) -> bool:
        ends_at = monotonic() + _PATIENCE_S
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as http:  # noqa: S501  # plain HTTP
            while (await http.get(f"{self._subject.url}/health")).json()["status"] != "unhealthy":
                if monotonic() > ends_at:
                    return False
                await asyncio.sleep(_POLL_S)
        return True


async def test_nothing_acknowledged_is_lost_when_the_journals_volume_is_full_again_and_again(
    volume: Path, tmp_path: Path
) -> None:
    settings = {"journal.directory": volume / "journal", "journal.min_free": 0, "journal.max_bytes": "64MiB"}
    async with asyncio.timeout(1500 + seconds_of(0)), started(tmp_path, settings) as torn:
        faults = [*[VolumeFilled(volume, torn.subject)] * 4, *of(torn.faults, "service")]
        await torture(torn, faults, seed=13, seconds=50)

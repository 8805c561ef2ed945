"""What a network does to the connections between a service and its database server."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from persistence_service.torture.faults import CouldNotRun, Fault
from persistence_service.torture.proxy import Cut, Proxy

_PATIENCE_S: Final = 6.0
"""How long a cut waits for somebody to commit."""
_LONGEST_S: Final = 2.0
_SILENCES_S: Final = (1.0, 2.0, 8.0)  # now and then longer than statements are waited for
_LONGEST_DELAY_S: Final = 0.25
_MOST_RESETS: Final = 5


def proxy_faults(proxy: Proxy) -> list[Fault]:
    """All of them. Each has `hits`: what it did in fact, which a strike with no connection there leaves as it was."""
    return [Delay(proxy), Resets(proxy), BlackHole(proxy), *(CutConnection(proxy, cut) for cut in Cut)]


class Delay:
    """Each answer takes its time."""

    name = "network: delay"

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    @property
    def hits(self) -> int:
        return self._proxy.done["delayed"]

    async def strike(self, random: Random) -> None:
        self._proxy.delay_s = random.uniform(0, _LONGEST_DELAY_S)
        try:
            await asyncio.sleep(random.uniform(0.1, _LONGEST_S))
        finally:
            self._proxy.delay_s = 0.0


class Resets:
    """All connections are reset, and the next ones too, some times."""

    name = "network: reset"

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    @property
    def hits(self) -> int:
        return self._proxy.done["reset"]

    async def strike(self, random: Random) -> None:
        for _ in range(random.randint(1, _MOST_RESETS)):
            self._proxy.reset()
            await asyncio.sleep(random.uniform(0, 0.3))


class BlackHole:
    """Nothing comes through, and nobody says so; a new connection gets no answer, or none is let in."""

    name = "network: black hole"

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    @property
    def hits(self) -> int:
        return self._proxy.done["swallowed"] + self._proxy.done["dropped"]

    async def strike(self, random: Random) -> None:
        self._proxy.fall_silent(drops_new=random.random() < 0.5)
        try:
            await asyncio.sleep(random.choice(_SILENCES_S) * random.uniform(0.2, 1))
        finally:
            self._proxy.speak_again()


class CutConnection:
    """The connection ends around a COMMIT."""

    def __init__(self, proxy: Proxy, cut: Cut) -> None:
        self.name = f"network: cut {cut.value}"
        self._proxy = proxy
        self._cut = cut

    @property
    def hits(self) -> int:
        return self._proxy.done[self._cut.value]

    async def strike(self, random: Random) -> None:
        await asyncio.sleep(random.uniform(0, 0.3))
        is_cut = await self._proxy.cut_next(self._cut, timeout_s=_PATIENCE_S)
        if not is_cut and self._proxy.is_encrypted:
            raise CouldNotRun(f"{self.name}: COMMIT can't be seen in TLS; set database.tls to disabled")

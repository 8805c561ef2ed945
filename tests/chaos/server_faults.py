"""What only the owner of a database server may do to it."""

import asyncio
from random import Random

from persistence_service.torture.faults import Fault
from tests.servers.server import Server

_LONGEST_AWAY_S = 1.0
_LONGEST_FROZEN_S = 4.0


def server_faults(server: Server) -> list[Fault]:
    """All of them. They leave the server running."""
    return [ServerKilled(server), ServerFrozen(server), ServerRestarted(server)]


class ServerKilled:
    """It gets no chance to write anything, and comes back after a while."""

    name = "server: SIGKILL"

    def __init__(self, server: Server) -> None:
        self._server = server

    async def strike(self, random: Random) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(random.uniform(0, _LONGEST_AWAY_S))
        await asyncio.to_thread(self._server.start)


class ServerFrozen:
    """Connections stay open, and nobody answers."""

    name = "server: SIGSTOP, SIGCONT"

    def __init__(self, server: Server) -> None:
        self._server = server

    async def strike(self, random: Random) -> None:
        self._server.freeze()
        try:
            await asyncio.sleep(random.uniform(0.1, _LONGEST_FROZEN_S))
        finally:
            self._server.thaw()


class ServerRestarted:
    """In good order."""

    name = "server: restart"

    def __init__(self, server: Server) -> None:
        self._server = server

    async def strike(self, random: Random) -> None:
        await asyncio.to_thread(self._server.stop)
        await asyncio.sleep(random.uniform(0, _LONGEST_AWAY_S))
        await asyncio.to_thread(self._server.start)

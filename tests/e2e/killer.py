"""`kill -9` at seeded places of a load, and in the middle of what goes on in the database."""

import asyncio
from random import Random
from typing import Any

from persistence_service.torture.ledger import Ledger
from tests.e2e.database import Database
from tests.e2e.service import ServiceProcess

_SEED = 20


class Killer:
    """Kills the service, starts it again, and counts."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self.kills = 0
        self.in_the_middle = 0

    async def kill(self, *, ready: bool = True) -> None:
        """`kill -9`, and start again."""
        await self._service.kill()
        await self._service.start(ready=ready)
        self.kills += 1

    async def kill_in_the_middle(
        self, database: Database, *, begun: str, left: str, asker: asyncio.Task[Any] | None = None
    ) -> None:
        """Kill it as soon as the SQL expression `begun` is true; `in_the_middle` if the number that is `left` then is not 0.

        That is not sure: on a machine that is busy all may be over before the kill. An `asker` asks no more after that.
        """
        await asyncio.to_thread(database.wait_until_true, begun)
        await self._service.kill()
        if asker is not None:
            asker.cancel()
        self.kills += 1
        self.in_the_middle += database.look(f"SELECT {left}") > [(0,)]
        await self._service.start()

    async def kill_amid(self, ledger: Ledger, batches: int, times: int) -> None:
        """Kill it at seeded places of the load that follows."""
        begun = ledger.batches_sent
        for place in sorted(Random(_SEED).sample(range(1, batches), times)):
            await ledger.reached(begun + place)
            await self.kill()

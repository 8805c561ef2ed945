"""The database is away under steady load: nobody is refused, memory stays bounded, all of it is seen, and all is stored after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.outages import Locked, Outage, Stopped
from tests.conftest import require_or_skip
from tests.e2e.caller import Caller
from tests.e2e.database import SqliteFile
from tests.e2e.outside import until
from tests.e2e.service import running_service
from tests.servers.fixtures import KINDS
from tests.servers.process import StartError
from tests.servers.run import ServerRun
from tests.servers.starting import start_private

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BATCH = 100
CLIENTS = 2
HANGS_S = 480.0  # an order of magnitude more than it takes
STORED_BEFORE = 10_000
SENT_IN_OUTAGE = 40_000
IN_MEMORY = 5_000
SEGMENT = 2 * MIB
SETTINGS: dict[str, object] = {
    "buffer.max_memory_records": IN_MEMORY,
    "buffer.flush_interval": 1,
    "journal.segment_bytes": SEGMENT,
    "journal.min_free": 0,
    "stats.refresh_interval": 1,
    "sqlite.busy_timeout": 0.1,
    "database.connect_timeout": 1,
}
# What a record that waits on disk takes in memory, beside those in memory and what an allocator keeps for itself.
WAITING_BYTES = 64
SLACK = 64 * MIB


@pytest.fixture(params=["sqlite", *KINDS])
def outage(request: pytest.FixtureRequest, server_run: ServerRun, tmp_path: Path) -> Iterator[Outage]:
    """Of each kind of database in turn, one that is nobody else's."""
    kind: str = request.param
    if kind == "sqlite":
        yield Locked(SqliteFile(tmp_path / "persistence.db"))
        return
    try:
        server = start_private(server_run, kind)
    except StartError as exc:
        require_or_skip(kind, str(exc))
    yield Stopped(server)
    server.kill()


@dataclass
class Load:
    """Clients that send one batch after the other; each must be acknowledged at its first attempt."""

    caller: Caller
    sent: int = 0
    stopping: bool = False
    running: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self) -> None:
        first, self.sent = self.sent, self.sent + BATCH
        tasks = [_task(number) for number in range(first, first + BATCH)]
        answer = await self.caller.post_once("/tasks/batch", {"tasks": tasks})
        assert answer.status_code == 200, answer.text

    async def send_until(self, sent: int) -> None:
        """So many in all."""
        while self.sent < sent:
            await self.send()

    def begin(self) -> None:
        """Go on until `end`."""
        self.running = [asyncio.create_task(self._go_on()) for _ in range(CLIENTS)]

    async def _go_on(self) -> None:
        while not self.stopping:
            await self.send()

    async def end(self) -> None:
        self.stopping = True
        await asyncio.gather(*self.running)

    def check(self) -> None:
        """Nobody was refused so far."""
        for task in self.running:
            if task.done():
                task.result()


@dataclass(frozen=True)
class Sight:
    """What the service shows of itself at a moment."""

    at_s: float
    health: Any
    stats: Any
    metrics: dict[str, float]

    @property
    def resident(self) -> int:
        found: int = self.stats["process"]["resident_bytes"]
        return found


async def look(caller: Caller) -> Sight:
    text = (await caller.get_once("/metrics")).text
    metrics = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }
    return Sight(monotonic(), await caller.health(), await caller.get("/stats"), metrics)


async def sights_of(caller: Caller, load: Load) -> AsyncIterator[Sight]:
    """The outage as it is seen, until enough waits and the estimate is that of the growth which was seen."""
    first = await look(caller)
    yield first
    while True:
        load.check()
        sight = await look(caller)
        yield sight
        if load.sent >= STORED_BEFORE + SENT_IN_OUTAGE and is_estimate_right(first, sight):
            return


def is_estimate_right(first: Sight, last: Sight) -> bool:
    """By a factor: the service may have looked at another part of the outage, in which the machine was slower or faster."""
    estimate_s: float | None = last.stats["buffer"]["journal_full_in_s"]
    grown: int = last.stats["buffer"]["journal_bytes"] - first.stats["buffer"]["journal_bytes"]
    if estimate_s is None or not grown:
        return False
    expected_s = (4 << 30) * (last.at_s - first.at_s) / grown
    return expected_s / 4 < estimate_s < 4 * expected_s


async def test_an_outage_costs_disk_alone_and_nobody_waits_or_is_refused(outage: Outage, tmp_path: Path) -> None:
    settings = outage.database.settings() | SETTINGS
    async with asyncio.timeout(HANGS_S), running_service(tmp_path, settings, measured=False) as service:
        async with Caller.to(service) as caller:
            await drill(caller, outage, tmp_path / "journal")
        assert await service.terminate() == 0


async def drill(caller: Caller, outage: Outage, journal: Path) -> None:
    await caller.post_once("/sessions/batch", {"sessions": [_SESSION]})
    load = Load(caller)
    await load.send_until(STORED_BEFORE)
    await caller.post("/flush")
    before = await look(caller)
    assert before.health["status"] == "healthy"

    await outage.begin()
    load.begin()
    try:
        await until(lambda: _is_degraded(caller), "the outage is seen")
        async with asyncio.timeout(HANGS_S / 2):
            sights = [sight async for sight in sights_of(caller, load)]
    finally:
        await load.end()
    during = await look(caller)
    check_sights(sights, during)

    await outage.end()
    await until(lambda: _is_healthy(caller), "the database is found again")
    await caller.post("/flush")
    await until(lambda: _has_disk_back(caller, journal), "the journal's space is given back")
    after = await look(caller)
    assert outage.database.stored_rows()["translation_tasks"] == (load.sent, load.sent)
    assert (after.stats["buffer"]["total_count"], after.metrics["persistence_oldest_unstored_seconds"]) == (0, 0)
    assert after.health["journal"]["losses"] == []
    check_memory(before, during, after)
    print(
        f"{outage.database.kind}: {load.sent} acknowledged and stored, {during.stats['buffer']['total_count']} waited; resident "
        f"{before.resident / MIB:.0f} MiB before, {max(s.resident for s in (*sights, during)) / MIB:.0f} during, "
        f"{after.resident / MIB:.0f} after; journal {during.health['journal']['bytes'] / MIB:.0f} MiB, then "
        f"{after.health['journal']['bytes'] / MIB:.1f}; full in {during.stats['buffer']['journal_full_in_s']} s"
    )


def check_sights(sights: list[Sight], during: Sight) -> None:
    """Age and size are seen everywhere, and grow; there is an estimate."""
    for sight in (*sights, during):
        assert (sight.health["status"], sight.health["database"]) == ("degraded", "unhealthy")
        assert sight.health["detail"]
    first = sights[0]
    for earlier, later in ((first, during), *pairwise(sights)):
        assert later.health["buffer"]["oldest_unstored_age_s"] > earlier.health["buffer"]["oldest_unstored_age_s"]
        assert (
            later.metrics["persistence_oldest_unstored_seconds"]
            > earlier.metrics["persistence_oldest_unstored_seconds"]
        )
        assert later.stats["buffer"]["journal_bytes"] >= earlier.stats["buffer"]["journal_bytes"]
        assert later.metrics["persistence_journal_bytes"] >= earlier.metrics["persistence_journal_bytes"]
    waiting = during.stats["buffer"]
    assert waiting["total_count"] >= SENT_IN_OUTAGE
    assert waiting["spilled_records"] >= waiting["total_count"] - IN_MEMORY - BATCH
    assert 0 < during.metrics["persistence_journal_full_in_seconds"] < inf


def check_memory(before: Sight, during: Sight, after: Sight) -> None:
    bound = before.resident + SLACK + WAITING_BYTES * during.stats["buffer"]["total_count"]
    assert during.stats["process"]["peak_resident_bytes"] <= bound
    assert after.stats["process"]["peak_resident_bytes"] <= bound + SLACK, "the drain may take some too"


async def _is_degraded(caller: Caller) -> bool:
    return bool((await caller.health())["status"] == "degraded")


async def _is_healthy(caller: Caller) -> bool:
    return bool((await caller.health())["status"] == "healthy")


async def _has_disk_back(caller: Caller, journal: Path) -> bool:
    told: int = (await caller.health())["journal"]["bytes"]
    return told <= 2 * SEGMENT and _on_disk(journal) <= 2 * SEGMENT


def _on_disk(journal: Path) -> int:
    return sum(file.stat().st_size for file in journal.glob("*.seg"))


_SESSION = {
    "session_id": "outage",
    "filename": "outage.xlsx",
    "file_path": "/in/outage.xlsx",
    "status": "processing",
    "llm_provider": "openai",
}


def _task(number: int) -> dict[str, object]:
    return {
        "task_id": f"{number:09}",
        "session_id": "outage",
        "batch_id": "b",
        "sheet_name": "Sheet1",
        "row_index": number,
        "column_name": "A",
        "source_text": "A potion that heals whoever drinks it, once a day, and never at night. " * 3,
        "target_text": "Ein Trank, der heilt, wer ihn trinkt, einmal am Tag, und niemals in der Nacht. " * 3,
        "status": "completed",
    }

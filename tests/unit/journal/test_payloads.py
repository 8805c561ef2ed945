"""Batches that another version journaled: those of earlier versions are always read, those of later ones never in part.

The journal in ``golden/1`` was written once, with this script, and is never written again; a change of what is kept gets a
journal of its own beside it::

    import asyncio, pathlib, msgspec
    from persistence_service.journal.journal import Journal
    from tests.unit.journal.test_payloads import AT_US, KEPT_SESSIONS, KEPT_TASKS

    async def write() -> None:
        folder = pathlib.Path("tests/unit/journal/golden/1")
        journal = await Journal.open(
            folder, max_bytes=2**30, min_free=0, segment_bytes=2**20, clock=lambda: AT_US
        )
        for kind, records in ((1, KEPT_SESSIONS), (2, KEPT_TASKS)):
            payload = msgspec.json.encode(records)
            await journal.append(kind, payload, items=2, accepted_at_us=AT_US, high_water_us=AT_US + 1)
        await journal.close()
        (folder / "lock").unlink()

    asyncio.run(write())
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.entries import Tickets
from persistence_service.buffer.intake import KIND_SESSIONS, KIND_TASKS, Intake
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.buffer.room import Room
from persistence_service.buffer.spill import SpillQueue
from persistence_service.journal import Journal
from persistence_service.journal.inspection import verify
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.testing.clocks import ManualTiming
from tests.unit.journal.bench import Bench, replay_all

GOLDEN = Path(__file__).parent / "golden" / "1"
AT_US = 1_769_860_804_250_000
AT = datetime(2026, 1, 31, 12, 0, 4, 250_000, UTC)
AFTER = datetime(2026, 1, 31, 12, 0, 4, 250_001, UTC)

KEPT_SESSIONS = [
    Session(
        session_id="s-1",
        filename="物品.xlsx",
        file_path="/srv/games/rpg/物品.xlsx",
        status=Status.PROCESSING,
        llm_provider="openai",
        processing_tasks=4,
        total_tasks=1200,
        completed_tasks=311,
        failed_tasks=2,
        game_info='{"source_lang":"en","target_lang":"zh"}',
        metadata='{"note":"\\"quoted\\"\\n"}',
        event_time=AT,
        digest=bytes(range(16)),
        game_info_time=AT,
        game_info_digest=b"\xff" * 16,
        metadata_time=AT,
        metadata_digest=b"\x00" * 16,
        created_at=AT,
        updated_at=AT,
    ),
    Session(
        session_id="s-2",
        filename="",
        file_path="/",
        status=Status.PENDING,
        llm_provider="x",
        processing_tasks=0,
        total_tasks=0,
        completed_tasks=0,
        failed_tasks=0,
        game_info=None,
        metadata=None,
        event_time=AFTER,
        digest=b"\x01" * 16,
        game_info_time=None,
        game_info_digest=None,
        metadata_time=None,
        metadata_digest=None,
        created_at=AFTER,
        updated_at=AFTER,
    ),
]
KEPT_TASKS = [
    Task(
        task_id="s-1:000042:zh",
        session_id="s-1",
        batch_id="items-0001",
        sheet_name="Items",
        row_index=42,
        column_name="zh",
        source_text="Potion of Healing 🧪",
        status=Status.COMPLETED,
        target_text="治疗药水",
        context="inventory",
        error_message="one\ttry failed",
        retry_count=1,
        duration_ms=840,
        confidence=0.97,
        start_time=AT,
        end_time=AFTER,
        event_time=AT,
        digest=bytes(range(16, 32)),
        created_at=AT,
        updated_at=AT,
    ),
    Task(
        task_id="t-2",
        session_id="s-2",
        batch_id="b",
        sheet_name="",
        row_index=0,
        column_name="",
        source_text="",
        status=Status.PENDING,
        target_text=None,
        context=None,
        error_message=None,
        retry_count=0,
        duration_ms=None,
        confidence=None,
        start_time=None,
        end_time=None,
        event_time=AFTER,
        digest=b"\x02" * 16,
        created_at=AFTER,
        updated_at=AFTER,
    ),
]


def intake(collection: Collection[Any], kind: int) -> Intake[Any]:
    """One as the service has it; nothing is merged into it here."""
    buffer = RecordBuffer(collection, lambda segment, items: None)
    room = Room([buffer], MemoryBounds())
    return Intake(buffer, kind, room=room, spill=SpillQueue(), tickets=Tickets(), timing=ManualTiming())


INTAKES = {KIND_SESSIONS: intake(SESSIONS, KIND_SESSIONS), KIND_TASKS: intake(TASKS, KIND_TASKS)}


async def test_a_journal_of_version_1_gives_the_records_that_were_kept(bench: Bench, tmp_path: Path) -> None:
    copy = shutil.copytree(GOLDEN, tmp_path / "golden")
    assert verify(copy) == ()
    journal: Journal = await bench.open(copy)
    found = await replay_all(journal)
    assert [(batch.kind, batch.items, batch.accepted_at_us) for batch in found] == [
        (KIND_SESSIONS, 2, AT_US),
        (KIND_TASKS, 2, AT_US),
    ]
    assert [INTAKES[batch.kind].decode(batch.payload) for batch in found] == [KEPT_SESSIONS, KEPT_TASKS]
    assert journal.high_water_us == AT_US + 1
    assert journal.stats().losses == ()


@pytest.mark.parametrize("kind,records", [(KIND_SESSIONS, KEPT_SESSIONS), (KIND_TASKS, KEPT_TASKS)])
def test_a_record_with_a_field_that_is_not_known_is_not_read_without_it(kind: int, records: list[Any]) -> None:
    later = msgspec.json.decode(msgspec.json.encode(records))
    assert INTAKES[kind].decode(msgspec.json.encode(later)) == records
    later[1]["glossary"] = "rpg"
    with pytest.raises(msgspec.ValidationError, match="glossary"):
        INTAKES[kind].decode(msgspec.json.encode(later))

"""One record that the database refuses, among a thousand: it alone becomes a dead letter, found in a few statements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from typing import Any

import pytest

from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.limits import Limits
from persistence_service.services.dead_letters import DeadLetterService, LetterFilter
from persistence_service.storage.collections import TASKS as TASK_RECORDS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.registry import StorageRegistry
from tests.integration.mysql.costs import every_text
from tests.integration.mysql.migrating import migrated
from tests.servers.server import Server
from tests.unit.buffer.harness import open_rig, session_request, task_request, until

COUNT = 1000
BAD = 617
RATE = 10
TASKS = "ALTER TABLE translation_tasks"
TRIGGER = (
    "CREATE TRIGGER refusing BEFORE INSERT ON translation_tasks FOR EACH ROW "
    "IF NEW.source_text = 'bad' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
)
SHEETS = (
    "CREATE TABLE sheets (name VARCHAR(255) PRIMARY KEY) CHARACTER SET utf8mb4 "
    "COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */"
)


@dataclass(frozen=True)
class Poison:
    """What makes the database refuse a task, what of the task it refuses, and what it says then, by the kind of server."""

    name: str
    changes: tuple[str, ...]
    values: dict[str, Any]
    numbers: dict[str, int]
    column: str | None = None
    everywhere: dict[str, Any] = field(default_factory=dict)


def alike(number: int) -> dict[str, int]:
    return {"mysql": number, "mariadb": number}


POISONS = (
    Poison(
        "too long",
        (f"{TASKS} MODIFY source_text VARCHAR(100) NOT NULL",),
        {"source_text": "x" * 101},
        alike(1406),
        "source_text",
    ),
    Poison(
        "blanks that would be cut off, of which servers only warn",
        (f"{TASKS} MODIFY source_text VARCHAR(100) NOT NULL",),
        {"source_text": "x" * 100 + " "},
        alike(1265),
        "source_text",
    ),
    Poison(
        "out of range",
        (f"{TASKS} MODIFY retry_count TINYINT NOT NULL",),
        {"retry_count": 128},
        alike(1264),
        "retry_count",
    ),
    Poison(
        "not in the column's character set",
        (f"{TASKS} MODIFY source_text MEDIUMTEXT CHARACTER SET latin1 NOT NULL",),
        {"source_text": "日本語"},
        alike(1366),
        "source_text",
    ),
    Poison(
        "missing",
        (f"{TASKS} MODIFY context MEDIUMTEXT NOT NULL",),
        {"context": None},
        alike(1048),
        "context",
        {"context": "there"},
    ),
    Poison(
        "forbidden by a check",
        (f"{TASKS} ADD CONSTRAINT no_bad_ones CHECK (source_text <> 'bad')",),
        {"source_text": "bad"},
        {"mysql": 3819, "mariadb": 4025},
    ),
    Poison(
        "refused by a trigger",
        (TRIGGER,),
        {"source_text": "bad"},
        alike(1644),
    ),
    Poison(
        "without a row of another table",
        (
            SHEETS,
            "INSERT INTO sheets VALUES ('known')",
            f"{TASKS} ADD CONSTRAINT of_sheet FOREIGN KEY (sheet_name) REFERENCES sheets (name)",
        ),
        {"sheet_name": "unknown"},
        alike(1452),
        None,
        {"sheet_name": "known"},
    ),
)


@pytest.fixture
async def database(database_server: Server) -> AsyncIterator[str]:
    """One whose tables the test may change."""
    database = database_server.new_database()
    await migrated(database_server.options(database))
    yield database
    database_server.drop(database)


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name.replace(" ", "_"))
async def test_one_poison_record_among_a_thousand_is_the_only_one_that_is_not_stored(
    database_server: Server, database: str, backend: MysqlBackend, tmp_path: Path, poison: Poison
) -> None:
    for change in poison.changes:
        database_server.sql(change, database)
    async with open_rig(tmp_path / "journal", inner=backend) as rig:
        await rig.buffer.accept_sessions([session_request("S")])
        await rig.buffer.flush()
        tasks = [
            task_request(f"T{number}", "S", **{**poison.everywhere, **(poison.values if number == BAD else {})})
            for number in range(COUNT)
        ]
        with every_text() as statements:
            await rig.buffer.accept_tasks(tasks)
            await rig.buffer.flush()
        stored = (await rig.stored())[1]
        [letter] = await rig.letters()
    assert len(stored) == COUNT - 1
    assert (letter.record_key, letter.reason) == (f"T{BAD}", DeadLetterReason.DATA_REJECTED)
    assert (letter.error_number, letter.error_column) == (poison.numbers[database_server.kind], poison.column)
    writes = [each for each in statements if each.startswith("INSERT INTO translation_tasks")]
    assert len(writes) <= 4 * log2(COUNT)
    assert len(statements) <= 10 * len(writes)


async def test_a_flood_of_refused_records_holds_no_good_one_up_and_becomes_few_letters(
    database_server: Server, database: str, backend: MysqlBackend, tmp_path: Path
) -> None:
    database_server.sql(TRIGGER, database)
    async with open_rig(tmp_path / "journal", inner=backend, max_dead_letters=RATE) as rig:
        await rig.buffer.accept_sessions([session_request("S"), session_request("other")])
        await rig.buffer.flush()
        bad = [task_request(f"B{number:05}", "S", source_text="bad") for number in range(COUNT)]
        good = [task_request(f"G{number}", session) for number, session in enumerate(("S", "other"))]
        with every_text() as statements:
            await rig.buffer.accept_tasks([*bad[:BAD], *good, *bad[BAD:]])
            await rig.buffer.flush()
        assert (await rig.stored())[1] == ["G0", "G1"]
        lettered = await rig.letters()
        assert len(lettered) == RATE
        assert rig.buffer.stats().set_aside == COUNT - RATE
        assert rig.buffer.stats().dead_lettering_stopped
        database_server.sql("DROP TRIGGER refusing", database)
        newer = [task_request(letter.record_key, "S", source_text="mended") for letter in lettered]
        await rig.buffer.accept_tasks(newer)
        await rig.pass_time(61)
        await rig.buffer.flush()
        await until(lambda: rig.buffer.stats().set_aside == 0, "all are stored")
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == COUNT + len(good)
        registry = StorageRegistry()
        registry.register("given", lambda: backend)
        registry.route_all("given", {})
        letters = DeadLetterService(
            registry=registry, files=rig.letter_files, timing=rig.timing, limits=Limits(), metrics=rig.metrics
        )
        assert (await letters.replay_all(LetterFilter())).replayed == RATE
        assert await rig.letters() == []
        replayed = await backend.read(TASK_RECORDS, [letter.record_key for letter in lettered])
        assert [task.source_text for task in replayed] == ["mended"] * RATE, "a letter is older than what came since"
    writes = [each for each in statements if each.startswith("INSERT INTO translation_tasks")]
    assert len(writes) <= 1.25 * COUNT + 100
    assert len(statements) <= 10 * len(writes)

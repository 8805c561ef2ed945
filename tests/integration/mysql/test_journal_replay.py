"""`persistence-service journal replay --to mysql` on real servers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from persistence_service.cli.app import app
from tests.integration.mysql.migrating import rows
from tests.servers.server import Server
from tests.unit.buffer.harness import open_rig, session_request, task_request, task_requests


async def left_behind(directory: Path) -> Path:
    """A session, its tasks, an update of one, a task without a session, and one with a text that is hard on databases."""
    async with open_rig(directory, start=False) as rig:
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await rig.buffer.accept_tasks([*task_requests(300), task_request("lonely", "nobody")])
        await rig.buffer.accept_sessions([session_request(game_info={"a": "ü"})])
        await rig.buffer.accept_tasks([task_request("T00000", source_text="'\\\"; 😀\u0000")])
        return await rig.crash()


def replay(journal: Path, server: Server, database: str) -> dict[str, Any]:
    options = [part for key, value in server.settings(database).items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, ["journal", "replay", str(journal), "--to", "mysql", "--json", *options])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


async def test_a_journal_is_stored_in_a_new_database_and_again_changes_nothing(
    database_server: Server, database: str, tmp_path: Path
) -> None:
    journal = await left_behind(tmp_path / "left")
    seen = []
    for _ in range(2):
        document = await asyncio.to_thread(replay, journal, database_server, database)
        assert (document["stored"], document["merged"], document["dead_lettered"]) == (301, 1, 1)
        seen.append([rows(database_server, database, f"translation_{kind}") for kind in ("sessions", "tasks")])
    assert seen[0] == seen[1]
    assert [len(table) for table in seen[0]] == [1, 300]
    assert len(rows(database_server, database, "dead_letters")) == 1

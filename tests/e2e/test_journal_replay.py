"""A journal that was left behind is brought to a running service."""

import asyncio
import json
import sys
from pathlib import Path

from persistence_service.client import PersistenceClient, SessionView
from tests.e2e.conftest import StartService
from tests.e2e.service import ROOT
from tests.unit.buffer.harness import open_rig, session_request, task_request, task_requests

_EARLY, _LATE = "2026-01-31T10:00:00.000000Z", "2026-01-31T10:00:01.000000Z"


async def left_behind(directory: Path) -> Path:
    """A session whose object is older than the rest of it, 2,500 tasks, and a late update."""
    async with open_rig(directory, start=False) as rig:
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await rig.buffer.accept_sessions([session_request(event_time=_EARLY, game_info={"a": [1, "ü"]})])
        await rig.buffer.accept_sessions([session_request(event_time=_LATE, completed_tasks=3)])
        await rig.buffer.accept_tasks(task_requests(2500))
        for moment, text in ((_LATE, "new"), (_EARLY, "late")):
            await rig.buffer.accept_tasks([task_request("U", event_time=moment, target_text=text, confidence=0.25)])
        return await rig.crash()


async def replay(journal: Path, url: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(await printed(journal, url, "--json"))
    return document


async def printed(journal: Path, url: str, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "main.py"), "journal", "replay", str(journal), "--to", url, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=journal.parent,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def as_object(session: SessionView) -> object:
    return json.loads(bytes(session.game_info))


async def test_a_service_takes_the_journal_of_another_one_with_its_event_times_and_again_changes_nothing(
    start_service: StartService, tmp_path: Path
) -> None:
    journal = await left_behind(tmp_path / "left")
    service = await start_service({})
    async with PersistenceClient(service.url) as client:
        seen = []
        for _ in range(2):
            document = await replay(journal, service.url)
            assert (document["acknowledged"], document["refused"], document["whole"]) == (2504, 0, True)
            assert document.keys().isdisjoint({"stored", "merged", "dropped", "dead_lettered"})
            await client.flush()
            session, task = await client.session("S"), await client.task("U")
            assert (session.completed_tasks, as_object(session)) == (3, {"a": [1, "ü"]})
            assert (task.target_text, task.confidence) == ("new", 0.25)
            seen.append([item.task_id async for item in client.tasks_of("S")])
        assert seen[0] == seen[1]
        assert len(seen[0]) == 2501


async def test_what_a_service_has_acknowledged_is_not_told_to_be_stored(
    start_service: StartService, tmp_path: Path
) -> None:
    journal = await left_behind(tmp_path / "left")
    service = await start_service({})
    await replay(journal, service.url)
    async with PersistenceClient(service.url) as client:
        await client.delete_session("S")
    summary = await printed(journal, service.url)

    assert f"{service.url}: 2504 records acknowledged by the service, 0 refused\n" in summary
    assert "stored" not in summary


async def test_a_session_whose_object_is_older_than_the_rest_keeps_the_objects_time(
    start_service: StartService, tmp_path: Path
) -> None:
    journal = await left_behind(tmp_path / "left")
    service = await start_service({})
    async with PersistenceClient(service.url) as client:
        await replay(journal, service.url)
        between = "2026-01-31T10:00:00.500000Z"
        await client.send_sessions([session_request(event_time=between, game_info={"b": 2})])
        assert as_object(await client.session("S")) == {"b": 2}

"""A damaged journal in the whole service: it starts, shows what is intact, and says in /health, metrics and log what is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from persistence_service.bootstrap import Services
from persistence_service.errors import StorageUnavailable, TaskNotFound
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.integration.conftest import Opener
from tests.unit.buffer.harness import session_request, task_request, until
from tests.unit.journal.kinds import flip, replace, swap

AWAY = StorageUnavailable("the server is gone", number=2006)
_TASKS = 10
_TEXT = "x" * 20_000  # so that three fill a segment


def away(backend: FaultyBackend) -> None:
    backend.go_away(AWAY)


@pytest.fixture
async def left(opener: Opener, tmp_path: Path) -> list[Path]:
    """The segments that a run without its database left: a session, and tasks, three in each."""
    async with opener(away) as (services, _):
        await services.buffer.accept_sessions([session_request()])
        for number in range(_TASKS):
            await services.buffer.accept_tasks([task_request(f"T{number}", source_text=_TEXT)])
    segments = sorted((tmp_path / "journal").glob("*.seg"))
    assert len(segments) >= 4
    return segments


async def shown(services: Services) -> list[str]:
    found = []
    for number in range(_TASKS):
        try:
            found.append((await services.query.task(f"T{number}")).task_id)
        except TaskNotFound:
            continue
    return found


KINDS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: flip(path, path.stat().st_size // 2),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "removed": Path.unlink,
    "garbage": lambda path: replace(path, b"garbage" * 1000),
    "a directory": lambda path: replace(path, None),
    "another segment": lambda path: shutil.copy(path.with_name(f"{int(path.stem) - 1:016d}.seg"), path),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_gone_is_told_at_every_start_and_all_else_is_there(
    opener: Opener, left: list[Path], kind: str
) -> None:
    KINDS[kind](left[2])
    with capture_logs() as events:
        async with opener() as (services, _):
            await until(lambda: not services.buffer.replaying)
            await services.buffer.flush()
            found = await shown(services)
            assert 0 < _TASKS - len(found) <= 3
            health = await services.health.report()
            assert (health.status, health.journal.losses != []) == ("degraded", True)
            assert "lost: 1 (records " in health.detail
            assert "persistence_journal_losses_total 1.0" in services.metrics.render().decode()
            await services.buffer.accept_tasks([task_request("new")])
    assert [event for event in events if event["event"] == "journal_loss"]
    async with opener() as (services, _):
        await until(lambda: not services.buffer.replaying)
        assert await shown(services) == found
        assert (await services.query.task("new")).task_id == "new"
        health = await services.health.report()
        assert health.status == "degraded", "until a person has seen to what is in the quarantine"
        assert "quarantine" in health.detail


async def test_swapped_names_cost_nothing(opener: Opener, left: list[Path]) -> None:
    swap(left[1], left[3])
    async with opener() as (services, _):
        await until(lambda: not services.buffer.replaying)
        await services.buffer.flush()
        assert len(await shown(services)) == _TASKS
        assert (await services.health.report()).status == "healthy"


@pytest.mark.parametrize("name", ["dead-letters", "shared", "head", "lock"])
async def test_garbage_in_the_place_of_a_side_file_stops_nothing(opener: Opener, left: list[Path], name: str) -> None:
    replace(left[0].with_name(name), b"garbage")
    async with opener() as (services, _):
        await until(lambda: not services.buffer.replaying)
        await services.buffer.flush()
        assert len(await shown(services)) == _TASKS
        await services.dead_letters.page(LetterFilter(), limit=10)

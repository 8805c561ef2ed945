"""A background task that ends by a mistake of ours: at once a log line, an unhealthy service, and no more batches."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from persistence_service.bootstrap import open_services
from persistence_service.buffer.flusher import Flusher
from persistence_service.buffer.replay import JournalReplay
from persistence_service.errors import ShuttingDown
from persistence_service.settings import Settings
from tests.unit.buffer.harness import session_request, until


async def _fail(_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("task, owner", [("flush", Flusher), ("replay", JournalReplay)])
async def test_a_background_task_that_dies_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, owner: type[Any]
) -> None:
    monkeypatch.setattr(owner, "run", _fail)
    settings = Settings.model_validate(
        {
            "storage": {"backend": "memory"},
            "journal": {"directory": tmp_path / "journal", "min_free": 0},
            "service": {"shutdown_timeout": 0.1},
        }
    )
    with capture_logs() as lines:
        async with open_services(settings) as services:
            await until(lambda: not services.buffer.accepting)
            assert [line["task"] for line in lines if line["event"] == "background_task.failed"] == [task]
            health = await services.health.report()
            assert health.status == "unhealthy"
            assert "ZeroDivisionError" in (health.detail or "")
            with pytest.raises(ShuttingDown, match="restart"):
                await services.buffer.accept_sessions([session_request()])

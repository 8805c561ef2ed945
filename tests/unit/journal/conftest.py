from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.unit.journal.bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "journal")
    yield made
    made.files.heal()
    for journal in made.opened:
        await journal.close()


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    """Everything that is logged during the test."""
    with capture_logs() as events:
        yield events

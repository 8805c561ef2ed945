"""Tasks that the database refuses for good: clients send them now and then, and a database of ours has a trigger for them."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Final

from persistence_service.storage.sqlite.connection import ConnectionSettings, SqliteConnection
from persistence_service.storage.sqlite.errors import translated
from persistence_service.storage.sqlite.file import DatabaseFile
from persistence_service.torture.faults import CouldNotRun
from persistence_service.torture.ledger import Record

POISON: Final = "no database takes this"
"""The source text of such a task; where no trigger is, it is a task like any other."""
_TRIGGER: Final = (
    f"CREATE TRIGGER poison BEFORE INSERT ON translation_tasks WHEN NEW.source_text = '{POISON}' "
    "BEGIN SELECT RAISE(ABORT, 'poison'); END"
)
_PATIENCE_S: Final = 30.0


def is_poison(task: Record) -> bool:
    """Whether it is one that is refused."""
    return task["source_text"] == POISON


async def refuse_poison(path: Path) -> None:
    """The embedded database refuses it from now on.

    Raises:
        CouldNotRun: the trigger can't be made.
    """

    def make() -> None:
        settings = ConnectionSettings(DatabaseFile(path), _PATIENCE_S, cache_kib=100, read_only=False)
        try:
            with closing(SqliteConnection(settings)) as connection:
                connection.driver.execute(_TRIGGER)
        except Exception as exc:
            error = translated(exc)
            if error is None:
                raise
            raise CouldNotRun(f"no trigger for poison: {error}") from exc

    await asyncio.to_thread(make)

"""What the service is compared with: the plain design that most would write first.

A list in memory, an acknowledgement as soon as a batch is in it, and the request that fills it up to 1,000 tasks writes
them to SQLite and waits for that. No journal: what is in the list is lost with the process. The route, its models and
its answer are FastAPI's own; database, file mode and indexes are those of the service.

    python benchmarks/simple_design.py DATABASE_FILE
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

FLUSH_AT = 1_000
_COLUMNS = [
    "task_id",
    "session_id",
    "batch_id",
    "sheet_name",
    "row_index",
    "column_name",
    "source_text",
    "target_text",
    "context",
    "status",
    "confidence",
    "error_message",
    "retry_count",
    "start_time",
    "end_time",
    "duration_ms",
    "created_at",
    "updated_at",
]
_UPSERT = (
    f"INSERT INTO translation_tasks ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)}) "
    "ON CONFLICT (task_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("task_id", "created_at"))
)
_SCHEMA = """
    CREATE TABLE translation_tasks (
        task_id TEXT NOT NULL PRIMARY KEY, session_id TEXT NOT NULL, batch_id TEXT NOT NULL, sheet_name TEXT NOT NULL,
        row_index INTEGER NOT NULL, column_name TEXT NOT NULL, source_text TEXT NOT NULL, target_text TEXT, context TEXT,
        status TEXT NOT NULL, confidence REAL, error_message TEXT, retry_count INTEGER NOT NULL, start_time TEXT,
        end_time TEXT, duration_ms INTEGER, created_at TEXT NOT NULL, updated_at TEXT NOT NULL
    ) STRICT;
    CREATE INDEX by_position ON translation_tasks (session_id, sheet_name, row_index, column_name, task_id);
    CREATE INDEX by_status ON translation_tasks (session_id, status, updated_at);
    CREATE INDEX by_batch ON translation_tasks (batch_id, created_at, task_id);
    CREATE INDEX by_creation ON translation_tasks (created_at, task_id);
    CREATE INDEX by_change ON translation_tasks (updated_at, task_id);
"""


class TaskIn(BaseModel):
    """One task of a request."""

    task_id: str = Field(min_length=1, max_length=64)
    session_id: str = Field(min_length=1, max_length=36)
    batch_id: str = Field(min_length=1, max_length=64)
    sheet_name: str = Field(max_length=255)
    row_index: int = Field(ge=0)
    column_name: str = Field(max_length=255)
    source_text: str
    target_text: str | None = None
    context: str | None = None
    status: str
    confidence: float | None = Field(None, ge=0, le=1)
    error_message: str | None = None
    retry_count: int = Field(0, ge=0)
    start_time: datetime | None = None
    end_time: datetime | None = None
    duration_ms: int | None = Field(None, ge=0)


class TaskBatch(BaseModel):
    """The body of a batch."""

    tasks: list[TaskIn]


class Accepted(BaseModel):
    """The answer to a batch."""

    status: str
    count: int
    timestamp: datetime


def create_app(path: str) -> FastAPI:
    """The application on the database at `path`, which must not exist yet."""
    database = sqlite3.connect(path, check_same_thread=False)
    buffered: list[dict[str, Any]] = []
    writing = asyncio.Lock()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SCHEMA)
        yield
        database.close()

    def write(rows: list[dict[str, Any]]) -> None:
        with database:
            database.executemany(_UPSERT, rows)

    async def flush() -> None:
        async with writing:
            rows = buffered.copy()
            buffered.clear()
            if rows:
                await asyncio.to_thread(write, rows)

    app = FastAPI(lifespan=lifespan)

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/api/v1/translation/sessions/batch")
    async def keep_sessions(batch: dict[str, Any]) -> Accepted:
        return Accepted(status="accepted", count=len(batch["sessions"]), timestamp=datetime.now(UTC))

    @app.post("/api/v1/translation/tasks/batch")
    async def keep_tasks(batch: TaskBatch) -> Accepted:
        now = datetime.now(UTC)
        stamp = now.isoformat()
        for task in batch.tasks:
            row = task.model_dump()
            for name in ("start_time", "end_time"):
                row[name] = row[name].isoformat() if row[name] else None
            buffered.append(row | {"created_at": stamp, "updated_at": stamp})
        if len(buffered) >= FLUSH_AT:
            await flush()
        return Accepted(status="accepted", count=len(batch.tasks), timestamp=now)

    @app.post("/api/v1/translation/flush")
    async def flush_all() -> dict[str, str]:
        await flush()
        return {"status": "flushed"}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=0, access_log=False)

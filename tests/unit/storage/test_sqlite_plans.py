"""The API's queries are served by indexes, without sorting, whatever the size of the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects.sqlite import dialect

from persistence_service.models.status import UNFINISHED, Status
from persistence_service.storage.collections import ALL_COLLECTIONS, LAST_ACTIVITY, SESSIONS, TASKS
from persistence_service.storage.query import (
    COUNT,
    Aggregate,
    AnyOf,
    Between,
    Equals,
    HasChild,
    Measurement,
    OneOf,
    Query,
    Sort,
)
from persistence_service.storage.sql.tables import Schema
from persistence_service.storage.sqlite import SqliteBackend
from persistence_service.storage.sqlite.operations import SqliteTranslator
from persistence_service.testing.samples import at

WITHIN_ONE_MOMENT = "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"
POSITION = (Sort("sheet_name"), Sort("row_index"), Sort("column_name"))
SESSION = Equals("session_id", "s")
BATCH = Equals("batch_id", "b")
TRANSLATE = SqliteTranslator(Schema(ALL_COLLECTIONS))


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "test.db"
    backend = SqliteBackend(path)
    await backend.open()
    await backend.migrate()
    yield path
    await backend.close()


def plan(path: Path, statement: Select[tuple[object, ...]]) -> list[str]:
    compiled = statement.compile(dialect=dialect(), compile_kwargs={"render_postcompile": True})
    parameters = ["any value"] * len(compiled.construct_params())  # a plan does not depend on them
    with closing(sqlite3.connect(path)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {compiled}", parameters)]


def by(field: str, *, descending: bool = True) -> tuple[Sort]:
    return (Sort(field, descending),)


@pytest.mark.parametrize(
    "query, index",
    [
        (Query([SESSION], POSITION), "ix_tasks_position (session_id=?)"),
        (
            Query([SESSION], POSITION, after=("A", 1, "x", "t")),
            "ix_tasks_position (session_id=? AND (sheet_name,row_index,column_name,task_id)>(?,?,?,?))",
        ),
        (Query([SESSION, Equals("sheet_name", "A")], POSITION), "ix_tasks_position (session_id=? AND sheet_name=?)"),
        (
            Query([SESSION, Equals("sheet_name", "A")], POSITION, after=("A", 1, "x", "t")),
            "ix_tasks_position (session_id=? AND sheet_name=? AND (row_index,column_name,task_id)>(?,?,?))",
        ),
        (
            Query([SESSION], tuple(Sort(term.field, descending=True) for term in POSITION)),
            "ix_tasks_position (session_id=?)",
        ),
        (Query([BATCH], by("created_at")), "ix_tasks_batch (batch_id=?)"),
        (
            Query([BATCH], by("created_at"), after=(at(0), "t")),
            "ix_tasks_batch (batch_id=? AND (created_at,task_id)<(?,?))",
        ),
        (Query([], by("created_at")), "ix_tasks_created"),
        (Query([], by("created_at", descending=False)), "ix_tasks_created"),
        (Query([], by("created_at"), after=(at(0), "t")), "ix_tasks_created ((created_at,task_id)<(?,?))"),
        (
            Query([Between("created_at", at(0), at(1))], by("created_at")),
            "ix_tasks_created (created_at>? AND created_at<?)",
        ),
        (Query([], by("updated_at")), "ix_tasks_updated"),
        (Query([], by("updated_at"), after=(at(0), "t")), "ix_tasks_updated ((updated_at,task_id)<(?,?))"),
        (Query([], by("task_id")), "sqlite_autoindex_translation_tasks_1"),
        (Query([], by("task_id"), after=("t",)), "sqlite_autoindex_translation_tasks_1 (task_id<?)"),
        (Query([SESSION, Equals("status", Status.FAILED)], by("updated_at")), "ix_tasks_status"),
    ],
    ids=repr,
)
async def test_a_page_of_tasks_is_a_range_of_one_index(path: Path, query: Query, index: str) -> None:
    (step, *more) = plan(path, TRANSLATE.page(TASKS, TASKS.fields, query))
    assert f"INDEX {index}" in step
    assert [line for line in more if "TEMP B-TREE FOR" in line and line != WITHIN_ONE_MOMENT] == []


async def test_the_default_list_of_sessions_is_a_range_of_an_index(path: Path) -> None:
    assert plan(path, TRANSLATE.page(SESSIONS, SESSIONS.fields, Query([], by("created_at")))) == [
        "SCAN translation_sessions USING INDEX ix_sessions_created"
    ]


@pytest.mark.parametrize("count", [1, 3, 1000])
async def test_records_are_read_by_the_index_of_their_key(path: Path, count: int) -> None:
    keys = [f"task-{number}" for number in range(count)]
    assert "INDEX sqlite_autoindex_translation_tasks_1 (task_id=?)" in plan(path, TRANSLATE.by_keys(TASKS, keys))[0]


async def test_keys_alone_are_read_from_an_index_alone(path: Path) -> None:
    query = Query([Between("created_at", None, at(0))], by("created_at", descending=False))
    assert plan(path, TRANSLATE.page(TASKS, ["task_id"], query)) == [
        "SEARCH translation_tasks USING COVERING INDEX ix_tasks_created (created_at<?)"
    ]


async def test_progress_reads_an_index_alone(path: Path) -> None:
    statement = TRANSLATE.aggregate(TASKS, ["status"], [COUNT], [SESSION])
    assert plan(path, statement) == ["SEARCH translation_tasks USING COVERING INDEX ix_tasks_status (session_id=?)"]


async def test_unfinished_sessions_are_found_by_one_look_at_an_index_each(path: Path) -> None:
    unfinished = AnyOf([OneOf("status", UNFINISHED), HasChild(TASKS, [OneOf("status", UNFINISHED)])])
    steps = plan(path, TRANSLATE.page(SESSIONS, SESSIONS.fields, Query([unfinished])))
    assert "SEARCH translation_tasks USING COVERING INDEX ix_tasks_status (session_id=? AND status=?)" in steps


@pytest.mark.parametrize("fields", [SESSIONS.fields, (*SESSIONS.fields, LAST_ACTIVITY)], ids=["ordered", "given too"])
async def test_the_last_activity_is_a_few_looks_at_an_index_a_session(path: Path, fields: tuple[str, ...]) -> None:
    steps = plan(path, TRANSLATE.page(SESSIONS, fields, Query([], by(LAST_ACTIVITY))))
    assert [step for step in steps if step.startswith("SCAN")] == ["SCAN translation_sessions"]
    looks = [step for step in steps if step.startswith("SEARCH translation_tasks")]
    assert set(looks) == {"SEARCH translation_tasks USING COVERING INDEX ix_tasks_status (session_id=? AND status=?)"}
    assert len(looks) == len(Status)


async def test_the_tasks_of_a_deleted_session_are_found_by_index(path: Path) -> None:
    statement = TRANSLATE.keys(TASKS, [OneOf("session_id", ["a", "b"])])
    assert "(session_id=?)" in plan(path, statement)[0]


@pytest.mark.parametrize("count", [2, 100])
async def test_a_list_of_keys_is_looked_up_whatever_else_is_asked_of_them(path: Path, count: int) -> None:
    keys = OneOf("task_id", [f"task-{number}" for number in range(count)])
    statement = TRANSLATE.keys(
        TASKS, [keys, SESSION, Equals("status", Status.FAILED), Between("event_time", None, at(0))]
    )
    assert plan(path, statement)[0].endswith("INDEX sqlite_autoindex_translation_tasks_1 (task_id=?)")


async def test_statistics_read_an_index_alone_without_sorting(path: Path) -> None:
    figures = [COUNT, Measurement(Aggregate.MEAN, "duration_ms"), Measurement(Aggregate.COUNT, "confidence")]
    statement = TRANSLATE.aggregate(TASKS, ["session_id", "status"], figures, [Between("session_id", "a", "b")])
    assert plan(path, statement) == [
        "SEARCH translation_tasks USING COVERING INDEX ix_tasks_status (session_id>? AND session_id<?)"
    ]

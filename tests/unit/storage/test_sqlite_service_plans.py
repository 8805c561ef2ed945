"""Every statement that the services issue is served by indexes: recorded while the whole API is called in all ways there are.

A call that is not made here, a parameter without a value here, and a step of a plan that is not permitted here each fail.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Executable
from sqlalchemy.dialects.sqlite import dialect

from persistence_service.settings import Settings
from persistence_service.storage.sql.tables import INDEXES
from persistence_service.storage.sqlite.connection import SqliteConnection
from tests.conftest import unmeasured
from tests.service_calls import BASE, Calls, make_every_call


@dataclass
class Recorded(Calls):
    """The statements that were issued, each with its plan and with the calls during which it was."""

    plans: dict[str, list[str]] = field(default_factory=dict)
    calls: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, connection: SqliteConnection, statement: Executable) -> None:
        compiled = statement.compile(dialect=dialect(), compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]  # every statement of ours has it
        sql = re.sub(r"IN \(\?(, \?)*\)", "IN (?, ?)", str(compiled))
        self.calls[sql].add(self.now)
        if sql not in self.plans:
            unknown = ["x"] * sql.count("?")  # a plan does not depend on the values
            steps = connection.driver.execute(f"EXPLAIN QUERY PLAN {sql}", unknown)
            self.plans[sql] = [step[3] for step in steps]


def _settings(path: Path) -> Settings:
    return Settings.model_validate(
        {
            "journal": {"directory": path / "journal", "min_free": 0},
            "sqlite": {"path": path / "test.db", "readers": 1},
            "stats": {"refresh_interval": "100ms"},
        }
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    recorded = Recorded()

    def recording(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(connection: SqliteConnection, statement: Executable) -> Any:  # noqa: ANN401  # what the method gives
            recorded.note(connection, statement)
            return method(connection, statement)

        return run

    with unmeasured(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteConnection, "rows", recording(SqliteConnection.rows))
        patch.setattr(SqliteConnection, "changed", recording(SqliteConnection.changed))
        asyncio.run(make_every_call(_settings(tmp_path_factory.mktemp("plans")), recorded))
    return recorded


# Steps of plans, each with what it may cost.
ONE_READ = (
    r"SEARCH \w+ USING (COVERING )?INDEX sqlite_autoindex_\w+_1 \(\w+=\?\)",  # by key
    r"SEARCH translation_tasks USING (COVERING )?INDEX ix_tasks_\w+ \((session_id|batch_id)=\?.*\)",  # of one session or batch
    r"SEARCH \w+ USING (COVERING )?INDEX ix_letters?_\w+ \(\w+=\?.*\)",
    r"SEARCH deleted_sessions USING INDEX ix_deleted_removed \(removed_at=\?.*\)",
)
RANGE = (
    r"SEARCH translation_tasks USING (COVERING )?INDEX \w+ \((\(?created_at|\(?updated_at|task_id)[,\w]*\)?[<>].*\)",
    r"SEARCH translation_tasks USING COVERING INDEX ix_tasks_\w+ \(session_id>\? AND session_id<\?\)",  # statistics
    r"SEARCH dead_letters USING INDEX ix_letters_created \((\(created_at,letter_id\)[<>]\(\?,\?\)|created_at<\?)\)",
)
WALK = (
    r"SCAN translation_tasks USING INDEX (ix_tasks_created|ix_tasks_updated|sqlite_autoindex_translation_tasks_1)",
    r"SCAN dead_letters USING (COVERING )?INDEX ix_letters_created",
)
# In the background, by the index alone: the dead letters of each reason are counted for the metrics.
CENSUS = (r"SCAN dead_letters USING COVERING INDEX ix_letters_reason",)
COUNT_WALK = (r"SCAN (translation_tasks|dead_letters)( USING COVERING INDEX \w+)?",)
SMALL = (r"(SCAN|SEARCH) translation_sessions.*",)  # a workbook each: this table may be read and sorted
SORT = (r"USE TEMP B-TREE FOR .*",)
# Two dates of creation and another order: a day's tasks are sorted; were the order walked, all tasks would be read for them.
DATES = r"SEARCH translation_tasks USING INDEX ix_tasks_created \(created_at>\? AND created_at<\?\)"
GLUE = (
    r"CO-ROUTINE .+",
    r"SCAN (anon_1( VIRTUAL TABLE INDEX \d+:)?|\(subquery-\d+\)|CONSTANT ROW)",
    r"CORRELATED SCALAR SUBQUERY \d+",
    r"LIST SUBQUERY \d+",
)


def matches(step: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, step) for pattern in patterns)


def costs_too_much(sql: str, plan: list[str]) -> str:
    """Why the statement may read more than a page, a session, a batch or the table of sessions; empty if it may not."""
    bounded = " LIMIT " in sql.replace("\n", " ")
    counting = re.match(r"SELECT count\(\*\)", sql) is not None
    sorted_steps = [step for step in plan if matches(step, SORT)]
    small = any(matches(step, (*ONE_READ, *SMALL, DATES)) for step in plan)
    for step in plan:
        if matches(step, (*ONE_READ, *SMALL, *GLUE, *SORT)):
            continue
        if matches(step, CENSUS) and "GROUP BY" in sql:
            continue
        if not bounded and not matches(step, RANGE):
            return f"nothing bounds {step!r}"
        if not matches(step, (*RANGE, *WALK, *(COUNT_WALK if counting else ()))):
            return f"{step!r} is not permitted"
    return f"it sorts more than a session: {sorted_steps}" if sorted_steps and not small else ""


def test_every_call_of_the_api_is_made_here(recorded: Recorded) -> None:
    assert recorded.called == recorded.routes


def test_every_statement_reads_about_what_it_gives(recorded: Recorded) -> None:
    costly = {sql: why for sql, plan in recorded.plans.items() if (why := costs_too_much(sql, plan))}
    assert {(why, min(recorded.calls[sql])): recorded.plans[sql] for sql, why in costly.items()} == {}


@pytest.mark.parametrize(
    "path, sort", [("/sessions/{session_id}/tasks", "position"), ("/tasks", "created_at")], ids=["session", "all"]
)
def test_the_default_orders_of_tasks_are_never_sorted(recorded: Recorded, path: str, sort: str) -> None:
    plans = [
        plan
        for sql, plan in recorded.plans.items()
        for call in recorded.calls[sql]
        if call.startswith(f"GET {BASE}{path} ") and f"'sort_by': '{sort}'" in call
        if path != "/tasks" or "'session_id'" not in call
    ]
    assert plans
    assert [plan for plan in plans if any(matches(step, SORT) for step in plan)] == []


def test_every_index_is_needed_by_a_statement(recorded: Recorded) -> None:
    steps = " ".join(step for plan in recorded.plans.values() for step in plan)
    assert {name for indexes in INDEXES.values() for name in indexes} - set(
        re.findall(r"INDEX (ix_\w+)", steps)
    ) == set()


def test_nothing_is_permitted_that_does_not_occur(recorded: Recorded) -> None:
    steps = {step for plan in recorded.plans.values() for step in plan}
    permitted = (*ONE_READ, *RANGE, *WALK, *CENSUS, *COUNT_WALK, *SMALL, *SORT, *GLUE)
    assert [pattern for pattern in permitted if not any(re.fullmatch(pattern, step) for step in steps)] == []

"""What a statement costs a server, by the server's own counters, and the plan that it has for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from persistence_service.storage.mysql.connection import Answer, MysqlConnection

_COUNTERS = "SHOW SESSION STATUS WHERE variable_name LIKE 'Handler_read%' OR variable_name = 'Sort_rows'"
_COUNTED = re.compile(r"SELECT|SET STATEMENT|DELETE|INSERT")
_COLUMNS_OF_MARIADB = 10  # of EXPLAIN; MySQL has partitions and filtered too
_run = MysqlConnection.run


@dataclass(frozen=True)
class Cost:
    """How many rows of tables and indexes a statement read, how many it sorted, and how many it gave or changed."""

    read: int
    sorted: int
    given: int


@dataclass(frozen=True)
class Step:
    """A line of EXPLAIN: how a table is read."""

    table: str | None
    kind: str | None
    index: str | None
    extra: str


Listener = Callable[[MysqlConnection, str, Cost], Coroutine[Any, Any, None]]
Chooser = Callable[[str], bool]


@contextmanager
def every_statement(listener: Listener, is_wanted: Chooser = lambda _: True) -> Iterator[None]:
    """Call `listener` after each statement that reads or changes rows and `is_wanted`, wherever it is run."""

    async def run(connection: MysqlConnection, statement: str | bytes, *, limit_s: float | None = None) -> Answer:
        text = statement.decode() if isinstance(statement, bytes) else statement
        if not _COUNTED.match(text) or not is_wanted(text):
            return await _run(connection, statement, limit_s=limit_s)
        # To look at the counters costs something too, always the same.
        first, before = await _counters(connection), await _counters(connection)
        answer = await _run(connection, statement, limit_s=limit_s)
        after = await _counters(connection)
        read, in_order = (after[place] - 2 * before[place] + first[place] for place in (0, 1))
        await listener(connection, text, Cost(read, in_order, len(answer.rows) or answer.affected))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MysqlConnection, "run", run)
        yield


@contextmanager
def every_cost() -> Iterator[list[Cost]]:
    """What the statements cost, in their order."""
    costs: list[Cost] = []

    async def note(_: MysqlConnection, __: str, cost: Cost) -> None:
        costs.append(cost)

    with every_statement(note):
        yield costs


@contextmanager
def every_text() -> Iterator[list[str]]:
    """The statements of all connections, those that begin and end transactions too, in their order."""
    texts: list[str] = []

    async def run(connection: MysqlConnection, statement: str | bytes, *, limit_s: float | None = None) -> Answer:
        texts.append(statement.decode() if isinstance(statement, bytes) else statement)
        return await _run(connection, statement, limit_s=limit_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MysqlConnection, "run", run)
        yield texts


async def plan_of(connection: MysqlConnection, statement: str) -> list[Step]:
    """How the server would do it."""
    explained = re.sub(r"^SET STATEMENT .*? FOR ", "", statement)
    rows = (await _run(connection, f"EXPLAIN FORMAT=TRADITIONAL {explained}")).rows
    more = [len(row) > _COLUMNS_OF_MARIADB for row in rows]
    return [Step(row[2], row[3 + has], row[5 + has], row[-1] or "") for row, has in zip(rows, more, strict=True)]


def without_values(statement: str) -> str:
    """The form of a statement: with a question mark for each value."""
    form = re.sub(r"x'[0-9a-f]*'|'(?:[^'\\]|\\.)*'|\b\d+(\.\d+)?(e\d+)?\b", "?", statement)
    form = re.sub(r"IN \(\?(, \?)*\)", "IN (?)", form)
    form = re.sub(r"VALUES \(\?.*?\)( AS incoming)? ON DUPLICATE", "VALUES (?) ON DUPLICATE", form, flags=re.DOTALL)
    return re.sub(r"\s+", " ", form)


async def _counters(connection: MysqlConnection) -> tuple[int, int]:
    values = {name: int(value) for name, value in (await _run(connection, _COUNTERS)).rows}
    sorted_rows = values.pop("Sort_rows")
    return sum(values.values()), sorted_rows

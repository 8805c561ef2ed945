"""Values reach the server as they are, under every SQL mode, and escaping a whole column at once is what the driver does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Integer, LargeBinary, Text

from persistence_service.errors import DataRejected
from persistence_service.storage.collections import ALL_COLLECTIONS, SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.literals import column_literals, escape_for, literal
from persistence_service.storage.mysql.operations import Operations
from persistence_service.storage.mysql.queries import Queries
from persistence_service.storage.mysql.schema import MysqlSchema
from persistence_service.storage.sql.types import FiniteFloat, UtcTime
from persistence_service.testing.samples import DISTINCT_IDS, HOSTILE_TEXTS, session_record, task_record
from tests.servers.server import Server

SAMPLES = [*DISTINCT_IDS, *HOSTILE_TEXTS]

# Each that bears on how a text is read, alone, and the collections of modes that other databases' users set.
EVERYWHERE = (
    "",
    "ANSI_QUOTES",
    "NO_BACKSLASH_ESCAPES",
    "PAD_CHAR_TO_FULL_LENGTH",
    "ANSI",
    "TRADITIONAL",
    "NO_BACKSLASH_ESCAPES,ANSI_QUOTES",
    "NO_BACKSLASH_ESCAPES,ANSI,PAD_CHAR_TO_FULL_LENGTH",
)
MODES = {
    "mysql": EVERYWHERE,
    "mariadb": (*EVERYWHERE, "ORACLE", "POSTGRESQL", "MSSQL", "DB2", "MAXDB", "EMPTY_STRING_IS_NULL"),
}

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
special_text = st.text(st.sampled_from("\\\\''\"\0\n\r\x1a\x1e\x1fnZ0%_;-#é\u3000😀"), max_size=20)
texts = st.lists(st.none() | any_text | special_text, min_size=1, max_size=5)
law = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@pytest.fixture
async def connections(database_server: Server, database: str) -> AsyncIterator[dict[str, MysqlConnection]]:
    """A connection in each mode."""
    options = database_server.options(database)
    opened = {}
    for mode in MODES[database_server.kind]:
        opened[mode] = await MysqlConnection.open(options, options.addresses[0])
        await opened[mode].run(f"SET sql_mode='{mode}'")
    yield opened
    for connection in opened.values():
        await connection.close()


@given(values=texts)
@example(values=[*SAMPLES])
@example(values=["".join(SAMPLES), None, *SAMPLES])
@law
async def test_texts_are_escaped_as_the_driver_does_it(
    connections: dict[str, MysqlConnection], values: list[str | None]
) -> None:
    for connection in connections.values():
        escape = escape_for(connection)
        expected = ["NULL" if value is None else f"'{connection.escape_text(value)}'" for value in values]
        assert column_literals(Text())(values, escape) == expected
        assert [literal(value, escape) for value in values] == expected


@given(values=texts)
@example(values=[*SAMPLES])
@law
async def test_texts_arrive_as_they_are_in_every_mode(
    connections: dict[str, MysqlConnection], values: list[str | None]
) -> None:
    for mode, connection in connections.items():
        written = column_literals(Text())(values, escape_for(connection))
        (arrived,) = (await connection.run(f"SELECT {', '.join(written)}")).rows
        expected = [value or None for value in values] if mode == "EMPTY_STRING_IS_NULL" else values
        assert list(arrived) == expected


@given(values=st.lists(st.none() | st.binary(max_size=50), min_size=1, max_size=5))
@law
async def test_bytes_arrive_as_they_are_in_every_mode(
    connections: dict[str, MysqlConnection], values: list[bytes | None]
) -> None:
    for connection in connections.values():
        escape = escape_for(connection)
        written = [*column_literals(LargeBinary())(values, escape), *(literal(value, escape) for value in values)]
        (arrived,) = (await connection.run(f"SELECT {', '.join(written)}")).rows
        assert list(arrived) == [*values, *values]


@given(values=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
@law
async def test_numbers_arrive_as_they_are_in_every_mode(
    connections: dict[str, MysqlConnection], values: list[float | None]
) -> None:
    for connection in connections.values():
        escape = escape_for(connection)
        written = [*column_literals(FiniteFloat())(values, escape), *(literal(value, escape) for value in values)]
        (arrived,) = (await connection.run(f"SELECT {', '.join(written)}")).rows
        assert list(arrived) == [*values, *values]


_zones = st.sampled_from((UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-9, minutes=-30))))
_times = st.datetimes(datetime(1000, 1, 3), datetime(9999, 12, 29), timezones=_zones)  # noqa: DTZ001  # the zone is drawn


@given(values=st.lists(st.none() | _times, max_size=4))
@law
def test_times_are_written_in_utc_whatever_their_zone(values: list[datetime | None]) -> None:
    def parsed(written: str) -> datetime | None:
        return None if written == "NULL" else datetime.fromisoformat(written.strip("'") + "+00:00")

    written = column_literals(UtcTime())(values, str)
    assert [parsed(each) for each in written] == values
    assert [parsed(literal(value, str)) for value in values] == values


@given(values=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4))
@law
def test_whole_numbers_are_written_as_they_are(values: list[int | None]) -> None:
    assert [None if each == "NULL" else int(each) for each in column_literals(Integer())(values, str)] == values


@pytest.mark.parametrize(
    "column, value", [(Integer(), 2**63), (Integer(), -(2**63) - 1), (FiniteFloat(), float("nan"))], ids=str
)
def test_numbers_that_no_column_can_hold_are_rejected(column: Any, value: float) -> None:  # noqa: ANN401  # types of columns
    with pytest.raises(DataRejected):
        column_literals(column)([None, value], str)


async def test_records_are_written_and_read_as_they_are_in_every_mode(
    backend: MysqlBackend, connections: dict[str, MysqlConnection]
) -> None:
    await backend.write(SESSIONS, [session_record()])
    schema = MysqlSchema(ALL_COLLECTIONS)
    queries = Queries(schema, give_up_s=30)
    operations = Operations(schema, queries)
    tasks = [
        task_record(f"{number}", sheet_name=text, column_name=text, source_text=text, target_text=text)
        for number, text in enumerate(SAMPLES)
        if text
    ]
    for connection in connections.values():
        await operations.write(connection, TASKS, tasks)
        found = await queries.read(connection, TASKS, [task.task_id for task in tasks])
        assert {task.task_id: task for task in found} == {task.task_id: task for task in tasks}
        await connection.run("DELETE FROM translation_tasks")


@pytest.mark.parametrize("field", ["source_text", "task_id", "target_text"])
async def test_half_of_a_surrogate_pair_is_told_by_its_column(backend: MysqlBackend, field: str) -> None:
    await backend.write(SESSIONS, [session_record()])
    changes: dict[str, Any] = {field: "half \ud800", "digest": b"x"}
    bad = task_record(**changes)
    with pytest.raises(DataRejected) as caught:
        await backend.write(TASKS, [task_record("good"), bad, task_record("too")])
    assert caught.value.column == field
    assert await backend.count(TASKS) == 0

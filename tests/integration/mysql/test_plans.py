"""What each statement reads on real servers, by their own counters, in a table of tens of thousands of tasks.

The statements are recorded while the whole API is called in all ways there are, and the pages of one large session are asked
for besides. An optimiser may change its mind with any version and any data; what is read may not grow.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from persistence_service.errors import QueryTimeout
from persistence_service.models.status import UNFINISHED, Status
from persistence_service.settings import Settings
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.query import Between, Condition, Contains, Equals, OneOf, Query, Sort
from persistence_service.storage.registry import StorageRegistry
from persistence_service.storage.sql.tables import INDEXES
from persistence_service.testing.samples import at, session_record, task_record
from tests.conftest import unmeasured
from tests.integration.mysql.costs import Cost, Step, every_cost, every_statement, plan_of, without_values
from tests.servers.server import Server
from tests.service_calls import Calls, make_every_call

SESSION_COUNT = 100
TASKS_OF_A_SESSION = 100
LARGE = "large"
TASKS_OF_THE_LARGE_ONE = 10_000
TASK_COUNT = SESSION_COUNT * TASKS_OF_A_SESSION + TASKS_OF_THE_LARGE_ONE
BATCH = 50
USES = 2  # of one form that are measured

# The tasks of a session or of a batch, but for the large one, and some looks into indexes.
A_FEW = 150
# A session's activity is a look for each status, its tasks are looked for too, and both may be asked for more than once.
LOOKS_FOR_A_SESSION = 40
# Up to a bound, tasks are read, put into a table, and counted there; MySQL may also skip through an index by its first column.
COUNTING = 3

POSITION = (Sort("sheet_name"), Sort("row_index"), Sort("column_name"))
OF_LARGE = Equals("session_id", LARGE)


@dataclass
class Statement:
    """One form of a statement: what it cost when it cost most, in which call, and its plan where it asks."""

    cost: Cost
    call: str
    plan: list[Step]
    uses: int = 1


@dataclass
class Recorded(Calls):
    """The statements by their form."""

    statements: dict[str, Statement] = field(default_factory=dict)

    def is_wanted(self, statement: str) -> bool:
        """Whether it is not known well enough."""
        known = self.statements.get(without_values(statement))
        return known is None or known.uses < USES

    async def note(self, connection: MysqlConnection, statement: str, cost: Cost) -> None:
        """Remember the dearest use."""
        form = without_values(statement)
        known = self.statements.get(form)
        if known is None:
            plan = [] if form.startswith("INSERT") else await plan_of(connection, statement)
            self.statements[form] = Statement(cost, self.now, plan)
            return
        if known.cost.read < cost.read:
            known.cost, known.call = cost, self.now
        known.uses += 1


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """A database with many sessions of some tasks, and one of many; analysed, as servers do by themselves after a while."""
    database = database_server.new_database()
    with unmeasured():
        asyncio.run(_fill(database_server, database))
    database_server.sql("ANALYZE TABLE translation_tasks, translation_sessions", database)
    yield database
    database_server.drop(database)


async def _fill(server: Server, database: str) -> None:
    async with _opened(server, database) as backend:
        await backend.migrate()
        sizes = {f"session-{number:04}": TASKS_OF_A_SESSION for number in range(SESSION_COUNT)}
        place = 0
        for session_id, size in {**sizes, LARGE: TASKS_OF_THE_LARGE_ONE}.items():
            moment = at(place)
            session = session_record(session_id, status=Status.PROCESSING, created_at=moment, updated_at=moment)
            await backend.write(SESSIONS, [session])
            tasks = [
                task_record(
                    f"{session_id}-{number:05}",
                    session_id,
                    batch_id=f"{session_id}-{number // BATCH}",
                    sheet_name=f"sheet {number % 3}",
                    row_index=number,
                    status=Status.COMPLETED,
                    duration_ms=number,
                    confidence=0.5,
                    created_at=at(place + number),
                    updated_at=at(place - number),
                )
                for number in range(size)
            ]
            await backend.write(TASKS, tasks)
            place += size


@asynccontextmanager
async def _opened(server: Server, database: str, **options: object) -> AsyncIterator[MysqlBackend]:
    backend = MysqlBackend(server.options(database, **options))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


# ------------------------------------------------------------------------------------------------ one large session


@pytest.mark.parametrize(
    "query",
    [
        Query([OF_LARGE], POSITION),
        Query([OF_LARGE], POSITION, after=("sheet 1", 4000, "A", "large-04000")),
        Query([OF_LARGE], tuple(Sort(term.field, descending=True) for term in POSITION)),
        Query([OF_LARGE, Equals("sheet_name", "sheet 2")], POSITION),
        Query([OF_LARGE, Equals("sheet_name", "sheet 2")], POSITION, after=("sheet 2", 5000, "A", "large-05000")),
        Query([OF_LARGE, Equals("status", Status.COMPLETED)], POSITION),
        Query([OF_LARGE, Equals("status", Status.COMPLETED)], POSITION, after=("sheet 1", 4000, "A", "large-04000")),
        Query([OF_LARGE, Equals("status", Status.FAILED)], POSITION),
        Query([OF_LARGE, OneOf("status", UNFINISHED)], POSITION),
        Query([OF_LARGE, OneOf("status", (*UNFINISHED, Status.FAILED))], POSITION, after=("sheet 0", 1, "A", "t")),
        Query([OF_LARGE, OneOf("status", (Status.FAILED, Status.COMPLETED))], POSITION),
        Query([Equals("batch_id", "large-7")], (Sort("created_at", descending=True),)),
        Query([OF_LARGE, Equals("batch_id", "large-7")], (Sort("created_at"),)),
        Query([], (Sort("created_at", descending=True),)),
        Query([], (Sort("created_at"),), after=(at(25_000), "large-05000")),
        Query([], (Sort("updated_at", descending=True),), after=(at(15_000), "large-05000")),
        Query([], (Sort("task_id"),), after=("large-05000",)),
        Query([Between("created_at", at(25_000), at(26_000))], (Sort("created_at"),)),
        Query([OF_LARGE, OneOf("status", UNFINISHED)], (Sort("updated_at"),)),
    ],
    ids=repr,
)
async def test_a_page_reads_about_as_much_as_it_gives(database_server: Server, database: str, query: Query) -> None:
    async with _opened(database_server, database) as backend:
        with every_cost() as costs:
            page = await backend.query(TASKS, query)
    [cost] = costs
    assert cost.read <= len(page) + 10
    assert cost.sorted <= len(page)


@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("field", ["created_at", "updated_at", "task_id"])
async def test_the_tasks_of_a_session_are_read_alone_in_whatever_order(
    database_server: Server, database: str, field: str, descending: bool
) -> None:
    order = (Sort(field, descending),)
    async with _opened(database_server, database) as backend:
        with every_cost() as costs:
            for session_id in ("session-0000", f"session-{SESSION_COUNT - 1:04}"):
                assert len(await backend.query(TASKS, Query([Equals("session_id", session_id)], order, limit=10))) == 10
    assert [cost for cost in costs if cost.read > TASKS_OF_A_SESSION + A_FEW] == []


@pytest.mark.parametrize("field", ["created_at", "updated_at", "task_id"])
async def test_tasks_of_any_session_are_walked_in_order_and_never_sorted(
    database_server: Server, database: str, field: str
) -> None:
    async with _opened(database_server, database) as backend:
        with every_cost() as costs:
            for status in (Status.COMPLETED, Status.FAILED):
                await backend.query(TASKS, Query([Equals("status", status)], (Sort(field),), limit=10))
                dated = Between("created_at", at(0), at(10))
                await backend.query(TASKS, Query([Equals("status", status), dated], (Sort(field),), limit=10))
    assert [cost.sorted for cost in costs] == [0] * 4


class _Undone(Exception):  # noqa: N818  # what a test raises to leave a transaction
    pass


async def test_tasks_are_deleted_by_their_keys_whatever_else_is_asked_of_them(
    database_server: Server, database: str
) -> None:
    covered: list[Condition] = [OF_LARGE, Between("event_time", None, at(0))]
    async with _opened(database_server, database) as backend:
        for count in (3, 1000):
            keys = [f"{LARGE}-{number:05}" for number in range(count)]
            with every_cost() as costs, suppress(_Undone):
                async with backend.transaction() as transaction:
                    assert await transaction.delete(TASKS, [OneOf("task_id", keys), *covered]) == count
                    raise _Undone
            assert [cost.read <= 3 * count for cost in costs] == [True]


async def test_a_query_that_walks_a_whole_index_ends_at_the_time_limit(database_server: Server, database: str) -> None:
    nowhere = [Contains(field, "nowhere") for field in ("source_text", "sheet_name", "column_name", "batch_id")]
    async with _opened(database_server, database, query_timeout_s=0.001) as backend:
        with pytest.raises(QueryTimeout):
            await backend.query(TASKS, Query(nowhere, (Sort("created_at"),)))
        with pytest.raises(QueryTimeout):
            await backend.count(TASKS, nowhere)
        assert await backend.read(TASKS, [f"{LARGE}-00000"])


# -------------------------------------------------------------------------------------------------- the whole API


@pytest.fixture(scope="module")
def recorded(database_server: Server, database: str, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Last in this module: the calls delete sessions."""
    recorded = Recorded()
    registry = StorageRegistry()
    registry.register("mysql", lambda: MysqlBackend(database_server.options(database)))
    registry.route_all("mysql", {})
    # Thousands of calls, which the tests of the API make too, one of each kind.
    with unmeasured(), every_statement(recorded.note, recorded.is_wanted):
        settings = _settings(tmp_path_factory.mktemp("plans"))
        asyncio.run(make_every_call(settings, recorded, registry))
    return recorded


def _settings(path: Path) -> Settings:
    journal = {"directory": path / "journal", "min_free": 0}
    return Settings.model_validate({"journal": journal, "stats": {"refresh_interval": "100ms"}})


def test_every_call_of_the_api_is_made_here(recorded: Recorded) -> None:
    assert recorded.called == recorded.routes


def test_every_statement_reads_about_what_it_gives(recorded: Recorded) -> None:
    dear = {
        (each.call, form): each
        for form, each in recorded.statements.items()
        if each.cost.read > allowed_to_read(form, each)
    }
    assert dear == {}


def test_only_tasks_of_one_session_or_batch_are_sorted(recorded: Recorded) -> None:
    dear = {
        (each.call, form): each
        for form, each in recorded.statements.items()
        if each.cost.sorted > A_FEW + SESSION_COUNT
    }
    assert dear == {}
    walking = {form: each for form, each in recorded.statements.items() if walks(form)}
    assert walking
    assert [
        each for each in walking.values() if each.cost.sorted or any("filesort" in step.extra for step in each.plan)
    ] == []


def test_tasks_are_never_read_but_by_an_index_except_to_count_them(recorded: Recorded) -> None:
    scans = {
        form: each
        for form, each in recorded.statements.items()
        if any(step.table == TASKS.name and step.kind == "ALL" for step in each.plan) and not counts_tasks(form)
    }
    assert scans == {}


def test_every_index_is_used(recorded: Recorded) -> None:
    used = {step.index for each in recorded.statements.values() for step in each.plan}
    assert {name for indexes in INDEXES.values() for name in indexes} - used == set()


def allowed_to_read(form: str, statement: Statement) -> int:
    """Rows of tables and indexes: some for what is given, and what the service permits itself besides."""
    allowed = 4 * statement.cost.given + A_FEW
    if "FROM translation_sessions" in form:
        allowed += LOOKS_FOR_A_SESSION * SESSION_COUNT
    if walks(form):
        allowed += TASK_COUNT
    if counts_tasks(form):
        allowed += COUNTING * TASK_COUNT
    return allowed


def walks(form: str) -> bool:
    """A page of tasks of any session: the index of its order is walked until the page is full, or the time is up."""
    from_all = re.search(r"FROM translation_tasks FORCE INDEX \((PRIMARY|ix_tasks_created|ix_tasks_updated)\)", form)
    return from_all is not None and "ORDER BY" in form


def counts_tasks(form: str) -> bool:
    """Statistics, in parts of a bounded size; the total of a list, up to a bound."""
    is_statistic = "GROUP BY translation_tasks.session_id, translation_tasks.status" in form
    return is_statistic or "count(*) AS count_1 FROM (SELECT ? AS anon_2 FROM translation_tasks" in form

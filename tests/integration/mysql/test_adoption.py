"""Tables of the plain design, in the shapes that people gave it, are taken over with their rows."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from persistence_service.errors import StorageSetupError, StorageUnavailable
from persistence_service.models.task import ID_PATTERN
from persistence_service.storage.collections import TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.migration import migrate, plan
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.opening import BackendOpener
from persistence_service.storage.sql.migrate import newest_version
from persistence_service.testing.samples import HOSTILE_TEXTS, task_record
from tests.integration.mysql.migrating import Interrupted, interrupted_after, load, migrated, options, rows, tables
from tests.integration.mysql.plain_tables import PLAIN, SHAPES, OldDatabase, Shape
from tests.servers.server import Server

__all__ = ["options"]

DOCUMENT = Path(__file__).parents[3] / "database" / "README.md"
NO_DIGEST = bytes(16)


def stored(*parts: int) -> datetime:
    """A time as the driver gives it."""
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[arg-type,misc]  # year, month, day and so on


@asynccontextmanager
async def paused_before(statement: str, work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """`work` on the schema comes to `statement`, does not run it as long as the block lasts, and then goes on to its end."""
    reached, go_on = threading.Event(), threading.Event()

    def pause(connection: Any, cursor: Any, text: str, *others: Any) -> None:  # noqa: ANN401  # SQLAlchemy's signature
        if text.startswith(statement) and not reached.is_set():
            reached.set()
            go_on.wait()

    event.listen(Engine, "before_cursor_execute", pause)
    running = asyncio.create_task(work)
    running.add_done_callback(lambda _: reached.set())
    try:
        await asyncio.to_thread(reached.wait)
        assert not running.done(), f"it does without {statement}"
        yield
    finally:
        go_on.set()
        await running
        event.remove(Engine, "before_cursor_execute", pause)


@pytest.fixture
def old(database_server: Server, options: MysqlOptions) -> Iterator[OldDatabase]:
    old = OldDatabase(database_server, options)
    yield old
    old.connection.close()


@pytest.fixture
async def backend(options: MysqlOptions) -> AsyncIterator[MysqlBackend]:
    """Not open yet."""
    backend = MysqlBackend(options)
    yield backend
    await backend.close()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_every_shape_of_the_plain_design_is_adopted_with_its_rows(old: OldDatabase, shape: Shape) -> None:
    old.make(shape)
    old.session(
        "s1", game_info='{"name": "游戏", "n": [1, 2.5, null]}', total_tasks=7, completed_tasks=3, metadata=None
    )
    old.session("s2", status="completed", failed_tasks=None, metadata='{"a": {}}')
    old.task(
        "t1", "s1", target_text="译文", confidence=0.95, duration_ms=12, retry_count=2, start_time="2026-01-31 10:00:00"
    )
    old.task("t2", "s2", status="cancelled", error_message="why", retry_count=None)
    await migrated(old.options)
    sessions, tasks = old.found("translation_sessions"), old.found("translation_tasks")
    changed = stored(2026, 1, 31, 12)
    first = sessions["s1"]
    assert json.loads(first.pop("game_info")) == {"name": "游戏", "n": [1, 2.5, None]}
    assert first == {
        "session_id": "s1",
        "filename": "a.xlsx",
        "file_path": "/a.xlsx",
        "status": "processing",
        "llm_provider": "x",
        "processing_tasks": 0,
        "total_tasks": 7,
        "completed_tasks": 3,
        "failed_tasks": 0,
        "metadata": None,
        "event_time": changed,
        "digest": NO_DIGEST,
        "game_info_time": changed,
        "game_info_digest": NO_DIGEST,
        "metadata_time": None,
        "metadata_digest": None,
        "created_at": stored(2026, 1, 30, 11),
        "updated_at": changed,
        "arriving_wins": 0,
    }
    assert (sessions["s2"]["metadata_time"], sessions["s2"]["game_info_time"]) == (changed, None)
    assert tasks["t1"] == {
        "task_id": "t1",
        "session_id": "s1",
        "batch_id": "b",
        "sheet_name": "Sheet",
        "row_index": 1,
        "column_name": "C",
        "source_text": "text",
        "status": "completed",
        "target_text": "译文",
        "context": None,
        "error_message": None,
        "retry_count": 2,
        "duration_ms": 12,
        "confidence": 0.95,
        "start_time": stored(2026, 1, 31, 10),
        "end_time": None,
        "event_time": changed,
        "digest": NO_DIGEST,
        "created_at": stored(2026, 1, 30, 11),
        "updated_at": changed,
        "arriving_wins": 0,
    }
    assert (tasks["t2"]["status"], tasks["t2"]["error_message"], tasks["t2"]["retry_count"]) == ("cancelled", "why", 0)
    assert len(old.found("translation_sessions_before_adoption")) == 2
    assert len(old.found("translation_tasks_before_adoption")) == 2
    assert await plan(old.options, old.options.addresses[0]) == ""


async def test_the_tables_are_those_of_a_new_database(old: OldDatabase) -> None:
    old.make(PLAIN)
    await migrated(old.options)
    new = old.server.options(old.server.new_database())
    await migrated(new)
    adopted = tables(old.server, old.options.database)
    assert adopted.keys() - tables(old.server, new.database).keys() == {
        "translation_sessions_before_adoption",
        "translation_tasks_before_adoption",
    }
    assert tables(old.server, new.database).items() <= adopted.items()


async def test_texts_arrive_as_they_were(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session()
    for number, text in enumerate(HOSTILE_TEXTS):
        old.task(f"t{number}", source_text=text, target_text=text, context=text, sheet_name=text)
    large = "译" * 300_000
    old.task("large", source_text=large)
    await migrated(old.options)
    found = old.found("translation_tasks")
    for number, text in enumerate(HOSTILE_TEXTS):
        row = found[f"t{number}"]
        assert [row[name] for name in ("source_text", "target_text", "context", "sheet_name")] == [text] * 4
    assert found["large"]["source_text"] == large


async def test_a_task_keeps_its_session_where_the_old_tables_took_small_letters_for_capitals(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session("ABC")
    old.task("t", "abc")
    await migrated(old.options)
    assert old.found("translation_tasks")["t"]["session_id"] == "ABC"


async def test_json_null_is_no_value(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session(game_info="null")
    await migrated(old.options)
    assert old.found("translation_sessions")["s"]["game_info"] is None
    assert old.found("translation_sessions")["s"]["game_info_time"] is None


@pytest.mark.parametrize("name", ["plain", "three-byte-texts-without-a-reference"])
async def test_more_rows_than_a_transaction_copies_arrive_all(old: OldDatabase, name: str) -> None:
    old.make(SHAPES[name])
    old.session()
    old.task("seed")
    depth = "cte_max_recursion_depth" if old.server.kind == "mysql" else "max_recursive_iterations"
    old.sql(f"SET SESSION {depth} = 10000")
    old.sql(
        "INSERT INTO translation_tasks (task_id, session_id, batch_id, sheet_name, row_index, column_name, source_text, status)"
        " WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        # Capitals and small letters mixed: the old order is not that of the bytes.
        " SELECT CONCAT(CHAR(IF(i % 2, 65, 97) + i % 26), i), 's', 'b', '', i, '', '', 'pending' FROM n"
    )
    await migrated(old.options)
    ours = rows(old.server, old.options.database, "translation_tasks")
    assert sorted(row[0] for row in ours) == sorted(old.found("translation_tasks_before_adoption"))
    assert len(ours) == 5001


async def test_an_adoption_that_is_interrupted_anywhere_is_finished_by_the_next(database_server: Server) -> None:
    for change in count(1):
        options = database_server.options(database_server.new_database())
        old = OldDatabase(database_server, options)
        old.make(PLAIN)
        old.session()
        old.task("t1")
        old.task("t2")
        try:
            with interrupted_after(change):
                await migrated(options)
        except Interrupted:
            await migrated(options)
        else:
            break
        finally:
            assert old.found("translation_tasks").keys() == {"t1", "t2"}
            assert old.found("translation_sessions").keys() == {"s"}
            assert rows(database_server, options.database, "alembic_version") == [(newest_version(),)]
            old.connection.close()
            database_server.drop(options.database)
    assert change > 14


async def test_what_came_to_the_new_table_meanwhile_is_not_overwritten(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session()
    old.task("t1")
    await migrated(old.options)
    old.sql("UPDATE translation_tasks SET target_text = 'newer'")
    old.sql("DELETE FROM alembic_version")  # as if the adoption had been interrupted behind its last row
    await migrated(old.options)
    assert old.found("translation_tasks")["t1"]["target_text"] == "newer"


@pytest.mark.parametrize("statement", ["RENAME TABLE", "INSERT INTO translation_tasks", "INSERT INTO alembic_version"])
async def test_nobody_writes_amid_an_adoption(old: OldDatabase, backend: MysqlBackend, statement: str) -> None:
    old.make(PLAIN)
    old.session()
    old.task("t", target_text="paid for")
    service = BackendOpener(backend, migrate=False)
    async with paused_before(statement, migrated(old.options)):
        with pytest.raises(StorageSetupError, match="persistence-service migrate"):
            await service.ensure_open()
        with pytest.raises(StorageUnavailable, match="another instance is migrating"):
            await migrate(old.options, old.options.addresses[0], lock_wait_s=0)
    await service.ensure_open()
    older = stored(2026, 1, 31, 11).replace(tzinfo=UTC)
    await backend.write(TASKS, [task_record("t", "s", event_time=older, created_at=older, updated_at=older)])
    assert old.found("translation_tasks")["t"]["target_text"] == "paid for"


async def test_the_plan_adopts_too_and_changes_nothing(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session()
    old.task()
    before = tables(old.server, old.options.database)
    planned = await plan(old.options, old.options.addresses[0])
    assert tables(old.server, old.options.database) == before
    load(old.server, f"USE {old.options.database}; SET time_zone = '+00:00';\n{planned}")
    assert old.found("translation_tasks").keys() == {"t"}
    assert await plan(old.options, old.options.addresses[0]) == ""


REFUSED: dict[str, tuple[Shape, list[str], str]] = {
    "unknown status": (
        PLAIN,
        ["UPDATE translation_tasks SET status = 'done'"],
        r"translation_tasks.status is none of .* in 2 row",
    ),
    "status in capitals": (
        PLAIN,
        ["UPDATE translation_sessions SET status = 'Completed'"],
        r"sessions.status is none of",
    ),
    "status with a blank": (
        PLAIN,
        ["UPDATE translation_sessions SET status = 'completed '"],
        r"sessions.status is none of",
    ),
    "path too long": (
        PLAIN,
        ["UPDATE translation_sessions SET file_path = REPEAT('x', 513)"],
        r"file_path is longer than 512 characters in 1 row",
    ),
    "no batch": (PLAIN, ["UPDATE translation_tasks SET batch_id = NULL"], r"batch_id is NULL in 2 row"),
    "negative": (PLAIN, ["UPDATE translation_sessions SET total_tasks = -1"], r"total_tasks is not from 0"),
    "percent": (
        Shape(share="DOUBLE"),
        ["UPDATE translation_tasks SET confidence = 95"],
        r"confidence is not from 0 to 1 in 2 row",
    ),
    "no JSON": (
        Shape(changed={"game_info JSON": "game_info TEXT"}),
        ["UPDATE translation_sessions SET game_info = '{'"],
        r"game_info is no JSON object",
    ),
    "JSON list": (PLAIN, ["UPDATE translation_sessions SET metadata = '[1]'"], r"metadata is no JSON object"),
    "no time": (
        PLAIN,
        ["UPDATE translation_tasks SET created_at = NULL, updated_at = NULL"],
        r"created_at is NULL, as updated_at is in 2 row",
    ),
    "zero time": (
        PLAIN,
        ["UPDATE translation_tasks SET start_time = '0000-00-00'"],
        r"start_time is before the year 1000",
    ),
    "month of zero": (
        PLAIN,
        ["UPDATE translation_tasks SET start_time = '2020-00-00'"],
        r"start_time is .* no day that there is in 2 row",
    ),
    "day of zero": (
        PLAIN,
        ["UPDATE translation_sessions SET created_at = '2020-01-00 10:00:00'"],
        r"created_at is .* no day that there is in 1 row",
    ),
    "no such day": (
        PLAIN,
        ["SET sql_mode = 'ALLOW_INVALID_DATES'", "UPDATE translation_tasks SET end_time = '2021-02-29 10:00:00'"],
        r"end_time is .* no day that there is in 2 row",
    ),
    "local time": (
        PLAIN,
        ["UPDATE translation_tasks SET updated_at = UTC_TIMESTAMP() + INTERVAL 10 MINUTE WHERE task_id = 't1'"],
        r"translation_tasks.updated_at is in the future .*CONVERT_TZ.* in 1 row",
    ),
    "empty id": (
        PLAIN,
        ["UPDATE translation_tasks SET task_id = '' WHERE task_id = 't1'"],
        r"translation_tasks.task_id is no id: .* in 1 row",
    ),
    "dots for an id": (
        PLAIN,
        [
            "UPDATE translation_tasks SET task_id = '.' WHERE task_id = 't1'",
            "UPDATE translation_tasks SET task_id = '..' WHERE task_id = 't2'",
        ],
        r"translation_tasks.task_id is no id: .* in 2 row",
    ),
    "batch without a name": (
        PLAIN,
        ["UPDATE translation_tasks SET batch_id = ''"],
        r"batch_id is no id: .* in 2 row",
    ),
    "slash in a session's id": (
        Shape(reference=""),
        ["UPDATE translation_sessions SET session_id = 'a/b'", "UPDATE translation_tasks SET session_id = 'a/b'"],
        r"translation_sessions.session_id is no id: .* in 1 row",
    ),
    "no session": (
        Shape(reference=""),
        ["DELETE FROM translation_sessions"],
        r"translation_tasks has 2 row\(s\) whose session is not in translation_sessions",
    ),
    "column missing": (
        PLAIN,
        ["ALTER TABLE translation_tasks DROP COLUMN context, DROP COLUMN duration_ms"],
        r"translation_tasks has no column context, duration_ms",
    ),
    "other type": (
        PLAIN,
        ["ALTER TABLE translation_tasks MODIFY start_time VARCHAR(40)"],
        r"translation_tasks.start_time is of type varchar",
    ),
    "second key": (
        Shape(tasks=", UNIQUE KEY cell (session_id, sheet_name(100), row_index, column_name(100))"),
        [],
        r"translation_tasks has another unique key \(session_id, \?, row_index, \?\)",
    ),
    "no key": (
        Shape(changed={"task_id VARCHAR(64) PRIMARY KEY": "id INT AUTO_INCREMENT PRIMARY KEY, task_id VARCHAR(64)"}),
        [],
        r"task_id is neither primary key nor unique",
    ),
    "backup there": (PLAIN, ["CREATE TABLE translation_tasks_before_adoption (a INT)"], r"already"),
    "trigger": (
        PLAIN,
        ["CREATE TRIGGER audit AFTER DELETE ON translation_tasks FOR EACH ROW SET @a = 1"],
        r"translation_tasks has a trigger audit",
    ),
    "referred to": (
        PLAIN,
        [
            (
                "CREATE TABLE notes (session_id VARCHAR(36), FOREIGN KEY (session_id) REFERENCES translation_sessions (session_id))"
                " DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci"
            )
        ],
        r"table notes refers to translation_sessions",
    ),
    "tasks alone": (
        Shape(reference=""),
        ["DROP TABLE translation_sessions"],
        r"translation_tasks is there without translation_sessions",
    ),
    "view": (
        Shape(reference=""),
        ["RENAME TABLE translation_sessions TO kept", "CREATE VIEW translation_sessions AS SELECT * FROM kept"],
        r"translation_sessions is a view",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_what_does_not_fit_is_refused_with_its_reason_and_nothing_is_changed(
    old: OldDatabase, case: tuple[Shape, list[str], str]
) -> None:
    shape, changes, reason = case
    old.make(shape)
    old.session()
    old.task("t1")
    old.task("t2", row_index=2)
    for change in changes:
        old.sql(change)
    before = tables(old.server, old.options.database)
    kept = old.found("translation_tasks")
    with pytest.raises(StorageSetupError, match=reason):
        await plan(old.options, old.options.addresses[0])
    with pytest.raises(StorageSetupError, match=reason):
        await migrated(old.options)
    after = tables(old.server, old.options.database)
    after.pop("migration_lock")
    assert after == before
    assert old.found("translation_tasks") == kept


async def test_ids_are_adopted_as_far_as_the_contract_takes_them(old: OldDatabase) -> None:
    old.make(Shape(options="ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"))
    old.session()
    characters = [
        chr(number)
        for numbers in (range(0x100), range(0x1FF0, 0x2070), (0x1680, 0x3000, 0x3001, 0xFEFF, 0x8BD1, 0x1F600))
        for number in numbers
    ]
    ids = [
        made
        for each in characters
        for made in (f"{each}begins{ord(each)}", f"{ord(each)}is{each}within", f"{ord(each)}ends{each}")
    ]
    old.tasks(ids)
    wrong = [each for each in ids if re.search(ID_PATTERN, each) is None]
    with pytest.raises(StorageSetupError, match=rf"translation_tasks.task_id is no id: .* in {len(wrong)} row"):
        await migrated(old.options)
    old.sql("DELETE FROM translation_tasks WHERE task_id IN %s", [wrong])
    await migrated(old.options)
    assert old.found("translation_tasks").keys() == set(ids) - set(wrong)


async def test_local_times_are_adopted_once_they_are_shifted_as_the_document_says(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session()
    old.task()
    old.sql("SET time_zone = '+08:00'")
    for table in ("translation_sessions", "translation_tasks"):
        old.sql(f"UPDATE {table} SET created_at = '2026-01-30 19:00:00', updated_at = NOW()")
    with pytest.raises(StorageSetupError, match=r"sessions.updated_at is in the future .*tasks.updated_at is in the"):
        await migrated(old.options)
    (shift,) = re.findall(r"```sql\n(UPDATE .*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    load(old.server, f"USE {old.options.database};\n{shift}")
    await migrated(old.options)
    now = datetime.now(UTC).replace(tzinfo=None)
    for table in ("translation_sessions", "translation_tasks"):
        (row,) = old.found(table).values()
        assert row["created_at"] == stored(2026, 1, 30, 11)
        assert abs(row["event_time"] - now) < timedelta(hours=1)


async def test_all_that_does_not_fit_is_said_at_once(old: OldDatabase) -> None:
    old.make(PLAIN)
    old.session(status="odd")
    old.task(status="odd", batch_id=None)
    with pytest.raises(
        StorageSetupError, match=r"translation_sessions.status .*translation_tasks.batch_id .*tasks.status"
    ):
        await migrated(old.options)


async def test_a_row_that_was_added_behind_the_check_is_said_and_adopted_once_mended(
    old: OldDatabase, database_server: Server
) -> None:
    old.make(PLAIN)
    old.session()
    old.task("t1")
    with pytest.raises(Interrupted), interrupted_after(4):  # set aside, and not copied
        await migrated(old.options)
    backup = "translation_tasks_before_adoption"
    old.sql(f"UPDATE {backup} SET sheet_name = NULL")
    with pytest.raises(StorageSetupError, match=rf"a row of {backup} does not fit"):
        await migrated(old.options)
    old.sql(f"UPDATE {backup} SET sheet_name = 'mended'")
    await migrated(old.options)
    assert old.found("translation_tasks")["t1"]["sheet_name"] == "mended"

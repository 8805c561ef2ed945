"""From an accepted batch to the answers: flush, query, recovery, health, over restarts and outages."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from persistence_service.bootstrap import Services, build_registry, open_services
from persistence_service.errors import (
    ConfigurationError,
    JournalFull,
    PersistenceError,
    SchemaTooNew,
    SessionNotFound,
    StorageUnavailable,
    TaskNotFound,
    ValidationFailed,
)
from persistence_service.journal.journal import Journal
from persistence_service.models.status import Status
from persistence_service.models.times import from_micros, parse_time
from persistence_service.models.tombstone import Tombstone
from persistence_service.services import query as query_module
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.services.query import POSITION, PageRequest, SessionFilter, TaskFilter
from persistence_service.settings import Durability, Settings
from persistence_service.storage.collections import TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Group
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import FaultyBackend
from tests.integration.conftest import Opener
from tests.unit.buffer.harness import session_request, task_request, task_requests, until

AWAY = StorageUnavailable("the server is gone", number=2006)


def away(backend: FaultyBackend) -> None:
    backend.go_away(AWAY)


async def fill(services: Services) -> None:
    """Two sessions: one unfinished with tasks of every status, one completed."""
    await services.buffer.accept_sessions(
        [
            session_request("game", filename="game 100%.xlsx"),
            session_request("done", filename="done.xlsx", status=Status.COMPLETED, llm_provider="other"),
        ]
    )
    tasks = [
        task_request(f"T{index}", "game", status=status, row_index=index, sheet_name=f"Sheet{index % 2}")
        for index, status in enumerate(Status)
    ]
    await services.buffer.accept_tasks([*tasks, task_request("D", "done", status=Status.COMPLETED, batch_id="last")])


# ------------------------------------------------------------------------------------------------------- the whole way


async def test_a_batch_is_accepted_flushed_found_and_recovered(opener: Opener) -> None:
    async with opener() as (services, _):
        await fill(services)
        assert (await services.buffer.flush()).tasks_written == 6
        assert (await services.query.sessions(SessionFilter(), PageRequest())).total == 2
        assert (await services.query.task("T2")).status == Status.FAILED
        found = await services.recovery.incomplete_sessions(limit=20, cursor=None, idle_s=None)
        assert [item.session.session_id for item in found.sessions] == ["game"]
        assert services.health.is_ready()
        assert services.health.journal_view().unstored_items == 0


async def test_what_was_accepted_before_a_stop_without_the_database_is_there_after_the_next_start(
    opener: Opener, timing: ManualTiming
) -> None:
    async with opener(away) as (services, _):
        await fill(services)
        with pytest.raises(StorageUnavailable):
            await services.buffer.flush()
    async with opener() as (services, _):
        restored = await services.recovery.restore("game", include_failed=False, limit=10, cursor=None)
        assert [task.status for task in restored.tasks] == [Status.PENDING, Status.PROCESSING]
        assert restored.restored_at == from_micros(timing.wall_us())
        assert services.health.journal_view().unstored_items == 0


async def test_stopping_stores_everything(opener: Opener) -> None:
    async with opener() as (services, _):
        await fill(services)
    async with opener() as (services, _):
        await until(lambda: not services.buffer.replaying)
        assert services.buffer.stats().total_count == 0
        assert (await services.query.tasks(TaskFilter(), PageRequest())).total == 6


async def test_a_database_that_is_away_at_the_start_is_used_when_it_is_back(
    opener: Opener, timing: ManualTiming
) -> None:
    async with opener(away) as (services, backend):
        await fill(services)
        assert (await services.query.session("game")).session_id == "game"
        for unknown in (services.query.session("nobody"), services.query.tasks(TaskFilter(), PageRequest())):
            with pytest.raises(PersistenceError):
                await unknown
        assert (await services.health.report()).database == "unhealthy"
        backend.come_back()
        await until(lambda: timing.sleeping > 1)  # counting for the statistics does so all the time
        timing.advance(60)
        await until(lambda: services.buffer.stats().total_count == 0)
        assert (await services.health.report()).status == "healthy"


async def test_a_migration_that_failed_at_the_start_is_repeated(
    opener: Opener, timing: ManualTiming, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate = FaultyBackend.migrate
    failures = [AWAY, AWAY]

    async def fail_at_first(backend: FaultyBackend) -> None:
        if failures:
            raise failures.pop()
        await migrate(backend)

    monkeypatch.setattr(FaultyBackend, "migrate", fail_at_first)
    async with opener() as (services, _):
        await fill(services)
        await until(lambda: not failures and timing.sleeping > 1)
        assert (await services.buffer.flush()).tasks_written == 6


async def test_a_database_of_a_later_version_prevents_the_start(
    configure: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_new(_: MemoryBackend) -> None:
        raise SchemaTooNew("later")

    monkeypatch.setattr(MemoryBackend, "migrate", too_new)
    with pytest.raises(SchemaTooNew):
        async with open_services(configure(storage={"backend": "memory"})):
            pass


@pytest.mark.parametrize("stamps, problem", [(["a1b2c3d4e5f6"], "another program"), (["0002", "0003"], "several rows")])
async def test_a_schema_that_a_person_has_to_mend_does_not_prevent_the_start(
    configure: Callable[..., Settings], stamps: list[str], problem: str
) -> None:
    settings = configure()
    settings.sqlite.path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(settings.sqlite.path, isolation_level=None)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)")
        database.executemany("INSERT INTO alembic_version VALUES (?)", [(stamp,) for stamp in stamps])
    async with open_services(settings) as services:
        await services.buffer.accept_sessions([session_request()])
        with pytest.raises(StorageUnavailable, match=problem):
            await services.buffer.flush()
        assert (await services.health.report()).status == "degraded"


async def test_the_shipped_defaults_open_and_count(configure: Callable[..., Settings]) -> None:
    async with open_services(configure()) as services:
        await services.buffer.accept_sessions([session_request()], Durability.STORAGE)
        text = services.metrics.render().decode()
        assert 'persistence_flushes_total{reason="request"} 1.0' in text
        assert "persistence_journal_unstored_items 0.0" in text


async def test_without_migrating_at_the_start_the_schema_is_a_persons_business(
    configure: Callable[..., Settings],
) -> None:
    async with open_services(configure(storage={"migrate_on_start": False})) as services:
        await services.buffer.accept_sessions([session_request()])
        assert (await services.query.session("S")).session_id == "S"  # it is buffered, whatever ails the database
        with pytest.raises(StorageUnavailable):
            await services.buffer.flush()
        assert (await services.health.report()).status == "degraded"


@pytest.mark.parametrize(
    "storage, key",
    [
        ({"backend": "nosuch"}, "storage.backend"),
        ({"routes": {"nosuch": "memory"}}, "storage.routes"),
        ({"routes": {"translation_tasks": "memory"}}, "storage.routes"),
    ],
)
def test_routes_that_cant_be_are_a_mistake_of_configuration(
    configure: Callable[..., Settings], storage: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_registry(configure(storage=storage))
    assert [problem.key for problem in caught.value.problems] == [key]


# --------------------------------------------------------------------------------------------------------------- query


async def test_filters_choose_sessions(opener: Opener, timing: ManualTiming) -> None:
    async with opener() as (services, _):
        await fill(services)
        now = from_micros(timing.wall_us())
        wanted = PageRequest(fresh=True)
        for which, keys in (
            (SessionFilter(status=Status.COMPLETED), ["done"]),
            (SessionFilter(filename="100%"), ["game"]),
            (SessionFilter(filename=""), ["done", "game"]),
            (SessionFilter(llm_provider="other"), ["done"]),
            (SessionFilter(from_date=now), ["done", "game"]),
            (SessionFilter(from_date=now, to_date=now), ["game"]),  # stamps are 1 µs apart
            (SessionFilter(to_date=from_micros(timing.wall_us() - 1)), []),
        ):
            page = await services.query.sessions(which, wanted)
            assert sorted(session.session_id for session in page.items) == keys
            assert (page.total, page.total_exact) == (len(keys), True)


async def test_filters_choose_tasks(opener: Opener) -> None:
    async with opener() as (services, backend):
        await fill(services)
        await services.buffer.flush()
        for which, keys in (
            (TaskFilter(session_id="done"), ["D"]),
            (TaskFilter(session_id="game", status=Status.FAILED), ["T2"]),
            (TaskFilter(batch_id="last"), ["D"]),
            (TaskFilter(session_id="game", sheet_name="Sheet1"), ["T1", "T3"]),
        ):
            page = await services.query.tasks(which, PageRequest())
            assert sorted(task.task_id for task in page.items) == keys
        assert (await services.query.tasks_of("game", TaskFilter(session_id="game"), PageRequest())).total == 5
        reads = backend.reads
        with pytest.raises(SessionNotFound):
            await services.query.tasks_of("nobody", TaskFilter(session_id="nobody"), PageRequest())
        assert backend.reads == reads + 1


async def test_pages_and_cursors_walk_through_everything_once(opener: Opener) -> None:
    async with opener() as (services, _):
        await services.buffer.accept_sessions([session_request()])
        await services.buffer.accept_tasks(task_requests(25))
        await services.buffer.flush()
        which = TaskFilter(session_id="S")
        everything = [f"T{number:05}" for number in range(25)]
        by_page, by_cursor = [], []
        for number in range(1, 4):
            page = await services.query.tasks(
                which, PageRequest(page=number, page_size=10, sort_by=POSITION, descending=False)
            )
            assert (page.page, page.total, page.total_pages) == (number, 25, 3)
            by_page += [task.task_id for task in page.items]
        cursor: str | None = None
        while True:
            page = await services.query.tasks(
                which, PageRequest(page_size=10, sort_by=POSITION, descending=False, cursor=cursor, count=False)
            )
            by_cursor += [task.task_id for task in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert (page.total, page.total_pages, page.total_exact) == (None, None, False)
        assert by_page == by_cursor == everything


async def test_a_cursor_of_another_list_is_refused(opener: Opener) -> None:
    async with opener() as (services, _):
        await services.buffer.accept_sessions([session_request(f"S{number}") for number in range(3)])
        first = await services.query.sessions(SessionFilter(), PageRequest(page_size=1, fresh=True))
        for which, page in (
            (SessionFilter(status=Status.FAILED), PageRequest(cursor=first.next_cursor)),
            (SessionFilter(), PageRequest(cursor=first.next_cursor, descending=False)),
            (SessionFilter(), PageRequest(cursor=first.next_cursor, sort_by=("updated_at",))),
            (SessionFilter(), PageRequest(cursor="nonsense")),
        ):
            with pytest.raises(ValidationFailed):
                await services.query.sessions(which, page)
        again = await services.query.sessions(SessionFilter(), PageRequest(page_size=2, cursor=first.next_cursor))
        assert (again.page, len(again.items), again.next_cursor) == (None, 2, None)


async def test_a_page_too_deep_is_refused_and_the_cursor_named(opener: Opener) -> None:
    async with opener() as (services, _):
        await services.query.sessions(SessionFilter(), PageRequest(page=1000, page_size=100))
        with pytest.raises(ValidationFailed) as caught:
            await services.query.sessions(SessionFilter(), PageRequest(page=1001, page_size=100))
        assert caught.value.problems[0].field == "page"
        assert "next_cursor" in caught.value.problems[0].reason


async def test_a_total_that_would_be_dear_is_a_lower_bound(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "MAX_INEXACT_TOTAL", 5)
    async with opener() as (services, _):
        await fill(services)
        await services.buffer.flush()
        page = await services.query.tasks(TaskFilter(), PageRequest())
        assert (page.total, page.total_exact, len(page.items)) == (5, False, 6)
        page = await services.query.tasks(TaskFilter(session_id="game"), PageRequest())
        assert (page.total, page.total_exact) == (5, True)


async def test_a_single_read_merges_what_is_buffered_with_what_is_stored(opener: Opener) -> None:
    async with opener() as (services, _):
        await fill(services)
        await services.buffer.flush()
        await services.buffer.accept_sessions([session_request("game", filename="renamed.xlsx", total_tasks=5)])
        await services.buffer.accept_tasks([task_request("T4", "game", status=Status.PENDING, row_index=4)])
        session = await services.query.session("game")
        assert (session.filename, session.total_tasks) == ("renamed.xlsx", 5)
        assert (await services.query.task("T4")).status == Status.COMPLETED  # never undone by a late pending
        with pytest.raises(TaskNotFound):
            await services.query.task("nobody")


async def test_a_buffered_task_that_contradicts_the_stored_one_does_not_show(opener: Opener) -> None:
    async with opener() as (services, _):
        await fill(services)
        await services.buffer.flush()
        await services.buffer.accept_tasks([task_request("T0", "done", status=Status.COMPLETED)])
        assert (await services.query.task("T0")).session_id == "game"
        assert (await services.buffer.flush()).dead_lettered == 1
        page = await services.dead_letters.page(LetterFilter(), limit=10)
        assert [letter.reason for letter in page.items] == ["task_id_conflict"]


async def test_a_buffered_task_of_the_stored_ones_session_shows_whatever_others_claim_its_id(opener: Opener) -> None:
    async with opener() as (services, _):
        await fill(services)
        await services.buffer.flush()
        await services.buffer.accept_tasks([task_request("T0", "nobody's", status=Status.COMPLETED)])
        await services.buffer.flush()
        await services.buffer.accept_tasks([task_request("T0", "done", status=Status.COMPLETED)])
        await services.buffer.accept_tasks([task_request("T0", "game", status=Status.COMPLETED, context="new")])
        task = await services.query.task("T0")
        assert (task.session_id, task.context) == ("game", "new")


async def test_what_is_buffered_of_a_deleted_session_is_not_read_also_by_a_service_that_did_not_delete_it(
    opener: Opener,
) -> None:
    async with opener() as (services, backend):
        old = "2026-01-01T00:00:00Z"
        await services.buffer.accept_sessions([session_request("gone", event_time=old)])
        await services.buffer.flush()
        deleted = Tombstone("gone", parse_time("2026-01-02T00:00:00Z"), None, *2 * [parse_time(old)])
        await backend.inner.write(TOMBSTONES, [deleted])
        await services.buffer.accept_tasks([task_request("late", "gone", event_time=old), task_request("new", "gone")])
        with pytest.raises(TaskNotFound):
            await services.query.task("late")
        assert (await services.query.task("new")).session_id == "gone"


async def test_with_the_database_away_what_is_buffered_is_answered_and_the_rest_is_not_known(opener: Opener) -> None:
    async with opener() as (services, backend):
        await fill(services)
        backend.go_away(AWAY)
        assert (await services.query.task("T0")).task_id == "T0"
        for asked in (
            services.query.task("stored perhaps"),
            services.query.session("stored perhaps"),
            services.query.sessions(SessionFilter(), PageRequest()),
            services.query.sessions(SessionFilter(), PageRequest(fresh=True)),
            services.recovery.incomplete_sessions(limit=1, cursor=None, idle_s=None),
            services.recovery.restore("game", include_failed=True, limit=1, cursor=None),
        ):
            with pytest.raises(StorageUnavailable):
                await asked
        backend.come_back()


# ------------------------------------------------------------------------------------------------------------ recovery


async def test_unfinished_sessions_come_latest_activity_first_with_their_counts(
    opener: Opener, timing: ManualTiming
) -> None:
    async with opener() as (services, _):
        await fill(services)
        for number in range(4):
            timing.advance(60)
            await services.buffer.accept_sessions([session_request(f"S{number}")])
        timing.advance(60)
        await services.buffer.accept_tasks([task_request("late", "done"), task_request("later", "S0")])
        walked: list[str] = []
        cursor: str | None = None
        while True:
            found = await services.recovery.incomplete_sessions(limit=2, cursor=cursor, idle_s=None)
            assert found.count == 6
            walked += [item.session.session_id for item in found.sessions]
            cursor = found.next_cursor
            if cursor is None:
                break
        assert walked == ["S0", "done", "S3", "S2", "S1", "game"]
        found = await services.recovery.incomplete_sessions(limit=100, cursor=None, idle_s=None)
        game, done = found.sessions[-1], found.sessions[1]
        assert game.unfinished == {Status.PENDING: 1, Status.PROCESSING: 1}
        assert done.unfinished == {Status.PENDING: 1, Status.PROCESSING: 0}
        assert done.last_activity == from_micros(timing.wall_us())
        with pytest.raises(ValidationFailed):
            await services.recovery.incomplete_sessions(limit=1, cursor="nonsense", idle_s=None)


async def test_activity_while_a_page_is_read_repeats_no_session_that_has_not_changed(
    opener: Opener, timing: ManualTiming, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opener() as (services, _):
        for number in range(4):
            timing.advance(60)
            await services.buffer.accept_sessions([session_request(f"S{number}")])
        await services.buffer.flush()
        timing.advance(60)
        read = FaultyBackend.aggregate

        async def read_after_a_flush(backend: FaultyBackend, *what: Any, **which: Any) -> list[Group]:  # noqa: ANN401  # passed on
            await services.buffer.accept_tasks([task_request("T", "S2")])
            await services.buffer.flush()
            return await read(backend, *what, **which)

        monkeypatch.setattr(FaultyBackend, "aggregate", read_after_a_flush)
        first = await services.recovery.incomplete_sessions(limit=2, cursor=None, idle_s=None)
        rest = await services.recovery.incomplete_sessions(limit=2, cursor=first.next_cursor, idle_s=None)
        walked = [item.session.session_id for page in (first, rest) for item in page.sessions]
        assert walked == ["S3", "S2", "S1", "S0"]
        assert first.sessions[1].last_activity == first.sessions[1].session.updated_at


async def test_idle_seconds_keep_those_without_activity_for_so_long(opener: Opener, timing: ManualTiming) -> None:
    async with opener() as (services, _):
        assert (await services.recovery.incomplete_sessions(limit=1, cursor=None, idle_s=None)).sessions == []
        await fill(services)
        timing.advance(100)
        await services.buffer.accept_sessions([session_request("fresh")])
        timing.advance(10)
        found = await services.recovery.incomplete_sessions(limit=20, cursor=None, idle_s=60)
        assert ([item.session.session_id for item in found.sessions], found.count) == (["game"], 1)
        found = await services.recovery.incomplete_sessions(limit=20, cursor=None, idle_s=10)
        assert found.count == 2


async def test_restoring_pages_through_what_is_left_in_position_order(opener: Opener) -> None:
    async with opener() as (services, _):
        await services.buffer.accept_sessions([session_request()])
        await services.buffer.accept_tasks(task_requests(7))
        await services.buffer.accept_tasks(
            [task_request("bad", status=Status.FAILED, row_index=99), task_request("good", status=Status.COMPLETED)]
        )
        walked: list[str] = []
        cursor: str | None = None
        while True:
            restored = await services.recovery.restore("S", include_failed=True, limit=3, cursor=cursor)
            assert restored.tasks_count == 8
            walked += [task.task_id for task in restored.tasks]
            cursor = restored.next_cursor
            if cursor is None:
                break
        assert walked == [*(f"T{number:05}" for number in range(7)), "bad"]
        restored = await services.recovery.restore("S", include_failed=False, limit=10, cursor=None)
        assert (restored.tasks_count, restored.next_cursor) == (7, None)
        with pytest.raises(SessionNotFound):
            await services.recovery.restore("nobody", include_failed=False, limit=10, cursor=None)


async def test_recovery_says_what_is_damaged_and_lost(opener: Opener, tmp_path: Path) -> None:
    async with opener(away) as (services, _):
        for number in range(20):
            await services.buffer.accept_sessions([session_request(f"S{number}")])
    segment = max((tmp_path / "journal").iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    segment.write_bytes(damaged)
    async with opener() as (services, _):
        page = await services.recovery.incomplete_sessions(limit=100, cursor=None, idle_s=None)
        assert len(page.sessions) == 19
        (missing,) = page.missing
        assert missing.startswith("damaged ranges of the journal, lost: 1 (records ")
        report = await services.health.report()
        assert (report.status, report.detail, len(report.journal.losses)) == ("degraded", missing, 1)
    async with opener() as (services, _):  # a restart does not make it undone
        page = await services.recovery.incomplete_sessions(limit=100, cursor=None, idle_s=None)
        assert [text.partition(":")[0] for text in page.missing] == ["what earlier runs found damaged in the journal"]
        assert (await services.health.report()).status == "degraded"


# -------------------------------------------------------------------------------------------------------------- health


async def test_health_is_degraded_while_the_database_is_away_however_much_waits(
    opener: Opener, timing: ManualTiming
) -> None:
    async with opener(buffer={"max_memory_records": 9, "max_buffer_size": 9}) as (services, backend):
        assert (await services.health.report()).status == "healthy"
        backend.go_away(AWAY)
        await services.buffer.accept_sessions([session_request(f"S{number}") for number in range(9)])
        report = await services.health.report()
        assert (report.status, report.database) == ("degraded", "unhealthy")
        assert "gone" in report.detail
        await services.buffer.accept_sessions([session_request("S9")])
        report = await services.health.report()
        assert (report.status, services.health.is_ready()) == ("degraded", True)
        assert (report.buffer.usage_percent, report.buffer.spilled_records) == (100, 1)
        backend.come_back()
        await until(lambda: services.buffer.storage_failure is not None and timing.sleeping > 1)
        report = await services.health.report()
        assert (report.database, report.detail) == ("unhealthy", "the server is gone")  # writing has not worked since
        timing.advance(60)
        await until(lambda: services.buffer.stats().total_count == 0)
        assert (await services.health.report()).status == "healthy"


async def test_health_counts_what_waits_for_its_session_also_after_a_restart(opener: Opener) -> None:
    def refuse(backend: FaultyBackend) -> None:
        backend.reject(lambda record: getattr(record, "source_text", "") == "poison")

    async with opener(refuse) as (services, _):
        await services.buffer.accept_sessions([session_request()])
        await services.buffer.accept_tasks(
            [task_request("bad", source_text="poison"), task_request("lost", "nobody"), task_request("good")]
        )
        assert (await services.buffer.flush()).dead_lettered == 1
    for _ in range(2):
        async with opener(refuse) as (services, _backend):
            await services.buffer.flush()
            letters = await services.dead_letters.page(LetterFilter(), limit=10)
            assert [letter.record_key for letter in letters.items] == ["bad"], "once, however often it is replayed"
            report = await services.health.report()
            assert (report.buffer.set_aside, report.buffer.waiting_for_session) == (0, 1)
            assert report.journal.unstored_items == 1


async def test_more_refusals_than_may_become_dead_letters_are_an_alarm(opener: Opener) -> None:
    def refuse(backend: FaultyBackend) -> None:
        backend.reject(lambda record: getattr(record, "source_text", "") == "poison")

    async with opener(refuse, buffer={"max_dead_letter_rate": 2}) as (services, _):
        await services.buffer.accept_sessions([session_request()])
        await services.buffer.accept_tasks([task_request(f"bad{n}", source_text="poison") for n in range(5)])
        assert (await services.buffer.flush()).dead_lettered == 2
        report = await services.health.report()
        assert (report.status, report.buffer.set_aside) == ("degraded", 3)
        assert "buffer.max_dead_letter_rate" in report.detail


async def test_health_is_unhealthy_when_the_journal_has_no_room(opener: Opener) -> None:
    async with opener(journal={"min_free": 1 << 46}) as (services, _):
        with pytest.raises(JournalFull):
            await services.buffer.accept_sessions([session_request()])
        assert not services.health.is_ready()
        assert (await services.health.report()).status == "unhealthy"


async def test_health_names_journaled_batches_that_another_version_wrote(
    opener: Opener, tmp_path: Path, timing: ManualTiming
) -> None:
    journal = await Journal.open(
        tmp_path / "journal", max_bytes=1 << 20, min_free=0, segment_bytes=1 << 16, clock=timing.wall_us
    )
    await journal.append(150, b"from the future", items=1, accepted_at_us=1, high_water_us=1)
    await journal.close()
    async with opener() as (services, _):
        await until(lambda: not services.buffer.replaying)
        report = await services.health.report()
        assert report.status == "degraded"
        assert "only another version can read: 1;" in report.detail
        page = await services.recovery.incomplete_sessions(limit=1, cursor=None, idle_s=None)
        assert page.missing == [report.detail]

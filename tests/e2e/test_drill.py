"""`kill -9` amid deletions, cleanup and dead letters of every kind: four times zero."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from persistence_service.torture.account import as_moment
from persistence_service.torture.ledger import Verdict
from tests.e2e.caller import Caller
from tests.e2e.conftest import StartService
from tests.e2e.database import POISON, Database
from tests.e2e.drill import Drill, now, workbook
from tests.e2e.killer import Killer
from tests.e2e.outside import until
from tests.e2e.workbooks import Workbook

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

_ORPHANS, _CONFLICTS = 60, 30
_BIG = 6000


async def test_deletions_and_dead_letters_amid_kills_leave_nothing_lost_and_bring_nothing_back(
    database: Database, start_service: StartService
) -> None:
    settings: dict[str, object] = {
        "buffer.flush_interval": 1,
        "buffer.orphan_grace": 1,
        "buffer.max_dead_letter_rate": 100_000,
    }
    service = await start_service(database.settings() | settings, measured=False)
    async with Caller.to(service) as caller, asyncio.timeout(900):
        drill, killer = Drill(caller, database), Killer(service)
        drill.database.poison()
        nobodys = [workbook(f"nobody-{number}", _ORPHANS) for number in range(2)]
        poisoned = workbook("poisoned", 200, poisoned_one_in=5)
        await _under_load(drill, killer, nobodys, poisoned)
        await _deleting(drill, killer)
        await _mending(drill, killer, nobodys, len(poisoned.tasks) // 5)
        verdict = await _cleaning(drill, killer)
        health = await caller.health()
    drill.say_all(killer.kills, verdict)
    assert killer.in_the_middle > 0, "all was over before each of the kills"
    assert (health["status"], health["journal"]["losses"]) == ("healthy", [])
    assert (health["buffer"]["total_count"], health["journal"]["unstored_items"]) == (0, 0)


async def _under_load(drill: Drill, killer: Killer, nobodys: list[Workbook], poisoned: Workbook) -> None:
    """Ten workers and more at once; then every record that can't be stored is a letter, each once for each state."""
    await asyncio.gather(
        # On servers fewer: as in test_kill.py.
        killer.kill_amid(drill.account, 120, 4 if drill.database.kind == "sqlite" else 2),
        *(drill.worker(workbook(f"kept-{number}", 150)).work() for number in range(3)),
        *(drill.delete_amid_work(workbook(f"deleted-{number}", 100), revived=False) for number in range(2)),
        *(drill.delete_amid_work(workbook(f"revived-{number}", 100), revived=True) for number in range(2)),
        *(drill.delete_under_worker(workbook(f"torn-{number}", 150)) for number in range(3)),
        *(_orphaned(drill, book) for book in nobodys),
        _conflicting(drill),
        drill.worker(poisoned).work(),
    )
    await drill.caller.client.flush()
    await killer.kill()
    orphans = sum(len(book.tasks) for book in nobodys)
    question = (
        "SELECT COUNT(DISTINCT record_key), SUM(session_id NOT LIKE 'nobody-%') "
        "FROM dead_letters WHERE reason = 'unknown_session'"
    )

    async def only_orphans_are_left() -> bool:
        buffer = (await drill.caller.health())["buffer"]
        is_idle = not buffer["replaying"] and buffer["total_count"] == 0
        return is_idle and drill.database.look(question) == [(orphans, 0)]

    await until(only_orphans_are_left, f"{orphans} orphans are dead letters, and all others stored")
    kept = await drill.kept()
    assert kept.letters_of("unknown_session").keys() == cells(*nobodys)
    assert kept.letters_of("task_id_conflict") == dict.fromkeys(cells(workbook("owner", _CONFLICTS), of="thief"), 1)
    refused = [task for task in poisoned.tasks if str(task["source_text"]).startswith(POISON)]
    assert kept.letters_of("data_rejected").keys() == cells(Workbook(poisoned.session, refused))
    await drill.sum_up("deletions, orphans, conflicts and refusals under load")


async def _orphaned(drill: Drill, book: Workbook) -> None:
    await drill.report(book, [drill.worker(book).processing(task) for task in book.tasks])
    await drill.report_done(book)


async def _conflicting(drill: Drill) -> None:
    """Another session reports the tasks of one that is stored, again and again."""
    owner = workbook("owner", _CONFLICTS)
    await drill.worker(owner).work()
    await drill.caller.client.flush()
    thief = drill.worker(workbook("thief", 1))
    await thief.report_session("processing")
    stolen = [thief.finished(task | {"session_id": "thief"}) for task in owner.tasks]
    for _ in range(5):
        await drill.report(owner, stolen)


async def _deleting(drill: Drill, killer: Killer) -> None:
    """Killed while a deletion removes thousands of tasks, the service completes it by itself, and nothing comes back."""
    big = workbook("big", _BIG)
    await drill.worker(big).report_session("completed")
    sent = await drill.report_done(big, batch=1000)
    await drill.caller.client.flush()
    asked = now()
    asker = asyncio.create_task(drill.caller.client.delete_session("big"))
    left = "(SELECT COUNT(*) FROM translation_tasks WHERE session_id = 'big')"
    await killer.kill_in_the_middle(drill.database, begun=f"{left} < {_BIG}", left=left, asker=asker)

    async def all_is_removed() -> bool:
        question = "SELECT removed_at IS NOT NULL FROM deleted_sessions WHERE session_id = 'big'"
        await drill.caller.health()
        return drill.database.look(question) == [(1,)]

    await until(all_is_removed, "the deletion is completed though nobody asks any more")
    drill.account.note_deleted("big", asked, as_moment(drill.caller.client.event_time()))
    await drill.report(big, sent[::20])
    await killer.kill()
    await drill.report(big, sent[1::20])
    await drill.check_gone("big", sent[::500])
    await drill.caller.client.flush()
    assert drill.database.look(f"SELECT {left}") == [(0,)]  # the test's own
    await drill.sum_up("a deletion that was interrupted")


async def _mending(drill: Drill, killer: Killer, nobodys: list[Workbook], refused: int) -> None:
    """Orphans are stored when their session comes, what was refused when its cause is gone and somebody replays it."""
    for book in nobodys:
        await drill.worker(book).report_session("processing")
    await drill.caller.client.flush()
    await killer.kill()

    async def none_is_orphaned() -> bool:
        return await drill.letters("unknown_session") == 0

    await until(none_is_orphaned, "the orphans are stored, now that their sessions are")
    drill.database.cure()
    letters = await drill.letters("data_rejected")
    assert letters >= refused
    chosen = {"reason": "data_rejected"}
    tried = await drill.caller.post("/dead-letters/replay", dry_run=True, **chosen)
    assert tried["matched"] == letters
    replay = asyncio.create_task(drill.caller.post("/dead-letters/replay", **chosen))
    left = "(SELECT COUNT(*) FROM dead_letters WHERE reason = 'data_rejected')"
    await killer.kill_in_the_middle(drill.database, begun=f"{left} < {letters}", left=left)
    done = await replay
    assert done["replayed"] == done["matched"] <= letters
    assert await drill.letters("data_rejected") == 0
    await drill.sum_up("orphans adopted, refusals replayed")


async def _cleaning(drill: Drill, killer: Killer) -> Verdict:
    """A run deletes what its dry run said; interrupted and repeated, all that is finished, and nothing else."""
    books = [workbook(f"done-{number}", 50) for number in range(12)]
    sent = []
    for number, book in enumerate(books):
        sent.append(await drill.report_done(book))
        status = "completed" if number > 3 else ("failed", "cancelled")[number % 2]
        await drill.worker(book).report_session(status)
    kept = await drill.kept()
    clean_up = "/sessions/cleanup"
    some = {"completed_days": 36_600, "failed_days": 0, "cancelled_days": 0}
    dry = await drill.caller.post(clean_up, dry_run=True, **some)
    run = await drill.caller.post(clean_up, **some)
    expected = drill.expect_cleanup(kept, "failed", "cancelled")
    assert (dry["deleted_sessions"], dry["deleted_tasks"]) == expected == (4, 200)
    assert (run["deleted_sessions"], run["deleted_tasks"]) == expected

    kept = await drill.kept()
    dry = await drill.caller.post(clean_up, dry_run=True, completed_days=0)
    sessions, tasks = drill.expect_cleanup(kept, "completed")
    assert (dry["deleted_sessions"], dry["deleted_tasks"]) == (sessions, tasks)
    interrupted = asyncio.create_task(drill.caller.post(clean_up, completed_days=0))
    left = "(SELECT COUNT(*) FROM translation_sessions WHERE status = 'completed')"
    await killer.kill_in_the_middle(drill.database, begun=f"{left} < {sessions}", left=left)
    await interrupted
    for book, tasks_sent in zip(books, sent, strict=True):
        await drill.report(book, tasks_sent[::2])
    await drill.caller.client.flush()
    await drill.caller.post(clean_up, completed_days=0)
    for book, tasks_sent in zip(books, sent, strict=True):
        await drill.check_gone(book.session_id, tasks_sent[::25])
    return await drill.sum_up("cleanup")


async def test_what_is_refused_beyond_the_rate_waits_through_kills_and_is_stored_when_it_can_be(
    database: Database, start_service: StartService
) -> None:
    rate, refused = 5, 40
    settings: dict[str, object] = {"buffer.flush_interval": 1, "buffer.max_dead_letter_rate": rate}
    service = await start_service(database.settings() | settings, measured=False)
    async with Caller.to(service) as caller, asyncio.timeout(900):
        drill, killer = Drill(caller, database), Killer(service)
        drill.database.poison()
        book = workbook("poisoned", 400, poisoned_one_in=400 // refused)
        await drill.worker(book).report_session("processing")
        await drill.report_done(book)
        for runs in (1, 2):
            await caller.client.flush()
            await until(_are_set_aside(drill, refused), "the rest is set aside")
            assert (await caller.health())["status"] == "degraded"
            assert rate <= await drill.letters("data_rejected") <= runs * rate
            assert drill.database.look("SELECT COUNT(*) FROM translation_tasks") == [(len(book.tasks) - refused,)]
            if runs == 1:
                await killer.kill()
        letters = await drill.letters("data_rejected")
        drill.database.cure()
        await killer.kill()
        await until(_are_set_aside(drill, letters), "what was set aside is stored")
        await drill.sum_up("refusals beyond the rate")
        assert (await caller.post("/dead-letters/replay"))["replayed"] == letters
        verdict = await drill.sum_up("their letters replayed")
        assert (await caller.health())["status"] == "healthy"
    drill.say_all(killer.kills, verdict)


def _are_set_aside(drill: Drill, refused: int) -> Callable[[], Awaitable[bool]]:
    """Whether of so many refused records those wait in the journal that are no letters."""

    async def are() -> bool:
        health = await drill.caller.health()
        return bool(health["buffer"]["set_aside"] == refused - await drill.letters("data_rejected"))

    return are


def cells(*books: Workbook, of: str = "") -> set[tuple[str, str]]:
    """The tasks of workbooks, or of another session that reports them."""
    return {(of or book.session_id, str(task["task_id"])) for book in books for task in book.tasks}

"""Tasks whose session is not known: they block nobody, wait for it, and give up at last."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import QueryTimeout, StorageUnavailable
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.limits import Limits
from persistence_service.models.status import Status
from persistence_service.models.times import from_micros
from persistence_service.models.tombstone import Tombstone
from persistence_service.settings import Durability
from persistence_service.storage.collections import SESSIONS, TASKS, TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from tests.unit.buffer.harness import (
    KIB,
    Rig,
    let_all_run,
    open_rig,
    session_request,
    task_request,
    task_requests,
    until,
)

AWAY = StorageUnavailable("gone")


async def stored_by_somebody_else(rig: Rig, session_id: str) -> None:
    theirs = accept_sessions([session_request(session_id)], Acceptance(1, 1), Limits())
    await rig.backend.inner.write(SESSIONS, theirs)


# ----------------------------------------------------------------------------------------------------- adoption


async def test_they_block_nobody_and_are_stored_by_the_flush_that_stores_their_session(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("known")])
        await rig.buffer.accept_tasks([*task_requests(3, "late", "O"), *task_requests(3, "known")])
        assert (await rig.buffer.flush()).waiting == 3
        assert (await rig.stored())[1] == ["T00000", "T00001", "T00002"]
        seen = await rig.unstored_task("O00001")
        assert seen is not None
        await rig.buffer.accept_sessions([session_request("late")])
        report = await rig.buffer.flush()
        assert (report.tasks_written, report.waiting) == (3, 0)
        assert len((await rig.stored())[1]) == 6


async def test_a_task_in_the_same_flush_as_its_session_never_waits(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=5) as rig:
        await rig.buffer.accept_tasks(task_requests(4, "S"))
        await rig.buffer.accept_sessions([session_request(f"X{n}") for n in range(4)])
        await rig.buffer.accept_sessions([session_request("S")])
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 4


async def test_later_records_merge_with_an_orphan_wherever_it_is(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks([task_request(session_id="late", status=Status.PENDING)])
        rig.backend.hold()
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        await rig.buffer.accept_tasks([task_request(session_id="late", status=Status.PROCESSING)])
        rig.backend.release()
        await flush
        await rig.buffer.accept_tasks([task_request(session_id="late", status=Status.COMPLETED)])
        assert rig.buffer.stats().tasks_count == rig.buffer.stats().waiting_for_session == 1
        await rig.buffer.accept_sessions([session_request("late")])
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert task.status == Status.COMPLETED


@pytest.mark.parametrize("durability", [Durability.JOURNAL, Durability.STORAGE])
async def test_one_is_in_nobodys_way_who_names_another_session(tmp_path: Path, durability: Durability) -> None:
    """Found by a torture of three workers, seed 17: one refused beside an orphan what another had stored."""
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("known")])
        await rig.buffer.accept_tasks([task_request(session_id="late")])
        await rig.buffer.flush()
        await rig.buffer.accept_tasks([task_request(session_id="known")], durability)
        left = ["late"] if durability is Durability.STORAGE else ["known", "late"]
        assert [task.session_id for task in await rig.buffer.tasks("T")] == left
        assert (await rig.buffer.flush()).waiting == 1
        assert (await rig.stored(), await rig.letters()) == ((["known"], ["T"]), [])
        await rig.buffer.accept_sessions([session_request("late")])
        await rig.buffer.flush()
        assert [(letter.reason, letter.session_id) for letter in await rig.letters()] == [("task_id_conflict", "late")]


async def test_two_of_a_key_wait_for_the_sessions_that_they_name_and_the_first_to_come_has_it(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks([task_request(session_id=name) for name in ("one", "two")])
        assert (await rig.buffer.flush()).waiting == 2
        for name in ("two", "one"):
            receipt = await rig.buffer.accept_tasks(
                [task_request(session_id=name, status=Status.COMPLETED)], Durability.STORAGE
            )
            assert [(item.place, item.reason) for item in receipt.not_stored] == [("waiting", "unknown_session")]
        assert rig.buffer.stats().waiting_for_session == 2
        await rig.buffer.accept_sessions([session_request("two")])
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert (task.session_id, task.status) == ("two", Status.COMPLETED)
        await rig.buffer.accept_sessions([session_request("one")])
        await rig.buffer.flush()
        assert [(letter.reason, letter.session_id) for letter in await rig.letters()] == [("task_id_conflict", "one")]
        assert rig.buffer.stats().set_aside == 0


async def test_two_of_a_key_whose_sessions_come_at_once_are_written_one_after_the_other(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks([task_request(session_id=name) for name in ("one", "two")])
        await rig.buffer.flush()
        await rig.buffer.accept_sessions([session_request(name) for name in ("two", "one")])
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        (letter,) = await rig.letters()
        assert {task.session_id, letter.session_id} == {"one", "two"}


async def test_those_whose_session_somebody_else_stored_are_found_at_the_age_limit(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=4, interval_s=30) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "other", "O"))
        await rig.buffer.flush()
        await stored_by_somebody_else(rig, "other")
        for number in range(6):  # a stream that always reaches the size first must not starve them
            await rig.buffer.accept_sessions([session_request(f"S{number}-{n}") for n in range(4)])
            await let_all_run()
            await rig.pass_time(6)
        assert rig.buffer.stats().waiting_for_session == 0
        assert len((await rig.stored())[1]) == 2


async def test_each_sender_that_waits_for_storage_hears_of_the_orphan_that_its_record_joined(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        for _ in range(2):
            receipt = await rig.buffer.accept_tasks([task_request(session_id="nobody")], Durability.STORAGE)
            assert [(item.place, item.reason) for item in receipt.not_stored] == [("waiting", "unknown_session")]


async def test_one_sent_over_and_over_does_not_remember_every_sender(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        for _ in range(10):
            await rig.buffer.accept_tasks([task_request(session_id="nobody")], Durability.STORAGE)
        (entry,) = rig.tasks._aside()
        assert len(entry.watched) == 1


async def test_they_are_looked_after_although_nothing_else_arrives(tmp_path: Path) -> None:
    async with open_rig(tmp_path, interval_s=30) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "other"))
        await rig.buffer.flush()
        await stored_by_somebody_else(rig, "other")
        await rig.pass_time(29)
        assert rig.buffer.stats().waiting_for_session == 2
        await rig.pass_time(2)
        assert rig.buffer.stats().total_count == 0


async def test_a_database_too_slow_to_look_for_sessions_still_takes_what_is_not_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "nobody"))
        await rig.buffer.flush()
        await rig.buffer.accept_sessions([session_request()])
        with monkeypatch.context() as patch:

            async def too_slow(*_: object, **__: object) -> NoReturn:
                raise QueryTimeout("slow")

            patch.setattr(rig.backend, "aggregate", too_slow)
            assert (await rig.buffer.flush()).sessions_written == 1
        assert rig.flusher.failure is None


async def test_they_are_sought_for_when_a_person_asks_and_not_for_every_batch(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "other"))
        await rig.buffer.flush()
        await stored_by_somebody_else(rig, "other")
        reads = rig.backend.reads
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        assert rig.backend.reads == reads
        assert rig.buffer.stats().waiting_for_session == 2
        assert (await rig.buffer.flush()).tasks_written == 2


async def test_adopted_ones_keep_the_order_of_arrival(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=2) as rig:
        for number, session in enumerate(("late", "gone", "late", "S")):
            await rig.buffer.accept_tasks([task_request(f"T{number}", session)])
            await let_all_run()
        rig.tasks.adopt(["gone", "late", "never"])
        rig.check_books()
        for session in ("late", "gone", "S"):
            await stored_by_somebody_else(rig, session)
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 4


async def test_they_survive_a_restart(tmp_path: Path) -> None:
    inner = MemoryBackend()
    await inner.open()
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "late"))
        await rig.buffer.flush()
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        await rig.buffer.flush()
        assert rig.buffer.stats().waiting_for_session == 2
        await rig.buffer.accept_sessions([session_request("late")])
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 2
        assert rig.journal.stats().unstored_items == 0
    await inner.close()


async def test_a_task_stored_meanwhile_by_somebody_else_merges(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        theirs = accept_tasks([task_request(status=Status.COMPLETED)], Acceptance(1, 1), Limits())
        await rig.backend.inner.write(TASKS, theirs)
        await rig.buffer.accept_tasks([task_request(status=Status.PROCESSING)], Durability.STORAGE)
        task = await rig.stored_task("T")
        assert task is not None
        assert task.status == Status.COMPLETED


async def test_sessions_stored_before_a_chunk_failed_adopt_their_orphans_all_the_same(tmp_path: Path) -> None:
    async with open_rig(tmp_path, interval_s=3600) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "A"))
        await rig.buffer.flush()
        await rig.buffer.accept_sessions([session_request(name) for name in ("A", "B", "C", "bad")])
        began = rig.backend.transactions

        def fail_after_the_first_half(record: Any) -> bool:  # noqa: ANN401  # any record
            if rig.backend.transactions - began >= 3:
                raise AWAY
            return getattr(record, "session_id", "") == "bad"

        rig.backend.reject(fail_after_the_first_half)
        receipt = asyncio.create_task(rig.buffer.accept_sessions([session_request("D")], Durability.STORAGE))
        await until(lambda: rig.flusher.failure is not None)
        assert (await rig.stored())[0] == ["A", "B"]
        rig.backend.reject(None)
        await rig.pass_time(1)
        await receipt
        assert rig.buffer.stats().waiting_for_session == 0
        assert rig.metrics.rows == {"translation_sessions": 5, "translation_tasks": 2}


async def test_a_flush_orders_all_that_waits_once_whatever_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adoption takes time in proportion to all that waits; each of a session of its own is the worst for it."""
    async with open_rig(tmp_path, size=10) as rig:
        await rig.buffer.accept_tasks([task_request(f"T{n}", f"S{n}") for n in range(300)])
        await rig.buffer.flush()
        adoptions = 0
        adopt = rig.tasks.adopt

        def counted(parents: Iterable[str]) -> None:
            nonlocal adoptions
            adoptions += 1
            adopt(parents)

        monkeypatch.setattr(rig.tasks, "adopt", counted)
        rig.backend.hold()
        await rig.buffer.accept_sessions([session_request(f"S{n}") for n in range(300)])
        flush = asyncio.create_task(rig.buffer.flush())
        await rig.backend.held()
        rig.backend.release()
        assert (await flush).waiting == 0
        assert adoptions == rig.metrics.flushes.total() - 1


# ---------------------------------------------------------------------------------------------------- giving up


async def test_one_that_waited_long_enough_is_a_dead_letter_and_counted_as_such(tmp_path: Path) -> None:
    async with open_rig(tmp_path, orphan_grace_s=300, max_dead_letters=0) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "nobody"))
        await rig.buffer.flush()
        await rig.pass_time(299)
        assert rig.buffer.stats().waiting_for_session == 2
        await rig.pass_time(1)
        letters = await rig.letters()
        assert [(letter.reason, letter.session_id) for letter in letters] == [("unknown_session", "nobody")] * 2
        assert rig.metrics.lettered == {"unknown_session": 2}, "the rate of refusals does not hold them up"
        assert rig.buffer.stats().total_count == 0
        assert rig.journal.stats().unstored_items == 0


@pytest.mark.parametrize("grace_s", [0, 5, 29.5])
async def test_a_grace_shorter_than_the_flush_interval_holds_nothing_up(tmp_path: Path, grace_s: float) -> None:
    async with asyncio.timeout(60), open_rig(tmp_path, interval_s=30, orphan_grace_s=grace_s) as rig:
        await rig.pass_time(20)
        await rig.buffer.accept_tasks([task_request(session_id="nobody")])
        await rig.buffer.flush()
        for _ in range(4):
            await rig.pass_time(grace_s / 4)
        await rig.pass_time(0.001)
        assert [letter.reason for letter in await rig.letters()] == ["unknown_session"]


async def test_an_outage_does_not_count_as_waiting(tmp_path: Path) -> None:
    async with open_rig(tmp_path, orphan_grace_s=300, interval_s=30) as rig:
        await rig.buffer.accept_tasks([task_request(session_id="late")])
        await rig.buffer.flush()
        await rig.pass_time(200)
        rig.backend.go_away(AWAY)
        await rig.pass_time(31)  # that it is away is noticed at the next look
        for _ in range(40):
            await rig.pass_time(30)
        assert rig.buffer.storage_failure is AWAY
        rig.backend.come_back()
        await rig.pass_time(31)
        assert rig.flusher.failure is None
        await rig.pass_time(30)
        assert rig.buffer.stats().waiting_for_session == 1
        await rig.pass_time(60)
        assert await rig.letters() != []


async def test_nobody_gives_up_and_no_time_counts_while_others_cannot_be_asked(tmp_path: Path) -> None:
    async with open_rig(tmp_path, orphan_grace_s=300, interval_s=30) as rig:
        patience = rig.flusher._orphans.patience
        await rig.buffer.accept_tasks([task_request(session_id="late")])
        await rig.buffer.flush()
        await rig.pass_time(200)
        patience.note_others(are_all_there=False)
        for _ in range(40):
            await rig.pass_time(30)
        patience.note_others(are_all_there=True)
        await rig.pass_time(90)
        assert rig.buffer.stats().waiting_for_session == 1
        rig.timing.advance(30)  # it has waited for long enough, and nobody has looked yet
        patience.note_others(are_all_there=False)
        await rig.buffer.flush()
        assert rig.buffer.stats().waiting_for_session == 1
        patience.note_others(are_all_there=True)
        await rig.buffer.flush()
        assert await rig.letters() != []


async def test_nobody_gives_up_while_the_journal_is_replayed(tmp_path: Path) -> None:
    async with asyncio.timeout(60), open_rig(tmp_path, orphan_grace_s=10, interval_s=30, start=False) as rig:
        await rig.start(replay=False)
        await rig.buffer.accept_tasks([task_request(session_id="late")], Durability.STORAGE)
        for _ in range(4):
            await rig.pass_time(10)
        assert rig.buffer.stats().waiting_for_session == 1
        rig.background.append(asyncio.create_task(rig.buffer.replay()))
        await until(lambda: not rig.buffer.replaying)
        await rig.buffer.flush()
        assert await rig.letters() != []


async def test_without_room_the_longest_waiting_give_up_early(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=40), size=20) as rig:
        for number in range(4):
            await rig.buffer.accept_tasks(task_requests(5, "late", f"O{number}-"))
            await rig.buffer.flush()
        await rig.buffer.flush()
        assert rig.buffer.stats().waiting_for_session == 10
        assert sorted(letter.record_key[:2] for letter in await rig.letters()) == ["O0"] * 5 + ["O1"] * 5
        assert rig.buffer.stats().usage_percent == 0


async def test_their_bytes_are_bounded_too(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(size_bytes=40 * KIB), size=20) as rig:
        for number in range(4):
            await rig.buffer.accept_tasks([task_request(f"T{number}", "late", source_text="x" * 6 * KIB)])
            await rig.buffer.flush()
        await rig.buffer.flush()
        assert rig.buffer.stats().waiting_for_session == 1
        assert len(await rig.letters()) == 3


async def test_memory_full_of_orphans_is_not_rewritten_for_every_batch(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=80), size=20) as rig:
        await rig.buffer.accept_tasks(task_requests(18, "nobody"))
        await rig.buffer.flush()
        rig.backend.written.clear()
        for number in range(5):
            await rig.buffer.accept_sessions([session_request(f"S{number}")], Durability.STORAGE)
        assert {name for name, _ in rig.backend.written} == {"translation_sessions"}


async def test_those_of_a_session_that_is_deleted_go_with_it_and_do_not_show_any_more(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks([task_request("old", "S"), task_request("other", "U")])
        await rig.buffer.flush()
        up_to = from_micros(rig.timing.wall_us() + 1_000_000)
        now = from_micros(rig.timing.wall_us())
        await rig.backend.inner.write(TOMBSTONES, [Tombstone("S", up_to, now, now, now)])
        rig.buffer.note_deleted("S", up_to)
        assert await rig.unstored_task("old") is None
        rig.buffer.note_deleted("another", up_to)
        assert await rig.unstored_task("old") is None
        await rig.buffer.flush()
        assert rig.buffer.stats().waiting_for_session == 1
        assert rig.metrics.gone == {"translation_tasks": 1}

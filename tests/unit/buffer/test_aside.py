"""Records that the backend does not take: poison, conflicts, orphans."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import ceil, log2
from pathlib import Path
from typing import Any, NoReturn

import pytest

from persistence_service.buffer.buffer import AsideReason
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import BufferFull, DataRejected, QueryTimeout, StorageUnavailable
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.limits import Limits
from persistence_service.models.session import Session
from persistence_service.models.status import Status
from persistence_service.settings import Durability
from persistence_service.storage.backend import Rejection, RejectionReason, WriteResult
from persistence_service.storage.collections import SESSIONS, TASKS, Collection
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Group, OneOf
from tests.unit.buffer.harness import KIB, Rig, let_all_run, open_rig, session_request, task_request, task_requests


def is_poison(record: Any) -> bool:  # noqa: ANN401  # any record
    return getattr(record, "column_name", "") == "poison"


async def test_one_poisoned_record_among_a_thousand_is_set_aside_alone_in_few_transactions(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.reject(is_poison)
        batch = task_requests(1000)
        batch[637] = task_request("bad", column_name="poison")
        before = rig.backend.transactions
        await rig.buffer.accept_tasks(batch)
        report = await rig.buffer.flush()
        assert (report.tasks_written, report.refused) == (999, 1)
        assert rig.backend.transactions - before <= 2 * ceil(log2(1000)) + 1
        assert [(aside.entry.record.task_id, aside.reason) for aside in rig.refused] == [
            ("bad", AsideReason.DATA_REJECTED)
        ]
        assert "error -1" in rig.refused[0].detail
        assert [key for _, key, _ in rig.buffer.aside()] == ["bad"]
        assert rig.flusher.failure is None
        assert rig.journal.stats().unstored_items == 1


@pytest.mark.parametrize(
    "error, detail",
    [
        (DataRejected("x"), "the database refuses it"),
        (DataRejected("x", number=1406), "the database refuses it (error 1406)"),
        (DataRejected("x", column="context"), "the database refuses it (column context)"),
        (DataRejected("x", number=1406, column="context"), "the database refuses it (error 1406, column context)"),
    ],
)
async def test_the_detail_of_a_refused_record_says_what_is_known(
    tmp_path: Path, error: DataRejected, detail: str
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.fail_next(error)
        await rig.buffer.flush()
        assert [aside.detail for aside in rig.refused] == [detail]


async def test_several_poisoned_records_and_a_failure_amid_the_halving(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=200) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.reject(is_poison)
        batch = task_requests(150)
        for place in (0, 1, 77, 149):
            batch[place] = task_request(f"bad{place:03}", column_name="poison")
        await rig.buffer.accept_tasks(batch)
        started = rig.backend.transactions

        def fail_in_the_middle(record: Any) -> bool:  # noqa: ANN401  # any record
            if rig.backend.transactions == started + 12:
                raise StorageUnavailable("gone")
            return is_poison(record)

        rig.backend.reject(fail_in_the_middle)
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        assert 0 < len(rig.refused) < 4
        await rig.buffer.flush()
        assert sorted(aside.entry.record.task_id for aside in rig.refused) == ["bad000", "bad001", "bad077", "bad149"]
        assert len((await rig.stored())[1]) == 146


async def test_a_newer_record_of_a_refused_key_is_written(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.reject(is_poison)
        await rig.buffer.accept_tasks([task_request(column_name="poison")])
        await rig.buffer.flush()
        assert await rig.buffer.task("T") is None
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED)])
        await rig.buffer.flush()
        assert (await rig.stored())[1] == ["T"]
        assert rig.buffer.stats().refused == 1


async def test_a_task_that_names_another_session_than_the_buffered_one_is_refused(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request(session_id="A"), task_request(session_id="B")])
        assert [aside.reason for aside in rig.refused] == [AsideReason.TASK_ID_CONFLICT]
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert task.session_id == "A"


async def test_a_task_that_names_another_session_than_the_stored_one_is_refused(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request(session_id="A")], Durability.STORAGE)
        receipt = await rig.buffer.accept_tasks(
            [task_request(session_id="B"), task_request("U", session_id="B")], Durability.STORAGE
        )
        assert [(item.index, item.reason) for item in receipt.not_stored] == [(0, "task_id_conflict")]
        assert (await rig.stored())[1] == ["T", "U"]


async def test_refused_records_keep_their_place_in_the_journal_and_are_tried_again_after_a_restart(
    tmp_path: Path,
) -> None:
    inner = MemoryBackend()
    await inner.open()
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request(column_name="poison"), task_request("U")])
        await rig.buffer.flush()
        assert rig.journal.stats().unstored_items == 1
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        rig.backend.reject(is_poison)
        assert (await rig.buffer.flush()).refused == 1
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        await rig.buffer.flush()
        assert await rig.stored() == (["S"], ["T", "U"])
        assert rig.journal.stats().unstored_items == 0
    await inner.close()


# ------------------------------------------------------------------------------------------------------- orphans


async def test_orphans_block_nobody_and_are_stored_by_the_flush_that_stores_their_session(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("known")])
        await rig.buffer.accept_tasks([*task_requests(3, "late", "O"), *task_requests(3, "known")])
        assert (await rig.buffer.flush()).waiting == 3
        assert (await rig.stored())[1] == ["T00000", "T00001", "T00002"]
        seen = await rig.buffer.task("O00001")
        assert seen is not None
        await rig.buffer.accept_sessions([session_request("late")])
        report = await rig.buffer.flush()
        assert (report.tasks_written, report.waiting) == (3, 0)
        assert len((await rig.stored())[1]) == 6


async def test_an_orphan_in_the_same_flush_as_its_session_never_waits(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=5) as rig:
        await rig.buffer.accept_tasks(task_requests(4, "S"))
        await rig.buffer.accept_sessions([session_request(f"X{n}") for n in range(4)])
        await rig.buffer.accept_sessions([session_request("S")])
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 4


async def test_later_records_of_an_orphan_merge_with_it_wherever_it_is(tmp_path: Path) -> None:
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
        await rig.buffer.accept_tasks([task_request(session_id="other")])
        assert [aside.reason for aside in rig.refused] == [AsideReason.TASK_ID_CONFLICT]
        assert {aside.reason for _, _, aside in rig.buffer.aside()} == {
            AsideReason.UNKNOWN_SESSION,
            AsideReason.TASK_ID_CONFLICT,
        }
        await rig.buffer.accept_sessions([session_request("late")])
        await rig.buffer.flush()
        task = await rig.stored_task("T")
        assert task is not None
        assert task.status == Status.COMPLETED


async def test_orphans_whose_session_somebody_else_stored_are_found_at_the_age_limit(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=4, interval_s=30) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "other", "O"))
        await rig.buffer.flush()
        theirs = accept_sessions([session_request("other")], Acceptance(1, 1), Limits())
        await rig.backend.inner.write(SESSIONS, theirs)
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
            assert [item.reason for item in receipt.not_stored] == ["unknown_session"]


async def test_an_orphan_sent_over_and_over_does_not_remember_every_sender(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        for _ in range(10):
            await rig.buffer.accept_tasks([task_request(session_id="nobody")], Durability.STORAGE)
        (_, _, aside) = next(rig.buffer.aside())
        assert len(aside.entry.watched) == 1


async def test_orphans_are_looked_after_although_nothing_else_arrives(tmp_path: Path) -> None:
    async with open_rig(tmp_path, interval_s=30) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "other"))
        await rig.buffer.flush()
        await rig.backend.inner.write(SESSIONS, accept_sessions([session_request("other")], Acceptance(1, 1), Limits()))
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


async def test_orphans_are_sought_for_when_a_person_asks_and_not_for_every_batch(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks(task_requests(2, "other"))
        await rig.buffer.flush()
        await rig.backend.inner.write(SESSIONS, accept_sessions([session_request("other")], Acceptance(1, 1), Limits()))
        reads = rig.backend.reads
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        assert rig.backend.reads == reads
        assert rig.buffer.stats().waiting_for_session == 2
        assert (await rig.buffer.flush()).tasks_written == 2


async def test_memory_full_of_orphans_is_not_rewritten_for_every_batch(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=20), size=20) as rig:
        await rig.buffer.accept_tasks(task_requests(18, "nobody"))
        await rig.buffer.flush()
        rig.backend.written.clear()
        for number in range(5):
            await rig.buffer.accept_sessions([session_request(f"S{number}")], Durability.STORAGE)
        assert {name for name, _ in rig.backend.written} == {"translation_sessions"}


async def test_adopted_orphans_keep_the_order_of_arrival(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=2) as rig:
        acceptance = Acceptance(1, 1)
        for number, session in enumerate(("late", "gone", "late", "S")):
            await rig.buffer.accept_tasks([task_request(f"T{number}", session)])
            await let_all_run()
        rig.tasks.adopt(["gone", "late", "never"])
        rig.check_books()
        await rig.backend.inner.write(
            SESSIONS, accept_sessions([session_request(s) for s in ("late", "gone", "S")], acceptance, Limits())
        )
        await rig.buffer.flush()
        assert len((await rig.stored())[1]) == 4


async def test_orphans_survive_a_restart(tmp_path: Path) -> None:
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


# ---------------------------------------------------------------------------------------------------- room aside


async def fill_with_orphans(rig: Rig, records: int) -> None:
    """Send tasks of a session that is not known, until no more of them are let in."""
    number = 0
    with suppress(BufferFull):
        while True:
            await rig.buffer.accept_tasks(task_requests(records, "late", f"O{number}-"))
            await rig.buffer.flush()
            number += 1
            assert number < 100


async def test_memory_full_of_orphans_still_takes_their_session_which_frees_it(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=40), size=20) as rig:
        await fill_with_orphans(rig, 10)
        assert rig.buffer.stats().waiting_for_session == 70
        assert rig.buffer.stats().usage_percent == 0
        with pytest.raises(BufferFull, match="set aside") as caught:
            await rig.buffer.accept_tasks(task_requests(1, "late"))
        assert caught.value.retry_after_s == 5
        assert rig.buffer.accepting
        await rig.buffer.accept_sessions([session_request("late")])
        report = await rig.buffer.flush()
        assert (report.tasks_written, report.waiting) == (70, 0)
        await rig.buffer.accept_tasks(task_requests(30, "late"))


async def test_what_is_set_aside_does_not_make_every_batch_a_flush(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(records=40), size=20) as rig:
        await fill_with_orphans(rig, 10)
        flushes = rig.metrics.flushes.total()
        for number in range(5):
            await rig.buffer.accept_sessions([session_request(f"S{number}")])
            await let_all_run()
        assert rig.metrics.flushes.total() == flushes


async def test_bytes_aside_are_bounded_too_and_refused_sessions_as_well(tmp_path: Path) -> None:
    async with open_rig(tmp_path, bounds=MemoryBounds(size_bytes=20 * KIB), size=20) as rig:
        rig.backend.reject(lambda record: isinstance(record, Session))
        for number in range(5):
            await rig.buffer.accept_sessions([session_request(f"S{number}", metadata={"text": "x" * 6 * KIB})])
            await rig.buffer.flush()
        with pytest.raises(BufferFull, match="set aside"):
            await rig.buffer.accept_tasks([task_request(source_text="x" * 6 * KIB)])
        await rig.buffer.accept_sessions([session_request("S5", metadata={"text": "x" * 6 * KIB})])
        await rig.buffer.flush()
        with pytest.raises(BufferFull, match="set aside"):
            await rig.buffer.accept_sessions([session_request("S6", metadata={"text": "x" * 6 * KIB})])
        await rig.buffer.accept_sessions([session_request("S6")])


async def test_a_flush_orders_fifty_thousand_orphans_once_whatever_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adoption puts all that waits in order; each of a session of its own is the worst for whoever looks for these."""
    count = 50_000
    known: set[str] = set()

    async def write(collection: Collection[Any], records: Sequence[Any]) -> WriteResult:
        if collection is SESSIONS:
            known.update(record.session_id for record in records)
            return WriteResult(len(records))
        unknown = [index for index, record in enumerate(records) if record.session_id not in known]
        rejected = tuple(Rejection(index, RejectionReason.UNKNOWN_PARENT) for index in unknown)
        return WriteResult(len(records) - len(rejected), rejected)

    async def aggregate(*_: object, where: Sequence[OneOf], **__: object) -> list[Group]:
        return [Group((key,), (1,)) for key in where[0].values if key in known]

    async with open_rig(tmp_path, max_bytes=256 * KIB * KIB, segment_bytes=64 * KIB * KIB) as rig:
        monkeypatch.setattr(rig.backend, "write", write)
        monkeypatch.setattr(rig.backend, "aggregate", aggregate)
        for start in range(0, count, 10_000):
            await rig.buffer.accept_tasks([task_request(f"T{n}", f"S{n}") for n in range(start, start + 10_000)])
            await rig.buffer.flush()
        assert rig.buffer.stats().waiting_for_session == count
        adoptions = 0
        adopt = rig.buffer._tasks.buffer.adopt

        def counted(parents: Iterable[str]) -> None:
            nonlocal adoptions
            adoptions += 1
            adopt(parents)

        monkeypatch.setattr(rig.buffer._tasks.buffer, "adopt", counted)
        await rig.buffer.flush()  # looks for all the sessions
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        known.update(f"S{number}" for number in range(count))
        report = await rig.buffer.flush()
        assert (report.tasks_written, report.waiting) == (count, 0)
        assert adoptions == 3, "one a flush"


async def test_a_refused_record_that_is_sent_again_is_set_aside_once(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request("T", "A")])
        await rig.buffer.flush()
        conflicting = task_request("T", "B", event_time="2026-01-01T00:00:00Z")
        for _ in range(5):
            await rig.buffer.accept_tasks([conflicting])
            await rig.buffer.flush()
        assert rig.buffer.stats().refused == 1
        assert rig.journal.stats().unstored_items == 5
        await rig.buffer.accept_tasks([task_request("T", "B", event_time="2026-01-02T00:00:00Z")])
        await rig.buffer.flush()
        assert rig.buffer.stats().refused == 2


async def test_the_age_of_the_oldest_unstored_record_counts_what_is_set_aside(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_tasks([task_request("T", "unknown")])
        await rig.buffer.flush()
        await rig.pass_time(7)
        assert rig.buffer.oldest_unstored_age_s() == pytest.approx(7)

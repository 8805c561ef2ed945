"""What the database refuses for good: alone among thousands, kept once, and never in the way of others."""

import asyncio
import errno
import threading
from collections.abc import Callable
from math import ceil, log2
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer import letterbox
from persistence_service.buffer.dead_letters import Letter, new_letter, read_letter
from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    StorageSetupError,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.models.dead_letter import DeadLetter
from persistence_service.models.status import Status
from persistence_service.models.task import Task
from persistence_service.settings import Durability
from persistence_service.storage.collections import DEAD_LETTERS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.faulty_backend import When
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import Rig, image_of, open_rig, session_request, task_request, task_requests, until

AWAY = StorageUnavailable("gone")


def is_poison(record: Any) -> bool:  # noqa: ANN401  # any record
    return getattr(record, "column_name", "") == "poison"


def fails_with(error: Exception, which: Callable[[Any], bool] = is_poison) -> Callable[[Any], bool]:
    """A predicate for `FaultyBackend.reject` that raises another error."""

    def check(record: Any) -> bool:  # noqa: ANN401  # any record
        if which(record):
            raise error
        return False

    return check


def is_letter(record: Any) -> bool:  # noqa: ANN401  # any record
    return isinstance(record, DeadLetter)


async def keys(rig: Rig) -> list[str]:
    return sorted(letter.record_key for letter in await rig.letters())


# -------------------------------------------------------------------------------------------- refused for its data


async def test_one_poisoned_record_among_a_thousand_is_lettered_alone_in_few_transactions(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.reject(is_poison)
        batch = task_requests(1000)
        batch[637] = task_request("bad", column_name="poison")
        before = rig.backend.transactions
        await rig.buffer.accept_tasks(batch)
        report = await rig.buffer.flush()
        assert (report.tasks_written, report.dead_lettered, report.waiting) == (999, 1, 0)
        assert rig.backend.transactions - before <= 2 * ceil(log2(1000)) + 2
        (letter,) = await rig.letters()
        assert (letter.record_key, letter.reason, letter.error_number) == ("bad", "data_rejected", -1)
        whole = await read_letter(rig.backend, letter.letter_id)
        assert whole is not None
        assert isinstance(whole.record, Task)
        assert whole.record.column_name == "poison"
        assert rig.flusher.failure is None
        assert rig.journal.stats().unstored_items == 0


@pytest.mark.parametrize(
    "error, detail",
    [
        (DataRejected("x"), "the database refuses it"),
        (DataRejected("x", number=1406), "the database refuses it (error 1406)"),
        (DataRejected("x", column="context"), "the database refuses it (column context)"),
        (DataRejected("x", number=1406, column="context"), "the database refuses it (error 1406, column context)"),
    ],
)
async def test_a_letter_says_what_is_known_and_nothing_of_the_drivers_text(
    tmp_path: Path, error: DataRejected, detail: str
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.fail_next(error)
        await rig.buffer.flush()
        (letter,) = await rig.letters()
        assert (letter.detail, letter.error_number, letter.error_column) == (detail, error.number, error.column)


async def test_several_poisoned_records_and_a_failure_amid_the_halving(tmp_path: Path) -> None:
    async with open_rig(tmp_path, size=200) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        batch = task_requests(150)
        for place in (0, 1, 77, 149):
            batch[place] = task_request(f"bad{place:03}", column_name="poison")
        await rig.buffer.accept_tasks(batch)
        started = rig.backend.transactions

        def fail_in_the_middle(record: Any) -> bool:  # noqa: ANN401  # any record
            if rig.backend.transactions == started + 12:
                raise AWAY
            return is_poison(record)

        rig.backend.reject(fail_in_the_middle)
        with pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        assert 0 < rig.tasks.refused < 4
        await rig.buffer.flush()
        assert await keys(rig) == ["bad000", "bad001", "bad077", "bad149"]
        assert len((await rig.stored())[1]) == 146
        assert rig.metrics.rows["translation_tasks"] == 146


async def test_a_newer_record_of_a_refused_key_is_written(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()])
        rig.backend.reject(is_poison)
        await rig.buffer.accept_tasks([task_request(column_name="poison")])
        await rig.buffer.flush()
        assert await rig.unstored_task("T") is None
        await rig.buffer.accept_tasks([task_request(status=Status.COMPLETED)])
        await rig.buffer.flush()
        assert (await rig.stored())[1] == ["T"]
        assert await keys(rig) == ["T"]


# --------------------------------------------------------------------------------------------------- conflicts


async def test_a_task_that_names_another_session_than_the_buffered_one_is_a_conflict(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request(session_id="A"), task_request(session_id="B")])
        await rig.buffer.flush()
        assert [(letter.reason, letter.session_id) for letter in await rig.letters()] == [("task_id_conflict", "B")]
        task = await rig.stored_task("T")
        assert task is not None
        assert task.session_id == "A"


async def test_a_task_that_names_another_session_than_the_stored_one_is_a_conflict(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request(session_id="A")], Durability.STORAGE)
        receipt = await rig.buffer.accept_tasks(
            [task_request(session_id="B"), task_request("U", session_id="B")], Durability.STORAGE
        )
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (0, "dead_letter", "task_id_conflict")
        ]
        assert (await rig.stored())[1] == ["T", "U"]


async def test_a_conflict_that_is_sent_again_is_one_letter_and_another_one_a_second(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request("A"), session_request("B")])
        await rig.buffer.accept_tasks([task_request("T", "A")])
        await rig.buffer.flush()
        conflicting = task_request("T", "B", event_time="2026-01-01T00:00:00Z")
        await rig.buffer.accept_tasks([conflicting, conflicting])
        for _ in range(3):
            await rig.buffer.accept_tasks([conflicting])
            await rig.buffer.flush()
        assert len(await rig.letters()) == 1
        await rig.buffer.accept_tasks([task_request("T", "B", event_time="2026-01-02T00:00:00Z")])
        await rig.buffer.flush()
        assert len(await rig.letters()) == 2
        assert rig.journal.stats().unstored_items == 0


# ----------------------------------------------------------------------------------------------------- kept once


async def test_a_crash_between_the_letter_and_its_release_leaves_one_letter(tmp_path: Path) -> None:
    inner = MemoryBackend()
    await inner.open()
    async with open_rig(tmp_path / "journal", inner=inner) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request("bad", column_name="poison"), task_request("good")])
        image = image_of(rig.directory)
        await rig.buffer.flush()
        assert await keys(rig) == ["bad"]
    async with open_rig(image, inner=inner) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.flush()
        assert await keys(rig) == ["bad"]
        assert rig.journal.stats().unstored_items == 0
    await inner.close()


@pytest.mark.parametrize("when", [When.BEGIN, When.WRITE, When.BEFORE_COMMIT, When.AFTER_COMMIT])
async def test_a_letter_whose_commit_fails_or_is_not_known_is_written_once(tmp_path: Path, when: When) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.fail_next(DataRejected("x", number=1406))
        rig.backend.fail_next(AWAY, when=when)
        await rig.buffer.accept_sessions([session_request()])
        assert (await rig.buffer.flush()).waiting == 1
        await rig.pass_time(31)
        assert await keys(rig) == ["S"]
        assert rig.metrics.lettered == {"data_rejected": 1}
        assert rig.journal.stats().unstored_items == 0


async def test_a_letter_that_the_backend_refuses_is_kept_in_a_file(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.reject(lambda record: is_poison(record) or (is_letter(record) and record.record_key == "bad1"))
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request(f"bad{n}", column_name="poison") for n in range(3)])
        await rig.buffer.flush()
        assert await keys(rig) == ["bad0", "bad2"]
        (kept,) = rig.letter_files.all()
        assert isinstance(kept, DeadLetter)
        assert kept.record_key == "bad1"
        assert rig.journal.stats().unstored_items == 0


@pytest.mark.parametrize("error", [AWAY, StorageSetupError("no table", number=1146)])
async def test_while_letters_cant_be_kept_the_record_stays_and_good_ones_go_on(
    tmp_path: Path, error: PersistenceError
) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.reject(lambda record: is_poison(record) or fails_with(error, is_letter)(record))
        await rig.buffer.accept_sessions([session_request()])
        receipt = await rig.buffer.accept_tasks(
            [task_request("bad", column_name="poison"), task_request("good")], Durability.STORAGE
        )
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (0, "waiting", "data_rejected")
        ]
        await until(lambda: rig.flusher.failure is not None)
        for number in range(3):
            await rig.buffer.accept_tasks([task_request(f"good{number}")])
            await rig.pass_time(31)
        assert len((await rig.stored())[1]) == 4
        assert (rig.buffer.stats().set_aside, rig.journal.stats().unstored_items) == (1, 1)
        rig.backend.reject(is_poison)
        await rig.pass_time(31)
        assert await keys(rig) == ["bad"]
        assert rig.flusher.failure is None


async def test_a_letter_that_neither_backend_nor_disk_takes_leaves_the_record_in_the_journal(tmp_path: Path) -> None:
    files = FaultyFiles()
    async with open_rig(tmp_path, files=files) as rig:
        rig.backend.reject(lambda record: is_poison(record) or is_letter(record))
        await rig.buffer.accept_sessions([session_request()])
        await rig.buffer.accept_tasks([task_request("bad", column_name="poison")])
        await rig.buffer.flush()
        (kept,) = rig.letter_files.all()
        await rig.buffer.accept_tasks([task_request("bad2", column_name="poison")])
        files.fail("rename", errno.EIO)
        await rig.buffer.flush()
        assert list(rig.letter_files.all()) == [kept]
        assert rig.journal.stats().unstored_items == 1
        files.heal()
        await rig.pass_time(31)
        await until(lambda: len(list(rig.letter_files.all())) == 2)


async def test_large_letters_are_written_few_at_once_and_compressed_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()

    def watched(*args: Any, **options: Any) -> Letter:  # noqa: ANN401  # whatever new_letter takes
        threads.add(threading.get_ident())
        return new_letter(*args, **options)

    monkeypatch.setattr(letterbox, "new_letter", watched)
    async with open_rig(tmp_path) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        for number in range(11):
            large = task_request(f"bad{number}", column_name="poison", source_text="x" * 1024 * 1024)
            await rig.buffer.accept_tasks([large])
        assert (await rig.buffer.flush()).dead_lettered == 11
        assert max(len(records) for name, records in rig.backend.written if name == DEAD_LETTERS.name) <= 4
        assert threading.get_ident() not in threads


# -------------------------------------------------------------------------------------------- an unknown number


UNKNOWN = UnclassifiedStorageError("what?", number=9999)


async def test_letters_that_all_fail_for_an_unknown_reason_are_no_files_and_are_written_once_that_is_mended(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path, orphan_grace_s=0) as rig:
        rig.backend.reject(fails_with(UNKNOWN, is_letter))
        await rig.buffer.accept_tasks(task_requests(300, "nobody"))
        await rig.pass_time(31)
        before = rig.backend.transactions
        await rig.pass_time(31)
        assert rig.backend.transactions - before <= 10 * ceil(log2(300))
        assert list(rig.letter_files.all()) == []
        assert isinstance(rig.flusher.failure, UnclassifiedStorageError)
        assert rig.journal.stats().unstored_items == 300
        rig.backend.reject(None)
        await rig.pass_time(31)
        assert len(await rig.letters()) == 300
        assert rig.flusher.failure is None


@pytest.mark.parametrize("first", [0, 6], ids=["at the head", "at the end"])
async def test_a_letter_that_alone_fails_for_an_unknown_reason_is_a_file(tmp_path: Path, first: int) -> None:
    """However many of them stand together, the others' letters are written."""
    bad = {f"T{n:05}" for n in range(first, first + 4)}
    async with open_rig(tmp_path, orphan_grace_s=0) as rig:
        rig.backend.reject(fails_with(UNKNOWN, lambda record: is_letter(record) and record.record_key in bad))
        await rig.buffer.accept_tasks(task_requests(10, "nobody"))
        for _ in range(3):
            await rig.pass_time(31)
        assert len(await rig.letters()) == 6
        files = list(rig.letter_files.all())
        assert {letter.record_key for letter in files if isinstance(letter, DeadLetter)} == bad
        assert rig.journal.stats().unstored_items == 0


async def test_a_lone_record_that_fails_for_an_unknown_reason_is_lettered_only_if_another_was_stored(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.reject(fails_with(UNKNOWN))
        await rig.buffer.accept_tasks([task_request("bad", column_name="poison")])
        for _ in range(3):
            with pytest.raises(StorageUnavailable, match="what"):
                await rig.buffer.flush()
        assert await rig.letters() == []
        assert isinstance(rig.flusher.failure, UnclassifiedStorageError)
        await rig.buffer.accept_tasks([task_request("good")])
        await rig.buffer.flush()
        (letter,) = await rig.letters()
        assert (letter.record_key, letter.reason, letter.error_number) == ("bad", "data_rejected", 9999)
        assert (await rig.stored())[1] == ["good"]
        assert rig.flusher.failure is None


@pytest.mark.parametrize("bad, size", [(1, 1000), (3, 1000), (10, 1000), (30, 10)])
@pytest.mark.parametrize("bad_first", [True, False])
async def test_good_records_never_stay_behind_those_that_fail_for_an_unknown_reason(
    tmp_path: Path, bad: int, size: int, *, bad_first: bool
) -> None:
    """However many stand together, at whichever end, in whichever chunk."""
    async with open_rig(tmp_path, size=size, interval_s=5) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.reject(fails_with(UNKNOWN))
        poison = [task_request(f"bad{n:02}", column_name="poison") for n in range(bad)]
        good = task_requests(9)
        await rig.buffer.accept_tasks([*poison, *good] if bad_first else [*good, *poison])
        for _ in range(12):
            await rig.pass_time(31)
        assert len((await rig.stored())[1]) == 9


async def test_an_unknown_failure_of_everything_is_a_matter_of_set_up_costs_little_and_is_told_once(
    tmp_path: Path,
) -> None:
    async with open_rig(tmp_path, interval_s=5) as rig:
        await rig.buffer.accept_sessions([session_request()], Durability.STORAGE)
        rig.backend.reject(fails_with(UNKNOWN, lambda record: isinstance(record, Task)))
        await rig.buffer.accept_tasks(task_requests(1000))
        with capture_logs() as lines:
            before = rig.backend.transactions
            for attempt in range(1, 6):
                await rig.pass_time(31)
                assert rig.backend.transactions - before <= attempt * 2 * (ceil(log2(1000)) + 3)
        assert [line["number"] for line in lines if line["event"] == "storage.failing"] == [9999]
        assert await rig.letters() == []
        assert rig.buffer.stats().tasks_count == 1000
        rig.backend.reject(None)
        await rig.pass_time(31)
        assert len((await rig.stored())[1]) == 1000


async def test_a_matter_of_set_up_is_retried_slowly(tmp_path: Path) -> None:
    async with open_rig(tmp_path) as rig:
        rig.backend.fail_next(StorageSetupError("no table", number=1146), times=2)
        await rig.buffer.accept_sessions([session_request()])
        with capture_logs() as lines, pytest.raises(StorageUnavailable):
            await rig.buffer.flush()
        await rig.pass_time(4.9)
        assert len(rig.metrics.failures) == 1
        await rig.pass_time(0.2)
        assert len(rig.metrics.failures) == 2
        await rig.pass_time(31)
        assert await rig.stored() == (["S"], [])
        assert [line["number"] for line in lines if line["event"] == "storage.failing"] == [1146]


async def test_a_sender_that_waits_for_storage_hears_of_dead_letters_and_orphans_at_once(tmp_path: Path) -> None:
    async with asyncio.timeout(60), open_rig(tmp_path) as rig:
        rig.backend.reject(is_poison)
        await rig.buffer.accept_sessions([session_request()])
        receipt = await rig.buffer.accept_tasks(
            [task_request("orphan", "nobody"), task_request("bad", column_name="poison"), task_request("good")],
            Durability.STORAGE,
        )
        assert [(item.index, item.place, item.reason) for item in receipt.not_stored] == [
            (0, "waiting", "unknown_session"),
            (1, "dead_letter", "data_rejected"),
        ]
        assert receipt.durability is Durability.JOURNAL

"""The account finds every kind of failure, each by itself, and takes nothing for one that is none."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from persistence_service.client.batches import Kind
from persistence_service.torture.account import Account, Kept, Letter
from persistence_service.torture.ledger import Record, Verdict, session_as_answered, task_as_answered
from persistence_service.torture.poison import POISON, is_poison
from persistence_service.torture.unsynced import Lost

_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return _NOON + timedelta(seconds=seconds)


def a_session(seconds: int = 0, status: str = "processing", **fields: object) -> Record:
    session: Record = {"session_id": "s", "filename": "f", "file_path": "p", "llm_provider": "l", "status": status}
    return session | {"event_time": at(seconds).isoformat()} | fields


def a_task(number: int, seconds: int | None = 1, status: str = "completed", **fields: object) -> Record:
    task: Record = {
        "task_id": f"t{number}",
        "session_id": "s",
        "batch_id": "b",
        "sheet_name": "x",
        "row_index": number,
        "column_name": "c",
        "source_text": "text",
        "status": status,
        "event_time": None if seconds is None else at(seconds).isoformat(),
    }
    return task | fields


def rows(*tasks: Record, stamped: int = 0) -> list[Record]:
    """Tasks as they are answered; those without event time with a time that the service gave."""
    answered = [task_as_answered(task) for task in tasks]
    return [task | {"event_time": task["event_time"] or at(1000 + stamped)} for task in answered]


def kept(
    tasks: Sequence[Record], *letters: Letter, sessions: Sequence[Record] = (session_as_answered(a_session()),)
) -> Kept:
    return Kept(sessions, tasks, letters)


def letter(task: Record, reason: str = "unknown_session") -> Letter:
    return Letter(reason, task_as_answered(task))


class Book(Account):
    """An account with a session, told in one call what was sent and kept, or sent and never answered."""

    def keeps(self, *records: Record, kind: Kind = "tasks") -> None:
        self.is_kept(self.leaves(kind, records))


@pytest.fixture
def account() -> Book:
    account = Book()
    account.keeps(a_session(), kind="sessions")
    return account


def numbers(verdict: Verdict) -> tuple[int, int, int, int]:
    return len(verdict.lost), len(verdict.regressed), len(verdict.duplicated), len(verdict.invented)


# ------------------------------------------------------------------------------------------- the four failures


def test_of_a_kept_state_with_one_failure_of_each_kind_each_is_found_by_its_id(account: Book) -> None:
    account.keeps(*(a_task(number, 1, "processing") for number in range(5)))
    account.keeps(*(a_task(number, 2) for number in range(5)))
    good, regressed, twice = a_task(0, 2), a_task(2, 1, "processing"), a_task(3, 2)
    changed = a_task(4, 2, target_text="never sent")
    verdict = account.check(kept(rows(good, regressed, twice, twice, changed)))
    assert not verdict
    # What was changed is not there as it was sent, and something else is.
    assert sorted(text[:7] for text in verdict.lost) == ["task t1", "task t4"]
    assert [text[:7] for text in verdict.regressed] == ["task t2"]
    assert [text[:7] for text in verdict.duplicated] == ["task t3"]
    assert [text[:7] for text in verdict.invented] == ["task t4"]


def test_what_is_kept_as_it_was_acknowledged_is_well(account: Book) -> None:
    account.keeps(a_task(0, 1, "processing"))
    account.keeps(a_task(0, 2))
    account.keeps(a_task(0, 3, "failed"))  # a completed translation is never undone
    assert account.check(kept(rows(a_task(0, 2))))


def test_a_task_that_nobody_sent_is_invented(account: Book) -> None:
    assert numbers(account.check(kept(rows(a_task(7))))) == (0, 0, 0, 1)


def test_a_task_that_is_a_row_and_a_letter_is_there_twice(account: Book) -> None:
    account.keeps(a_task(0))
    assert numbers(account.check(kept(rows(a_task(0)), letter(a_task(0))))) == (0, 0, 1, 0)


def test_a_refused_batch_may_not_show(account: Book) -> None:
    account.is_refused(account.leaves("tasks", [a_task(0)]))
    assert numbers(account.check(kept(rows(a_task(0))))) == (0, 0, 0, 1)
    assert account.check(kept([]))


def test_a_letter_holds_what_has_no_row(account: Book) -> None:
    account.keeps(a_task(0, 1, "processing"))
    account.keeps(a_task(0, 2, "failed"))
    assert account.check(kept([], letter(a_task(0, 1, "processing")), letter(a_task(0, 2, "failed"))))
    assert numbers(account.check(kept([], letter(a_task(0, 1, "processing"))))) == (0, 1, 0, 0)


# ----------------------------------------------------------------------------------------------------- doubt


def test_what_was_never_answered_may_be_kept_or_not_but_only_whole(account: Book) -> None:
    account.leaves("tasks", [a_task(0), a_task(1)])
    assert account.check(kept([]))
    assert account.check(kept(rows(a_task(0), a_task(1))))
    assert numbers(account.check(kept(rows(a_task(0))))) == (1, 0, 0, 0)


def test_what_was_kept_in_memory_may_be_gone_if_it_met_a_loss_but_only_whole_and_else_not(account: Book) -> None:
    before, met, after = (account.leaves("tasks", [a_task(number), a_task(number + 1)]) for number in (0, 2, 4))
    account.is_kept_in_memory(before)
    since = monotonic()
    account.is_kept_in_memory(met)
    lost = Lost(1, since, monotonic())
    account.is_kept_in_memory(replace(after, left_at=monotonic()))
    account.loses([lost])
    there = rows(a_task(0), a_task(1), a_task(4), a_task(5))
    assert account.check(kept(there))
    assert numbers(account.check(kept([]))) == (4, 0, 0, 0)
    assert numbers(account.check(kept([*there, *rows(a_task(2))]))) == (1, 0, 0, 0)


def test_tasks_whose_session_was_perhaps_lost_with_memory_may_be_letters_from_before_its_deletion() -> None:
    account = Book()
    account.is_kept_in_memory(account.leaves("sessions", [a_session()]))
    account.keeps(a_task(0))
    account.loses([Lost(1, 0, monotonic())])
    account.deleting("s")
    account.note_deleted("s", at(5), at(5))
    assert account.check(kept([], letter(a_task(0)), sessions=[]))
    assert numbers(account.check(kept(rows(a_task(0)), sessions=[]))) == (0, 0, 0, 1)


def test_what_was_kept_in_memory_and_met_no_loss_has_to_be_there(account: Book) -> None:
    account.is_kept_in_memory(account.leaves("tasks", [a_task(0)]))
    account.loses([])
    assert numbers(account.check(kept([]))) == (1, 0, 0, 0)


def test_a_newer_state_that_was_never_answered_is_as_good_as_the_one_acknowledged(account: Book) -> None:
    account.keeps(a_task(0, 1, "processing"))
    account.leaves("tasks", [a_task(0, 2, "failed")])
    assert account.check(kept(rows(a_task(0, 1, "processing"))))
    assert numbers(account.check(kept([]))) == (1, 0, 0, 0)
    assert account.check(kept(rows(a_task(0, 2, "failed"))))


def test_a_state_that_came_in_two_batches_tells_nothing_of_either(account: Book) -> None:
    account.leaves("tasks", [a_task(0), a_task(1)])
    account.keeps(a_task(0))
    assert account.check(kept(rows(a_task(0))))


# ------------------------------------------------------------------------------------- without event times


def test_without_event_times_the_order_of_sending_decides(account: Book) -> None:
    first, second = a_task(0, None, "processing", context="1"), a_task(0, None, "failed", context="2")
    account.keeps(first)
    account.keeps(second)
    assert account.check(kept(rows(second)))
    assert numbers(account.check(kept(rows(first)))) == (0, 1, 0, 0)
    assert numbers(account.check(kept(rows(first | {"context": "3"})))) == (1, 0, 0, 1)


def test_without_event_times_what_was_sent_before_a_deletion_is_gone_and_what_came_after_stays(account: Book) -> None:
    account.keeps(a_task(0, None))
    account.deleting("s")
    account.note_deleted("s", at(50), at(50))
    account.keeps(a_session(60), kind="sessions")
    account.keeps(a_task(1, None))
    anew = [session_as_answered(a_session(60))]
    assert account.check(kept(rows(a_task(1, None)), sessions=anew))
    assert numbers(account.check(kept([], sessions=anew))) == (1, 0, 0, 0)
    assert numbers(account.check(kept(rows(a_task(0, None), a_task(1, None)), sessions=anew))) == (0, 0, 0, 1)


def test_without_event_time_each_sending_is_another_state_and_is_kept_no_more_than_once(account: Book) -> None:
    sending = account.leaves("tasks", [a_task(0, None)])
    account.leaves_again(sending)
    account.is_kept(sending)
    first, second = (Letter("data_rejected", row) for at in (1, 2) for row in rows(a_task(0, None), stamped=at))
    (third,) = rows(a_task(0, None), stamped=3)
    assert account.check(kept([], first, second))
    assert numbers(account.check(kept([third], first, second))) == (0, 0, 1, 0)
    assert numbers(account.check(kept([], first, first))) == (0, 0, 1, 0)


# ----------------------------------------------------------------------------------- what the database refuses


@pytest.fixture
def refusing() -> Book:
    account = Book(refused=is_poison)
    account.keeps(a_session(), kind="sessions")
    return account


def test_what_the_database_refuses_is_a_letter_and_no_row(refusing: Book) -> None:
    poison = a_task(0, source_text=POISON)
    refusing.keeps(poison)
    assert refusing.check(kept([], letter(poison, "data_rejected")))
    assert numbers(refusing.check(kept([]))) == (1, 0, 0, 0)
    assert numbers(refusing.check(kept(rows(poison)))) == (0, 0, 0, 1)
    assert numbers(refusing.check(kept([], *[letter(poison, "data_rejected")] * 2))) == (0, 0, 1, 0)


def test_what_the_database_takes_is_no_letter_that_says_otherwise(refusing: Book) -> None:
    refusing.keeps(a_task(0))
    assert numbers(refusing.check(kept([], letter(a_task(0), "data_rejected")))) == (0, 0, 0, 1)
    assert refusing.check(kept([], letter(a_task(0), "unknown_session")))


# ------------------------------------------------------------------------------------------------- deletions


def test_what_is_deleted_may_not_come_back(account: Book) -> None:
    account.keeps(a_task(0))
    account.deleting("s")
    account.note_deleted("s", at(5), at(5))
    assert account.check(kept([], sessions=[]))
    assert numbers(account.check(kept([]))) == (0, 0, 0, 1)
    assert numbers(account.check(kept(rows(a_task(0)), sessions=[]))) == (0, 0, 0, 1)
    assert numbers(account.check(kept([], letter(a_task(0)), sessions=[]))) == (0, 0, 0, 1)


def test_what_is_newer_than_a_deletion_stays(account: Book) -> None:
    account.deleting("s")
    account.note_deleted("s", at(5), at(5))
    account.keeps(a_task(0, 6))
    assert account.check(kept([], letter(a_task(0, 6)), sessions=[]))
    assert numbers(account.check(kept([], sessions=[]))) == (1, 0, 0, 0)


def test_while_a_deletion_is_not_answered_all_may_be_gone_and_afterwards_its_time_decides(account: Book) -> None:
    account.keeps(a_task(0, 1))
    account.deleting("s")
    assert account.check(kept([], sessions=[]))
    assert account.check(kept(rows(a_task(0, 1))))
    account.was_not_deleted("s")
    assert numbers(account.check(kept([], sessions=[]))) == (2, 0, 0, 0)


# -------------------------------------------------------------------------------------------------- sessions


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, (0, 0, 0, 0)),
        ({"total_tasks": 3}, (0, 1, 0, 0)),
        ({"total_tasks": 9}, (0, 0, 0, 1)),
        ({"game_info": {"n": 1}}, (0, 1, 0, 0)),
        ({"game_info": None}, (0, 1, 0, 0)),
        ({"game_info": {"n": 3}}, (0, 0, 0, 1)),
        ({"status": "processing", "event_time": at(0)}, (0, 1, 0, 0)),
        ({"status": "cancelled"}, (0, 0, 0, 1)),
    ],
)
def test_each_part_of_a_session_is_judged_by_itself(changed: Record, expected: tuple[int, int, int, int]) -> None:
    account = Book()
    account.keeps(a_session(0, total_tasks=5, game_info={"n": 1}), kind="sessions")
    account.keeps(a_session(1, total_tasks=3, game_info={"n": 2}), kind="sessions")
    account.keeps(a_session(2, "completed"), kind="sessions")
    row = session_as_answered(a_session(2, "completed", total_tasks=5, game_info={"n": 2})) | changed
    assert numbers(account.check(kept([], sessions=[row]))) == expected


def test_a_session_that_is_not_there_is_lost_and_one_that_is_listed_twice_is_there_twice(account: Book) -> None:
    session = session_as_answered(a_session())
    assert numbers(account.check(kept([], sessions=[]))) == (1, 0, 0, 0)
    assert numbers(account.check(kept([], sessions=[session, session]))) == (0, 0, 1, 0)

"""The statements of a bulk upsert: as few as the server's packets allow, and what fits in none is told."""

from __future__ import annotations

import pytest

from persistence_service.errors import DataRejected
from persistence_service.models.task import Task
from persistence_service.storage.collections import ALL_COLLECTIONS, TASKS
from persistence_service.storage.mysql.schema import MysqlSchema
from persistence_service.storage.mysql.upsert import Upsert
from persistence_service.testing.samples import task_record

UPSERT = Upsert(MysqlSchema(ALL_COLLECTIONS), TASKS)


def statements(tasks: list[Task], max_packet_bytes: int = 1 << 24, *, row_alias: bool = True) -> list[bytes]:
    return list(UPSERT.statements(tasks, str, max_packet_bytes=max_packet_bytes, row_alias=row_alias))


def test_nothing_is_no_statement() -> None:
    assert statements([]) == []


def test_what_fits_is_one_statement() -> None:
    [statement] = statements([task_record(f"task-{number}") for number in range(1000)])
    assert statement.count(b"'task-") == 1000


def test_what_does_not_fit_is_cut_into_statements_that_do_in_order() -> None:
    tasks = [task_record(f"task-{number:03}", source_text="é" * 500) for number in range(100)]
    [whole] = statements(tasks)
    cut = statements(tasks, len(whole) // 5)
    assert 5 < len(cut) <= 16
    assert max(map(len, cut)) < len(whole) // 5
    places = [b"".join(cut).index(task.task_id.encode()) for task in tasks]
    assert places == sorted(places)


def test_a_record_that_fits_in_no_packet_is_told_with_both_sizes() -> None:
    tasks = [task_record("small"), task_record("large", source_text="é" * 10_000)]
    with pytest.raises(DataRejected, match=r"2[0-9]{4} bytes .* max_allowed_packet of 16384 bytes"):
        statements(tasks, 16_384)


def test_the_two_forms_differ_in_how_they_name_what_arrives() -> None:
    [new] = statements([task_record()])
    [old] = statements([task_record()], row_alias=False)
    assert b" AS incoming ON DUPLICATE KEY UPDATE " in new
    assert b"VALUES(" not in new
    assert b"VALUES(digest)" in old
    assert b"incoming" not in old

"""The index that a page of MySQL names: one that bounds what is read, then one that has the order."""

from __future__ import annotations

from typing import Any

import pytest

from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS, TASKS, TOMBSTONES, Collection
from persistence_service.storage.mysql.translate import indexes_for
from persistence_service.storage.query import Between, Condition, Equals, OneOf, Query, Sort

OF_SESSION = Equals("session_id", "s")
OF_BATCH = Equals("batch_id", "b")
OF_SESSIONS = OneOf("session_id", ["s", "t"])
POSITION = (Sort("sheet_name"), Sort("row_index"), Sort("column_name"))
OF_A_SESSION = ("ix_tasks_position", "ix_tasks_status")


@pytest.mark.parametrize(
    "collection, where, order, indexes",
    [
        (TASKS, [], (), ("PRIMARY",)),
        (TASKS, [], (Sort("created_at"),), ("ix_tasks_created",)),
        (TASKS, [Equals("status", "failed")], (Sort("updated_at", descending=True),), ("ix_tasks_updated",)),
        (TASKS, [Between("created_at", low="2026")], (Sort("updated_at"),), ("ix_tasks_updated",)),
        (TASKS, [Equals("sheet_name", "S")], POSITION, ()),
        (TASKS, [OF_SESSION], POSITION, ("ix_tasks_position",)),
        (TASKS, [OF_SESSION, Equals("sheet_name", "S")], POSITION, ("ix_tasks_position",)),
        (TASKS, [OF_SESSION, Equals("status", "failed")], POSITION, OF_A_SESSION),
        (TASKS, [OF_SESSION, Equals("status", "failed"), Equals("sheet_name", "S")], POSITION, ("ix_tasks_position",)),
        (TASKS, [OF_SESSION, OneOf("status", ["failed", "pending"])], POSITION, OF_A_SESSION),
        (TASKS, [OF_SESSION], (Sort("created_at"),), OF_A_SESSION),
        (TASKS, [OF_SESSION], (*POSITION, Sort("task_id", descending=True)), OF_A_SESSION),
        (TASKS, [OF_SESSIONS], (), OF_A_SESSION),
        (TASKS, [OF_BATCH, OF_SESSION], (Sort("created_at"),), ("ix_tasks_batch",)),
        (TASKS, [OneOf("task_id", ["t"]), OF_SESSION], POSITION, ("PRIMARY",)),
        (SESSIONS, [], (Sort("created_at", descending=True),), ("ix_sessions_created",)),
        (SESSIONS, [], (Sort("filename"),), ()),
        (TOMBSTONES, [Equals("removed_at", None)], (), ("ix_deleted_removed",)),
        (DEAD_LETTERS, [Equals("reason", "r")], (Sort("created_at"),), ("ix_letters_created",)),
        (DEAD_LETTERS, [Equals("reason", "r"), OF_SESSION], (Sort("created_at"),), ("ix_letters_reason",)),
        (DEAD_LETTERS, [Equals("reason", "r")], (Sort("session_id"),), ("ix_letters_reason",)),
    ],
    ids=str,
)
def test_a_page_names_the_index_that_suits_it(
    collection: Collection[Any], where: list[Condition], order: tuple[Sort, ...], indexes: tuple[str, ...]
) -> None:
    assert indexes_for(collection, where, Query(order=order).total_order(collection.key)) == indexes


def test_keys_to_delete_name_an_index_only_where_one_bounds_them() -> None:
    assert indexes_for(TASKS, [OF_SESSIONS]) == OF_A_SESSION
    assert indexes_for(TASKS, [Equals("status", "failed")]) == ()
    assert indexes_for(TASKS, [Equals("task_id", "t")]) == ("PRIMARY",)

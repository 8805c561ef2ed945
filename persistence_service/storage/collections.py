"""The collections that backends hold, described as data: record type, key, merge rule, relations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from persistence_service.models.dead_letter import DeadLetter, DeadLetterPart, SettledLetter
from persistence_service.models.merge import (
    SESSION_RULE,
    TASK_RULE,
    MergeRule,
    OrderTerm,
    Part,
    merge_in_either_order,
    merge_sessions,
    merge_tasks,
)
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.models.tombstone import Tombstone

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Parent:
    """Each record's `field` is the key of a record of `collection`, without which it is not stored and with which it goes."""

    collection: Collection[Any]
    field: str


@dataclass(frozen=True, slots=True)
class NewestOf:
    """A derived field: the newest of a record's own `field` and its children's `child_field`. Never stored."""

    field: str
    child_collection: str
    child_field: str


@dataclass(frozen=True, slots=True)
class Collection(Generic[R]):
    """A named set of records of one type, unique by `key` (a text field, compared code point by code point).

    A write that would change one of `fixed` in a stored record is rejected. `derived` may be used in conditions and orders.
    """

    name: str
    record: type[R]
    key: str
    rule: MergeRule[R]
    merge: Callable[[R, R], R] = field(repr=False)
    parent: Parent | None = None
    fixed: tuple[str, ...] = ()
    derived: Mapping[str, NewestOf] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record, in the order in which they make one; without the derived ones."""
        return self.record.__struct_fields__

    def key_of(self, record: R) -> str:
        """The key of `record`."""
        key: str = getattr(record, self.key)
        return key

    def fixed_of(self, record: R) -> tuple[Any, ...]:
        """The values that a later record of the same key may not change."""
        return tuple(getattr(record, name) for name in self.fixed)

    def merged(self, records: Iterable[R]) -> list[R]:
        """Records of one key that were accepted in any order, merged: one for each that contradicts those before in `fixed`."""
        views: dict[tuple[Any, ...], R] = {}
        for record in records:
            fixed = self.fixed_of(record)
            present = views.get(fixed)
            views[fixed] = record if present is None else merge_in_either_order(self.merge, present, record)
        return list(views.values())


LAST_ACTIVITY = "last_activity"

SESSIONS: Collection[Session] = Collection(
    name="translation_sessions",
    record=Session,
    key="session_id",
    rule=SESSION_RULE,
    merge=merge_sessions,
    derived={LAST_ACTIVITY: NewestOf("updated_at", "translation_tasks", "updated_at")},
)
TASKS: Collection[Task] = Collection(
    name="translation_tasks",
    record=Task,
    key="task_id",
    rule=TASK_RULE,
    merge=merge_tasks,
    parent=Parent(SESSIONS, "session_id"),
    fixed=("session_id",),
)
_TOMBSTONE_RULE: MergeRule[Tombstone] = MergeRule(
    parts=(Part(("deleted_up_to", "removed_at"), (OrderTerm("deleted_up_to"), OrderTerm("removed_at"))),)
)
TOMBSTONES: Collection[Tombstone] = Collection(
    name="deleted_sessions",
    record=Tombstone,
    key="session_id",
    rule=_TOMBSTONE_RULE,
    merge=_TOMBSTONE_RULE.compile(),
)
# Found again, a record's letter says why it was refused the last time.
_LETTER_RULE: MergeRule[DeadLetter] = MergeRule(
    parts=(Part(("reason", "detail", "error_number", "error_column"), (OrderTerm("updated_at"),)),)
)
DEAD_LETTERS: Collection[DeadLetter] = Collection(
    name="dead_letters",
    record=DeadLetter,
    key="letter_id",
    rule=_LETTER_RULE,
    merge=_LETTER_RULE.compile(),
)
_LETTER_PART_RULE: MergeRule[DeadLetterPart] = MergeRule(parts=())
DEAD_LETTER_PARTS: Collection[DeadLetterPart] = Collection(
    name="dead_letter_parts",
    record=DeadLetterPart,
    key="part_id",
    rule=_LETTER_PART_RULE,
    merge=_LETTER_PART_RULE.compile(),
    parent=Parent(DEAD_LETTERS, "letter_id"),
)
_SETTLED_RULE: MergeRule[SettledLetter] = MergeRule(parts=())
SETTLED_LETTERS: Collection[SettledLetter] = Collection(
    name="settled_dead_letters",
    record=SettledLetter,
    key="letter_id",
    rule=_SETTLED_RULE,
    merge=_SETTLED_RULE.compile(),
)
ALL_COLLECTIONS: tuple[Collection[Any], ...] = (
    SESSIONS,
    TASKS,
    TOMBSTONES,
    DEAD_LETTERS,
    DEAD_LETTER_PARTS,
    SETTLED_LETTERS,
)
"""All that a backend is asked to hold; these are in one backend, since they change together."""

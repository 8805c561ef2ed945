"""The merge rule, stated once as data; the buffer interprets it here, SQL backends translate it.

Delivery is at least once and in any order, so keeping a record must be idempotent and commutative: whatever the order,
the split or the repetition, the same records end in the same row (`created_at` and `updated_at` aside).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec

from persistence_service.models.session import Session
from persistence_service.models.status import RANK, Status
from persistence_service.models.task import Task

R = TypeVar("R", bound=msgspec.Struct)


class Measure(Enum):
    """How a field counts in an order."""

    VALUE = "value"
    IS_COMPLETED = "is_completed"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """One place of an order: a field, and what of it is compared. None is below everything."""

    field: str
    measure: Measure = Measure.VALUE


@dataclass(frozen=True, slots=True)
class Part:
    """Fields that travel together: the record with the higher `order` gives all of them.

    `order` compares its terms from left to right. An empty one means that the newest arrival always wins.
    """

    fields: tuple[str, ...]
    order: tuple[OrderTerm, ...]


@dataclass(frozen=True, slots=True)
class MergeRule(Generic[R]):
    """How two records of one key become one row.

    Each part merges by itself, and each of `largest` keeps the larger value. `created_at` stays the older row's;
    `updated_at` goes forward only when something changed.
    """

    parts: tuple[Part, ...]
    largest: tuple[str, ...] = ()

    def compile(self) -> Callable[[R, R], R]:
        """The rule as a function `merge(kept, arriving)`, which gives `kept` itself when nothing changes."""
        keys = tuple((part.fields, _order_key(part.order)) for part in self.parts)
        largest = self.largest

        def merge(kept: R, arriving: R) -> R:
            changes: dict[str, Any] = {}
            for fields, key in keys:
                if key is None or key(arriving) > key(kept):
                    changes.update((field, getattr(arriving, field)) for field in fields)
            for field in largest:
                if getattr(arriving, field) > getattr(kept, field):
                    changes[field] = getattr(arriving, field)
            if not changes:
                return kept
            if "updated_at" in kept.__struct_fields__:
                changes["updated_at"] = max(kept.updated_at, arriving.updated_at)  # type: ignore[attr-defined]  # checked
            return msgspec.structs.replace(kept, **changes)

        return merge


def merge_in_either_order(merge: Callable[[R, R], R], one: R, other: R) -> R:
    """Both in one where nobody knows which was accepted earlier: `created_at` is the earlier one's."""
    record = merge(one, other)
    if "created_at" in record.__struct_fields__ and other.created_at < record.created_at:  # type: ignore[attr-defined]  # checked
        return msgspec.structs.replace(record, created_at=other.created_at)  # type: ignore[attr-defined]  # likewise
    return record


def _order_key(order: tuple[OrderTerm, ...]) -> Callable[[Any], tuple[Any, ...]] | None:
    """A function from a record to a tuple that compares as `order` says; None for the empty order."""
    getters = tuple((attrgetter(term.field), term.measure) for term in order)

    def key(record: Any) -> tuple[Any, ...]:  # noqa: ANN401  # any record that has the fields
        return tuple(_measured(getter(record), measure) for getter, measure in getters)

    return key if getters else None


def _measured(value: Any, measure: Measure) -> Any:  # noqa: ANN401  # comparable values of several types
    match measure:
        case Measure.IS_COMPLETED:
            return value == Status.COMPLETED
        case Measure.RANK:
            return RANK[value]
        case Measure.VALUE:
            return (value is not None, value) if value is not None else (False,)


def _but(record: type[msgspec.Struct], *left_out: str) -> tuple[str, ...]:
    return tuple(field for field in record.__struct_fields__ if field not in left_out)


# The whole record of the highest (is completed, event time, status rank, digest): a completed translation is never undone.
TASK_RULE: MergeRule[Task] = MergeRule(
    parts=(
        Part(
            fields=_but(Task, "task_id", "created_at", "updated_at"),
            order=(
                OrderTerm("status", Measure.IS_COMPLETED),
                OrderTerm("event_time"),
                OrderTerm("status", Measure.RANK),
                OrderTerm("digest"),
            ),
        ),
    )
)

SESSION_RULE: MergeRule[Session] = MergeRule(
    parts=(
        Part(
            fields=("filename", "file_path", "status", "llm_provider", "processing_tasks", "event_time", "digest"),
            order=(OrderTerm("event_time"), OrderTerm("status", Measure.RANK), OrderTerm("digest")),
        ),
        Part(
            fields=("game_info", "game_info_time", "game_info_digest"),
            order=(OrderTerm("game_info_time"), OrderTerm("game_info_digest")),
        ),
        Part(
            fields=("metadata", "metadata_time", "metadata_digest"),
            order=(OrderTerm("metadata_time"), OrderTerm("metadata_digest")),
        ),
    ),
    largest=("total_tasks", "completed_tasks", "failed_tasks"),
)

merge_tasks: Callable[[Task, Task], Task] = TASK_RULE.compile()
merge_sessions: Callable[[Session, Session], Session] = SESSION_RULE.compile()

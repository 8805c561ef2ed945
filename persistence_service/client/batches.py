"""From records to the bodies of requests, none over its bounds, and from their answers to one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import msgspec

from persistence_service.errors import FieldProblem, ValidationFailed
from persistence_service.models.answers import BatchAccepted, UnstoredItem
from persistence_service.models.limits import MAX_PROBLEMS
from persistence_service.models.session import SessionRequest
from persistence_service.models.task import TaskRequest

Kind = Literal["sessions", "tasks"]
DURABILITIES = ("memory", "journal", "storage")
"""What an answer may say, the least first."""
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Part:
    """One request of a batch: its body, and which of the batch's records are in it."""

    body: bytes
    first: int
    count: int


def parts_of(kind: Kind, items: Sequence[bytes], *, max_items: int, max_bytes: int) -> Iterator[Part]:
    """`items` in order, at most `max_items` and about `max_bytes` a part; an item over that is a part of its own.

    No items make one empty part.
    """
    first, size = 0, 0
    for index, item in enumerate(items):
        if index > first and (index - first == max_items or size + len(item) > max_bytes):
            yield _part(kind, items, first, index)
            first, size = index, 0
        size += len(item) + 1
    yield _part(kind, items, first, len(items))


def _part(kind: Kind, items: Sequence[bytes], first: int, end: int) -> Part:
    return Part(b'{"%s":[%s]}' % (kind.encode(), b",".join(items[first:end])), first, end - first)


def encoded(records: Sequence[SessionRequest | TaskRequest]) -> list[bytes]:
    """Each record as JSON.

    Raises:
        ValidationFailed: names the first 100 records that JSON can't hold as they are. All else is for the service to check.
    """
    items: list[bytes] = []
    problems: list[FieldProblem] = []
    for index, record in enumerate(records):
        try:
            _check_numbers(record)
            items.append(_encoder.encode(record))
        except UnicodeEncodeError:
            problems.append(FieldProblem(index, "", "has a lone surrogate, which is no text"))
        except (ValueError, TypeError, RecursionError) as exc:
            problems.append(FieldProblem(index, "", f"is not JSON: {exc}"))
    if problems:
        raise ValidationFailed(problems[:MAX_PROBLEMS])
    return items


def _check_numbers(record: SessionRequest | TaskRequest) -> None:
    """Raises ValueError for NaN and infinities, which the encoder would turn into null without a word."""
    if isinstance(record, SessionRequest):
        json.dumps((record.game_info, record.metadata), allow_nan=False, default=str)
    elif record.confidence is not None and not isfinite(record.confidence):
        raise ValueError("confidence must be from 0 to 1")


@contextmanager
def indices_from(first: int) -> Iterator[None]:
    """Problems of a part name the places in the whole batch."""
    try:
        yield
    except ValidationFailed as exc:
        exc.problems = tuple(p if p.index is None else replace(p, index=p.index + first) for p in exc.problems)
        raise


def moved(receipt: BatchAccepted, first: int) -> BatchAccepted:
    """A part's answer with the places in the whole batch."""
    return msgspec.structs.replace(
        receipt,
        waiting=_moved(receipt.waiting, first),
        dead_lettered=_moved(receipt.dead_lettered, first),
        dropped=_moved(receipt.dropped, first),
    )


def _moved(items: Sequence[UnstoredItem], first: int) -> list[UnstoredItem]:
    return [UnstoredItem(item.index + first, item.reason) for item in items]


def joined(receipts: Sequence[BatchAccepted]) -> BatchAccepted:
    """The answers of all parts as one; as safe as the least safe of them."""
    return BatchAccepted(
        status=receipts[-1].status,
        count=sum(receipt.count for receipt in receipts),
        timestamp=receipts[-1].timestamp,
        durability=min((receipt.durability for receipt in receipts), key=DURABILITIES.index),
        waiting=[item for receipt in receipts for item in receipt.waiting],
        dead_lettered=[item for receipt in receipts for item in receipt.dead_lettered],
        dropped=[item for receipt in receipts for item in receipt.dropped],
    )

"""Which records of a write are left out, by what is stored."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from persistence_service.storage.backend import Rejection, RejectionReason
from persistence_service.storage.collections import Collection

R = TypeVar("R", bound=msgspec.Struct)


def rejections(
    collection: Collection[R],
    records: Sequence[R],
    parents: Container[str],
    stored: Mapping[str, tuple[Any, ...]],
) -> list[Rejection]:
    """The records that can't be stored, in order; `stored` are the fixed fields by key, and records before fix them too."""
    parent = collection.parent
    fixed = dict(stored)
    rejected = []
    for index, record in enumerate(records):
        values = collection.fixed_of(record)
        if fixed.get(collection.key_of(record), values) != values:
            rejected.append(Rejection(index, RejectionReason.FIXED_FIELD_CHANGED))
        elif parent is not None and getattr(record, parent.field) not in parents:
            rejected.append(Rejection(index, RejectionReason.UNKNOWN_PARENT))
        else:
            fixed[collection.key_of(record)] = values
    return rejected


def kept(records: Sequence[R], rejected: Sequence[Rejection]) -> Sequence[R]:
    """The records that are not left out."""
    left_out = {rejection.index for rejection in rejected}
    return [record for index, record in enumerate(records) if index not in left_out] if left_out else records

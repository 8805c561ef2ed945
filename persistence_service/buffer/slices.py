"""Parts of a sequence that may be in work at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

SLICE_BYTES = 4 * 1024 * 1024


def slices(
    items: Iterable[T], size_of: Callable[[T], int], *, max_items: int, max_bytes: int = SLICE_BYTES
) -> Iterator[list[T]]:
    """`items` in order, in parts within both bounds, or of one item however large."""
    part: list[T] = []
    size = 0
    for item in items:
        if part and (len(part) >= max_items or size + size_of(item) > max_bytes):
            yield part
            part, size = [], 0
        part.append(item)
        size += size_of(item)
    if part:
        yield part

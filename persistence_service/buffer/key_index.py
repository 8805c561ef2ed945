"""A small index from keys to the journaled batches that may hold them, so that what waits on disk can still be found."""

from __future__ import annotations

from typing import Final

_BUCKETS: Final = 4096
_ENTRY: Final = 8
_TAG: Final = 3
_BATCH_BITS: Final = 40
_SWEPT_AT_ONCE: Final = 4


class KeyIndex:
    """Eight bytes a key, whatever its length: 24 bits of its hash and the number of the batch it is in.

    Batches are numbered upwards and forgotten in the same order. A look-up may name a batch that does not hold the key
    (about once in 16 million entries of a bucket) and never misses one that does. The hash is the interpreter's, which is
    seeded anew in each process, so nobody can choose keys that fall together.
    """

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._first = 0
        self._sweep = 0

    def add(self, key: str, batch: int) -> None:
        """`batch`, not lower than any before, holds `key`."""
        bucket, tag = divmod(hash(key) & 0xFFF_FFFFFF, 1 << 24)
        self._buckets[bucket] += ((tag << _BATCH_BITS) | batch).to_bytes(_ENTRY, "big")

    def find(self, key: str) -> list[int]:
        """The batches that may hold `key`, without repetition, oldest first."""
        number, tag = divmod(hash(key) & 0xFFF_FFFFFF, 1 << 24)
        bucket, wanted = self._buckets[number], tag.to_bytes(_TAG, "big")
        found: dict[int, None] = {}
        at = bucket.find(wanted)
        while at >= 0:
            if at % _ENTRY == 0 and (batch := _batch(bucket, at)) >= self._first:
                found[batch] = None
            at = bucket.find(wanted, at + 1)
        return list(found)

    def forget_before(self, batch: int) -> None:
        """Nothing below `batch` is looked for any more; its room is given back little by little."""
        self._first = batch
        for _ in range(_SWEPT_AT_ONCE):
            bucket = self._buckets[self._sweep]
            self._sweep = (self._sweep + 1) % _BUCKETS
            low, high = 0, len(bucket) // _ENTRY
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if _batch(bucket, middle * _ENTRY) < batch else (low, middle)
            del bucket[: low * _ENTRY]

    def clear(self) -> None:
        """Forget all of it at once."""
        self._buckets = [bytearray() for _ in range(_BUCKETS)]


def _batch(bucket: bytearray, at: int) -> int:
    return int.from_bytes(bucket[at + _TAG : at + _ENTRY], "big")

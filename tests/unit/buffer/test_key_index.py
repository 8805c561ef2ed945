"""The index of what waits on disk: it may name a batch too many, never one too few."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.buffer import key_index
from persistence_service.buffer.key_index import KeyIndex

_keys = st.sampled_from([f"key {n}" for n in range(30)])
_operations = st.lists(
    st.tuples(st.just("add"), _keys, st.integers(0, 2))
    | st.tuples(st.just("forget"), st.integers(0, 3))
    | st.just(("clear",)),
    max_size=60,
)


class Checked:
    """An index beside the dictionary that it stands for."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self.expected: dict[str, list[int]] = {}
        self.next = self.first = 0

    def do(self, operation: Sequence[Any]) -> None:
        match operation:
            case ("add", key, further):
                self.next += further
                self.index.add(key, self.next)
                self.expected.setdefault(key, []).append(self.next)
            case ("forget", further):
                self.first = min(self.first + further, self.next)
                self.index.forget_before(self.first)
                self.expected = {
                    key: [batch for batch in batches if batch >= self.first] for key, batches in self.expected.items()
                }
            case _:
                self.index.clear()
                self.expected.clear()

    def holding(self, key: str) -> list[int]:
        return list(dict.fromkeys(self.expected.get(key, [])))


@given(_operations)
def test_it_finds_what_a_dictionary_would(operations: list[tuple[Any, ...]]) -> None:
    checked = Checked()
    for operation in operations:
        checked.do(operation)
        for number in range(30):
            assert checked.index.find(f"key {number}") == checked.holding(f"key {number}")


@given(_operations)
def test_keys_that_fall_together_are_found_too_many_and_never_too_few(operations: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "hash", lambda key: len(key) % 2, raising=False)
        checked = Checked()
        for operation in operations:
            checked.do(operation)
            for number in range(30):
                found = checked.index.find(f"key {number}")
                assert set(found) >= set(checked.holding(f"key {number}"))
                assert found == sorted(set(found))
                assert all(batch >= checked.first for batch in found)


def test_what_is_forgotten_gives_its_room_back() -> None:
    index = KeyIndex()
    for batch in range(10_000):
        index.add(f"key {batch}", batch)
        index.forget_before(max(0, batch - 10))
    assert sum(map(len, index._buckets)) < 8 * 2 * 2_100, "a sweep takes 1,024 batches to come round"

"""Merge rules of every shape, and records that meet in each place of them."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from persistence_service.models.merge import Measure, MergeRule, OrderTerm, Part
from persistence_service.models.status import Status
from persistence_service.storage.collections import Collection


class Entry(msgspec.Struct, frozen=True):
    name: str
    text: str | None
    number: int | None
    status: Status
    blob: bytes
    weight: float | None
    hits: int


def collection(name: str, *parts: Part, largest: tuple[str, ...] = ()) -> Collection[Entry]:
    rule: MergeRule[Entry] = MergeRule(parts, largest)
    return Collection(name, Entry, "name", rule, rule.compile())


STATUS = (OrderTerm("status", Measure.IS_COMPLETED), OrderTerm("status", Measure.RANK))
COLLECTIONS = (
    collection("newest_arrival", Part(("text", "number", "status", "blob", "weight", "hits"), ())),
    collection("first_arrival", Part((), (OrderTerm("name"),))),
    collection("null_first", Part(("text", "number", "blob"), (OrderTerm("number"), OrderTerm("blob")))),
    collection("null_between", Part(("text", "status"), (OrderTerm("blob"), OrderTerm("text"), *STATUS))),
    collection("null_last", Part(("weight", "status"), (*STATUS, OrderTerm("weight"))), largest=("hits",)),
    collection("largest_alone", largest=("hits",)),
    collection("mixed", Part(("text",), ()), Part(("number",), (OrderTerm("number"),)), largest=("hits",)),
)

entries = st.builds(
    Entry,
    name=st.sampled_from(("a", "A")),
    text=st.sampled_from((None, "", "x", "é")),
    number=st.sampled_from((None, -1, 0, 2)),
    status=st.sampled_from(Status),
    blob=st.sampled_from((b"", b"\0", b"\xff")),
    weight=st.sampled_from((None, 0.0, 0.5)),
    hits=st.integers(0, 2),
)

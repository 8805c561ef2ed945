"""Several kinds of damage at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.journal.damage import SEGMENTS, Original, make_original, starts
from tests.unit.journal.kinds import AS_WHAT, SEGMENT_KINDS, SIDE_FILES, damage_segment, flip, replace

Damage = Callable[[Path, Original], None]


@pytest.fixture(scope="module")
def original() -> Iterator[Original]:
    folder = Path(tempfile.mkdtemp())
    yield asyncio.run(make_original(folder / "original"))
    shutil.rmtree(folder)


def _on_segment(kind: str, index: int) -> Damage:
    def damage(damaged: Path, original: Original) -> None:
        if (damaged / original.segments[index]).is_file():
            damage_segment(damaged, original, original, kind, index)

    return damage


def _in_segment(change: Callable[[Path, int], object], index: int, share: float) -> Damage:
    def damage(damaged: Path, original: Original) -> None:
        path = damaged / original.segments[index]
        if path.is_file() and path.stat().st_size:
            change(path, int(path.stat().st_size * share))

    return damage


def _on_side_file(name: str, what: str) -> Damage:
    return lambda damaged, _: AS_WHAT[what](damaged / name)


_indices = st.integers(0, SEGMENTS - 1)
_shares = st.floats(0, 1, exclude_max=True)
_near_the_end = st.floats(0.9, 1, exclude_max=True)
_damages = st.one_of(
    st.builds(_on_segment, st.sampled_from([*SEGMENT_KINDS, "an older copy of itself"]), _indices),
    st.builds(_in_segment, st.sampled_from([flip, os.truncate]), _indices, _shares | _near_the_end),
    st.builds(_on_side_file, st.sampled_from([*SIDE_FILES, "quarantine"]), st.sampled_from(list(AS_WHAT))),
    st.builds(lambda name: lambda damaged, _: replace(damaged / name, None), st.sampled_from(["head", "head.new"])),
)


@settings(max_examples=150, deadline=None)
@given(damages=st.lists(_damages, min_size=2, max_size=6))
def test_whatever_comes_together_all_that_is_intact_comes_back_and_what_is_gone_is_not_passed_over(
    original: Original, damages: list[Damage]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        damaged = original.copy(Path(folder) / "damaged")
        for damage in damages:
            damage(damaged, original)
        intact = original.intact(damaged)
        says_nothing = original.is_shortened(damaged) or not _is_told_of_the_newest(original, damaged)
        first, *later = asyncio.run(starts(damaged, intact, times=3, crashing=True))
        said = first.stats.losses or first.torn_from or first.stats.damaged_regions
        assert said or says_nothing or intact == set(original.records.values())
        assert all(each.stats.quarantined_files for each in later) or not first.stats.losses


def _is_told_of_the_newest(original: Original, damaged: Path) -> bool:
    """Whether anything that is left names the newest segment: without it and without the head it was never there."""
    names = {path.name for path in damaged.glob("*.seg") if os.path.lexists(path)}
    head = damaged / "head"
    return original.newest in names or (head.is_file() and head.read_bytes() == original.files["head"])

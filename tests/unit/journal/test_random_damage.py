"""Several kinds of damage at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


@dataclass(frozen=True)
class OnSegment:
    kind: str
    index: int

    def __call__(self, damaged: Path, original: Original) -> None:
        if (damaged / original.segments[self.index]).is_file():
            with contextlib.suppress(OSError):  # in the way is what earlier damage put there
                damage_segment(damaged, original, original, self.kind, self.index)


@dataclass(frozen=True)
class InSegment:
    change: Literal["cut", "flip"]
    index: int
    share: float

    def __call__(self, damaged: Path, original: Original) -> None:
        path = damaged / original.segments[self.index]
        size = path.stat().st_size if path.is_file() else 0
        if size and self.change == "flip":
            flip(path, int(size * self.share))
        elif size:
            os.truncate(path, int(size * self.share))


@dataclass(frozen=True)
class OnSideFile:
    name: str
    what: str

    def __call__(self, damaged: Path, _: Original) -> None:
        AS_WHAT[self.what](damaged / self.name)


@dataclass(frozen=True)
class DirectoryInstead:
    name: str

    def __call__(self, damaged: Path, _: Original) -> None:
        replace(damaged / self.name, None)


_indices = st.integers(0, SEGMENTS - 1)
_shares = st.floats(0, 1, exclude_max=True) | st.floats(0.9, 1, exclude_max=True)
_damages: st.SearchStrategy[Damage] = st.one_of(
    st.builds(OnSegment, st.sampled_from([*SEGMENT_KINDS, "an older copy of itself"]), _indices),
    st.builds(InSegment, st.sampled_from(["cut", "flip"]), _indices, _shares),
    st.builds(OnSideFile, st.sampled_from([*SIDE_FILES, "quarantine"]), st.sampled_from(list(AS_WHAT))),
    st.builds(DirectoryInstead, st.sampled_from(["head", "head.new"])),
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
    head, newest = damaged / "head", damaged / original.newest
    if head.is_file() and head.read_bytes() == original.files["head"]:
        return True
    name = original.identity(newest.read_bytes()) if newest.is_file() else None
    return os.path.lexists(newest) and name in (None, original.newest)

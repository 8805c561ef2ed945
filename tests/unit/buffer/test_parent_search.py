"""Others are asked for the sessions of orphans: not too often, never twice at a time, and nobody waits for their answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.orphans import Orphans
from persistence_service.buffer.parent_search import ParentSearch
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import StorageUnavailable
from persistence_service.storage.memory import MemoryBackend
from persistence_service.testing.clocks import ManualTiming
from tests.unit.buffer.harness import Rig, let_all_run, open_rig, session_request, task_request, task_requests
from tests.unit.buffer.test_set_aside import is_poison, poisoned

PAUSE_S = 1.0
ROOM = 5
MANY = 30


class Others:
    """Those who are asked: `asked` is for whom, each time, and they answer when they are told to."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.told = 0
        self._answer: asyncio.Future[bool] | None = None

    async def __call__(self, parents: Sequence[str]) -> bool:
        self.asked.append(list(parents))
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    async def answer(self, outcome: bool | Exception) -> None:
        """Let the question end so, and everybody do what follows from it."""
        assert self._answer is not None, "nobody was asked"
        if isinstance(outcome, Exception):
            self._answer.set_exception(outcome)
        else:
            self._answer.set_result(outcome)
        self._answer = None
        await let_all_run()

    def note_end(self) -> None:
        self.told += 1

    @property
    def are_being_asked(self) -> bool:
        return self._answer is not None and not self._answer.cancelled()


@pytest.fixture
def timing() -> ManualTiming:
    return ManualTiming()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def search(timing: ManualTiming, others: Others) -> ParentSearch:
    search = ParentSearch(timing)
    search.ask, search.on_end = others, others.note_end
    return search


async def begin(search: ParentSearch, *parents: str, number: int = 1, is_urgent: bool = False) -> None:
    search.begin(parents, number=number, is_urgent=is_urgent)
    await let_all_run()


async def end(search: ParentSearch, others: Others, outcome: bool | Exception = True, *, looked: bool = True) -> None:
    await others.answer(outcome)
    search.conclude(looked=looked)


class TestWhenOthersAreAsked:
    async def test_once_for_each_session(self, search: ParentSearch, others: Others, timing: ManualTiming) -> None:
        await begin(search, "A", "B")
        await end(search, others)
        timing.advance(PAUSE_S)
        await begin(search, "B")
        await begin(search, "A", "B")
        assert others.asked == [["A", "B"]]
        await begin(search, "B", "C")
        assert others.asked == [["A", "B"], ["B", "C"]]

    async def test_not_for_a_moment_after_the_last_time(
        self, search: ParentSearch, others: Others, timing: ManualTiming
    ) -> None:
        await begin(search, "A")
        await end(search, others)
        assert search.pause_s == PAUSE_S
        timing.advance(PAUSE_S - 0.01)
        await begin(search, "B")
        assert others.asked == [["A"]]
        timing.advance(0.01)
        assert search.pause_s == 0
        await begin(search, "B")
        assert others.asked == [["A"], ["B"]]

    async def test_at_once_and_again_for_the_same_when_it_is_urgent(self, search: ParentSearch, others: Others) -> None:
        await begin(search, "A")
        await end(search, others)
        await begin(search, "A", is_urgent=True)
        assert others.asked == [["A"], ["A"]]

    async def test_not_at_once_after_a_time_that_was_in_vain_however_urgent(
        self, search: ParentSearch, others: Others, timing: ManualTiming
    ) -> None:
        await begin(search, "A")
        await end(search, others, outcome=False)
        await begin(search, "A", is_urgent=True)
        assert others.asked == [["A"]]
        timing.advance(PAUSE_S)
        await begin(search, "A")
        assert others.asked == [["A"], ["A"]], "what was asked in vain counts as not asked"

    @pytest.mark.parametrize("is_urgent", [False, True])
    async def test_not_while_they_are_being_asked_or_nobody_has_looked_for_what_they_stored(
        self, search: ParentSearch, others: Others, timing: ManualTiming, *, is_urgent: bool
    ) -> None:
        await begin(search, "A")
        assert (search.is_running, search.has_ended) == (True, False)
        await begin(search, "B", is_urgent=is_urgent)
        await others.answer(outcome=True)
        assert (search.is_running, search.has_ended) == (False, True)
        timing.advance(PAUSE_S)
        await begin(search, "B", is_urgent=is_urgent)
        assert others.asked == [["A"]]
        search.conclude(looked=True)
        await begin(search, "B", is_urgent=is_urgent)
        assert others.asked == [["A"], ["B"]]

    async def test_not_for_no_session(self, search: ParentSearch, others: Others) -> None:
        await begin(search, is_urgent=True)
        assert (others.asked, search.is_running) == ([], False)


class TestWhatIsKnownThen:
    async def test_with_nobody_to_ask_all_is_known(self, timing: ManualTiming) -> None:
        search = ParentSearch(timing)
        await begin(search, "A", is_urgent=True)
        assert (search.covers, search.is_running, search.is_in_vain) == (inf, False, False)

    async def test_nothing_before_they_have_answered_and_it_was_looked_for(
        self, search: ParentSearch, others: Others
    ) -> None:
        await begin(search, "A", number=7)
        assert search.covers == 0
        await others.answer(outcome=True)
        assert (search.covers, others.told) == (0, 1)
        search.conclude(looked=True)
        assert (search.covers, search.is_in_vain, search.has_ended) == (7, False, False)

    @pytest.mark.parametrize("outcome, looked", [(False, True), (True, False), (OSError("it has gone"), True)], ids=str)
    async def test_no_more_than_before_when_it_was_in_vain(
        self, search: ParentSearch, others: Others, outcome: bool | Exception, *, looked: bool
    ) -> None:
        await begin(search, "A", number=3)
        await end(search, others)
        await begin(search, "B", number=9, is_urgent=True)
        with capture_logs() as lines:
            await end(search, others, outcome, looked=looked)
        assert (search.covers, search.is_in_vain, search.is_running, others.told) == (3, True, False, 2)
        assert [line["event"] for line in lines] == ["parents.not_asked_for"] * isinstance(outcome, Exception)

    async def test_it_is_in_vain_no_more_when_it_was_not_the_next_time(
        self, search: ParentSearch, others: Others, timing: ManualTiming
    ) -> None:
        await begin(search, "A", number=3)
        await end(search, others, outcome=False)
        timing.advance(PAUSE_S)
        await begin(search, "A", number=4)
        assert search.is_in_vain, "until it is known better"
        await end(search, others)
        assert (search.covers, search.is_in_vain) == (4, False)


class TestStop:
    async def test_it_ends_the_question_and_nobody_is_told_or_asked(
        self, search: ParentSearch, others: Others, timing: ManualTiming
    ) -> None:
        await begin(search, "A")
        assert others.are_being_asked
        search.stop()
        await let_all_run()
        assert (others.are_being_asked, others.told, search.has_ended) == (False, 0, False)
        timing.advance(PAUSE_S)
        await begin(search, "B", is_urgent=True)
        assert others.asked == [["A"]]

    async def test_stopping_what_does_nothing_changes_nothing(self, search: ParentSearch, others: Others) -> None:
        search.stop()
        search.stop()
        await begin(search, "A", is_urgent=True)
        assert others.asked == []


class Attempts:
    """A `prepare` that lets the flusher make a bounded number of attempts: one that rests makes few."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self) -> None:
        self.made += 1
        assert self.made < 500, "the flusher goes round and round"


@asynccontextmanager
async def asking(directory: Path, others: Others, attempts: Attempts, **options: Any) -> AsyncIterator[Rig]:  # noqa: ANN401  # those of a rig
    """A buffer that is one of several, with room for ROOM orphans."""
    bounds = MemoryBounds(records=4 * ROOM)
    async with asyncio.timeout(60), open_rig(directory, bounds=bounds, prepare=attempts, **options) as rig:
        orphans_of(rig).search.ask = others
        yield rig


def orphans_of(rig: Rig) -> Orphans:
    return rig.flusher._orphans


class TestTheFlusherMeanwhile:
    async def test_it_rests_after_all_were_asked_in_vain_and_are_asked_again(
        self, tmp_path: Path, others: Others
    ) -> None:
        attempts = Attempts()
        async with asking(tmp_path, others, attempts) as rig:
            await rig.buffer.accept_tasks([task_request(session_id="late")])
            await rig.buffer.flush()
            await others.answer(outcome=False)
            await rig.pass_time(PAUSE_S)
            assert others.asked == [["late"], ["late"]]
            await rig.pass_time(2 * PAUSE_S)
            await others.answer(outcome=True)
            await rig.rests()
            assert attempts.made < 10
            assert len(others.asked) == 2

    @pytest.mark.parametrize("outcome", [False, True])
    async def test_it_rests_while_others_are_asked_for_one_that_has_waited_long_enough(
        self, tmp_path: Path, others: Others, *, outcome: bool
    ) -> None:
        attempts = Attempts()
        async with asking(tmp_path, others, attempts, orphan_grace_s=5, interval_s=30) as rig:
            await rig.buffer.accept_tasks([task_request(session_id="late")])
            await rig.buffer.flush()
            await rig.pass_time(10)
            assert others.asked == [["late"]]
            assert rig.buffer.stats().waiting_for_session == 1, "nobody has said yet that it has no such session"
            await others.answer(outcome)
            await rig.rests()
            assert len(await rig.letters()) == outcome
            if not outcome:
                await rig.pass_time(PAUSE_S)
                await others.answer(outcome=True)
                await rig.rests()
            assert len(await rig.letters()) == 1
            assert attempts.made < 15


class TestThoseWhoWaitInTheJournal:
    async def wait_there(self, rig: Rig, others: Others, last: str = "late") -> None:
        """One is away: all orphans go to the journal but the ROOM `last` ones, which may have another session."""
        orphans_of(rig).patience.note_others(are_all_there=False)
        await rig.buffer.accept_tasks(task_requests(MANY - ROOM, "late"))
        await rig.buffer.accept_tasks(task_requests(ROOM, last, "U"))
        await rig.buffer.flush()
        await others.answer(outcome=False)
        await rig.buffer.flush()
        stats = rig.buffer.stats()
        assert (stats.waiting_for_session, stats.set_aside) == (ROOM, MANY - ROOM)
        assert not stats.dead_lettering_stopped, "nothing was refused"

    async def test_they_are_no_dead_letters_when_the_database_fails_before_they_are_there(
        self, tmp_path: Path, others: Others
    ) -> None:
        async with asking(tmp_path, others, Attempts()) as rig:
            await rig.buffer.accept_sessions([session_request("known")])
            orphans_of(rig).patience.note_others(are_all_there=False)
            await rig.buffer.accept_tasks(task_requests(MANY, "late"))
            await rig.buffer.flush()
            await rig.buffer.accept_tasks([task_request("other", "known")])
            rig.backend.fail_next(StorageUnavailable("gone"))
            await others.answer(outcome=False)
            await rig.rests()
            assert rig.tasks.refused == MANY - ROOM
            await rig.buffer.flush()
            stats = rig.buffer.stats()
            assert (stats.waiting_for_session, stats.set_aside, await rig.letters()) == (ROOM, MANY - ROOM, [])

    @pytest.mark.parametrize("is_known", [True, False])
    async def test_they_are_tried_as_soon_as_all_are_back_and_were_asked(
        self, tmp_path: Path, others: Others, *, is_known: bool
    ) -> None:
        attempts = Attempts()
        backend = MemoryBackend()
        await backend.open()
        async with (
            open_rig(tmp_path / "sibling", inner=backend) as sibling,
            asking(tmp_path / "own", others, attempts, inner=backend, interval_s=PAUSE_S) as rig,
        ):
            await self.wait_there(rig, others)
            if is_known:
                await sibling.buffer.accept_sessions([session_request("late")])
            orphans_of(rig).patience.note_others(are_all_there=True)
            for _ in range(10):
                await rig.pass_time(PAUSE_S)
                if others.are_being_asked:
                    await sibling.buffer.flush()
                    await others.answer(outcome=True)
            assert rig.buffer.stats().set_aside == 0
            assert len((await rig.stored())[1]) == (MANY if is_known else 0)
            assert len(await rig.letters()) == (0 if is_known else MANY - ROOM)
            assert attempts.made < 60
        await backend.close()

    async def test_they_are_tried_when_all_are_back_though_nobody_else_waits(
        self, tmp_path: Path, others: Others
    ) -> None:
        async with asking(tmp_path, others, Attempts(), interval_s=PAUSE_S) as rig:
            await self.wait_there(rig, others, last="other")
            await rig.buffer.accept_sessions([session_request("other")])
            await rig.pass_time(PAUSE_S)
            assert (rig.buffer.stats().waiting_for_session, others.are_being_asked) == (0, False)
            await self.come_back(rig)
            assert others.asked == [["late"], ["late"]]

    async def come_back(self, rig: Rig) -> None:
        """All can be asked again."""
        orphans_of(rig).patience.note_others(are_all_there=True)
        for _ in range(3):
            await rig.pass_time(PAUSE_S)

    async def test_they_are_not_tried_all_the_time_while_others_answer_in_vain(
        self, tmp_path: Path, others: Others
    ) -> None:
        attempts = Attempts()
        async with asking(tmp_path, others, attempts) as rig:
            await self.wait_there(rig, others)
            orphans_of(rig).patience.note_others(are_all_there=True)
            await rig.pass_time(PAUSE_S)
            await others.answer(outcome=False)
            tried = rig.waiting.tickets.last
            for _ in range(10):
                await rig.pass_time(PAUSE_S)
                await others.answer(outcome=False)
            assert rig.waiting.tickets.last == tried
            assert rig.buffer.stats().tasks_count == MANY
            assert await rig.letters() == []

    async def test_what_the_database_refuses_is_not_tried_any_sooner(self, tmp_path: Path, others: Others) -> None:
        async with asking(tmp_path, others, Attempts(), max_dead_letters=0) as rig:
            rig.backend.reject(is_poison)
            await rig.buffer.accept_sessions([session_request()])
            await rig.buffer.accept_tasks(poisoned(ROOM))
            await rig.buffer.flush()
            set_aside = rig.waiting.tickets.last
            patience = orphans_of(rig).patience
            for number in range(5):
                patience.note_others(are_all_there=False)
                patience.note_others(are_all_there=True)
                await rig.buffer.accept_tasks([task_request(f"O{number}", f"unknown-{number}")])
                await rig.buffer.flush()
                await others.answer(outcome=True)
                await rig.pass_time(PAUSE_S)
            assert rig.waiting.tickets.last == set_aside + 5, "each batch took one, and nothing was set aside anew"

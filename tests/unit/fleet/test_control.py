"""A worker is asked over its control socket, and nothing that anybody sends there harms it."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from persistence_service.buffer.flusher import FlushReport
from persistence_service.errors import JournalFull, Replaying, StorageUnavailable
from persistence_service.fleet.control import PULSE_S, Answers, ControlServer
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.messages import (
    MAX_QUESTION_BYTES,
    VERSION,
    AnyQuestion,
    FindTasks,
    FindWaiting,
    Flush,
    ListDeleted,
    ListMissing,
    NoteDeleted,
    Ping,
    Question,
    ReportHealth,
    write_answer,
    write_question,
)
from persistence_service.fleet.sibling import Sibling
from persistence_service.fleet.siblings import Siblings
from persistence_service.models.task import Task
from persistence_service.testing.samples import task_record
from tests.unit.buffer.harness import until

SHORT_S = 0.2
LONG_S = 60.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def nothing(_: Question[Any]) -> None:
    """The answer to a ping."""


@asynccontextmanager
async def worker(directory: Path, answers: Answers, *, slot: int = 1, pulse_s: float = PULSE_S) -> AsyncIterator[Path]:
    """A worker that says this; its socket."""
    path = directory / f"{slot}.sock"
    async with ControlServer(answers, pulse_s=pulse_s, look_every_s=SHORT_S / 10).listening(path):
        yield path


@asynccontextmanager
async def siblings_of(directory: Path, *, workers: int = 2) -> AsyncIterator[Siblings]:
    """How worker 1 asks the others."""
    siblings = Siblings(WorkerIdentity(0, workers, directory))
    try:
        yield siblings
    finally:
        siblings.close()


def saying(answer: Callable[[], Awaitable[object]]) -> Callable[[Question[Any]], Awaitable[object]]:
    """The same to every question."""
    return lambda _: answer()


async def exchange(path: Path, sent: bytes) -> bytes:
    """What comes back for `sent` until the other side closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(sent)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


class TestAsking:
    async def test_a_record_arrives_as_it_is_kept(self, control_directory: Path) -> None:
        record = task_record("t", context="línea\n\u2028 ☃", confidence=0.1)

        async def find(question: FindTasks) -> list[Task]:
            return [record] if question.task_id == "t\n☃" else []

        async with worker(control_directory, {FindTasks: find}), siblings_of(control_directory) as siblings:
            assert await siblings.ask(1, FindTasks("t\n☃"), patience_s=LONG_S) == [record]
            assert await siblings.ask(1, FindTasks("u"), patience_s=LONG_S) == []

    async def test_many_questions_at_once_get_each_its_own_answer(self, control_directory: Path) -> None:
        async def find(question: FindWaiting) -> list[str]:
            await asyncio.sleep(0)
            return question.session_ids

        async with worker(control_directory, {FindWaiting: find}), siblings_of(control_directory) as siblings:
            asked = [[str(n)] for n in range(50)]
            answers = await asyncio.gather(*(siblings.ask(1, FindWaiting(ids), patience_s=LONG_S) for ids in asked))
        assert answers == asked

    async def test_lookups_do_not_wait_for_flushes_however_many(self, control_directory: Path) -> None:
        may_go = asyncio.Event()
        report = FlushReport(1, 2, 3, 4)

        async def flush() -> FlushReport:
            await may_go.wait()
            return report

        answers: Answers = {Flush: saying(flush), Ping: nothing}
        async with worker(control_directory, answers), siblings_of(control_directory) as siblings:
            flushes = [asyncio.ensure_future(siblings.ask(1, Flush(), patience_s=LONG_S)) for _ in range(200)]
            await asyncio.gather(*(siblings.ask(1, Ping(), patience_s=LONG_S) for _ in range(500)))
            assert not any(flush.done() for flush in flushes)
            may_go.set()
            assert await asyncio.gather(*flushes) == [report] * len(flushes)

    async def test_one_who_is_at_work_is_waited_for_beyond_patience(self, control_directory: Path) -> None:
        asked, may_go = asyncio.Event(), asyncio.Event()

        async def flush() -> list[str]:
            asked.set()
            await may_go.wait()
            return ["done"]

        answers: Answers = {FindWaiting: saying(flush), Ping: nothing}
        # A hundred signs of life in the shortest silence that counts: a slow machine may miss most of them.
        async with (
            worker(control_directory, answers, pulse_s=PULSE_S / 50),
            siblings_of(control_directory) as siblings,
        ):
            answer = asyncio.ensure_future(siblings.ask(1, FindWaiting([]), patience_s=SHORT_S))
            await asked.wait()
            with pytest.raises(Replaying):  # so long at least has passed when somebody else was waited for in vain
                await Siblings(WorkerIdentity(0, 9, control_directory)).ask(7, Ping(), patience_s=3 * SHORT_S)
            assert not answer.done()
            may_go.set()
            assert await answer == ["done"]

    @pytest.mark.parametrize("error", [StorageUnavailable("away"), JournalFull("full", retry_after_s=7)])
    async def test_what_it_says_went_wrong_is_raised_with_its_name(
        self, control_directory: Path, error: StorageUnavailable | JournalFull
    ) -> None:
        async def flush() -> None:
            raise error

        async with worker(control_directory, {Flush: saying(flush)}), siblings_of(control_directory) as siblings:
            with pytest.raises(type(error), match=f"worker 2: {error}") as caught:
                await siblings.ask(1, Flush(), patience_s=LONG_S)
        assert caught.value.retry_after_s == error.retry_after_s

    async def test_a_mistake_in_one_answer_ends_no_connection_and_tells_no_insides(
        self, control_directory: Path
    ) -> None:
        async def fail() -> None:
            raise ZeroDivisionError("insides")

        answers: Answers = {Flush: saying(fail), Ping: nothing}
        async with worker(control_directory, answers), siblings_of(control_directory) as siblings:
            with pytest.raises(Replaying) as caught:
                await siblings.ask(1, Flush(), patience_s=SHORT_S)
            assert "insides" not in str(caught.value)
            await siblings.ask(1, Ping(), patience_s=LONG_S)


class TestAway:
    async def test_one_that_is_not_there_is_named(self, control_directory: Path) -> None:
        async with (
            worker(control_directory, {Ping: nothing}, slot=1),
            siblings_of(control_directory, workers=3) as siblings,
        ):
            with pytest.raises(Replaying, match="worker 3 ") as caught:
                await siblings.ask_all(Ping(), patience_s=SHORT_S)
            assert caught.value.retry_after_s == 1
            assert set(await siblings.ask_present(Ping(), patience_s=LONG_S)) == {1}

    async def test_one_that_starts_meanwhile_answers(self, control_directory: Path) -> None:
        async with AsyncExitStack() as stack, siblings_of(control_directory) as siblings:
            answer = asyncio.ensure_future(siblings.ask_all(Ping(), patience_s=LONG_S))
            await asyncio.sleep(0)
            await stack.enter_async_context(worker(control_directory, {Ping: nothing}))
            assert await answer == {1: None}

    async def test_one_that_was_restarted_is_asked_over_a_new_connection(self, control_directory: Path) -> None:
        async with siblings_of(control_directory) as siblings:
            for _ in range(3):
                async with worker(control_directory, {Ping: nothing}):
                    assert set(await siblings.ask_present(Ping(), patience_s=LONG_S)) == {1}
            assert not await siblings.ask_present(Ping(), patience_s=LONG_S)

    async def test_one_that_reads_its_journal_is_waited_for(self, control_directory: Path) -> None:
        tries = 0

        async def ping() -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise Replaying("the journal is still being read")

        async with worker(control_directory, {Ping: saying(ping)}), siblings_of(control_directory) as siblings:
            await siblings.ask(1, Ping(), patience_s=LONG_S)
            tries = -1000
            with pytest.raises(Replaying):
                await siblings.ask(1, Ping(), patience_s=SHORT_S)

    async def test_one_that_accepts_and_stays_silent_is_away(self, control_directory: Path) -> None:
        left = asyncio.Event()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            await writer.wait_closed()
            left.set()

        server = await asyncio.start_unix_server(connected, control_directory / "1.sock")
        async with server, siblings_of(control_directory) as siblings:
            with pytest.raises(Replaying):
                await siblings.ask(1, Ping(), patience_s=SHORT_S)
            await left.wait()

    @pytest.mark.parametrize("said", [b"no JSON\n", b"{}\n", b'{"type":"Answered","version":99,"answer":null}\n', b""])
    async def test_one_that_says_what_is_not_understood_is_away(self, control_directory: Path, said: bytes) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(said)
            writer.close()

        server = await asyncio.start_unix_server(connected, control_directory / "1.sock")
        async with server, siblings_of(control_directory) as siblings:
            assert not await siblings.ask_present(Ping(), patience_s=LONG_S)
            with pytest.raises(Replaying):
                await siblings.ask(1, Ping(), patience_s=SHORT_S)


class Stopped:
    """A worker whose process is stopped, or `answers` some kinds; `asked` is how often, by whoever."""

    def __init__(self, **answers: object) -> None:
        self.asked: Counter[str] = Counter()
        self._answers = answers
        self._runs = asyncio.Event()
        self._connections = 0
        if answers:
            self.go_on()

    def stop(self) -> None:
        """From now on it is silent."""
        self._runs.clear()

    def go_on(self) -> None:
        """It answers, also what it was asked before."""
        self._runs.set()

    @asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[None]:
        """Its socket is there."""
        server = await asyncio.start_unix_server(self._connected, path)
        async with server:
            yield
            self.go_on()
            await until(lambda: not self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        with suppress(ConnectionError):  # who asked was tired of waiting
            while line := await reader.readline():
                kind = msgspec.json.decode(line)["question"]["type"]
                self.asked[kind] += 1
                await self._runs.wait()
                if kind in self._answers:
                    writer.write(write_answer(self._answers[kind]))
        writer.transport.abort()
        self._connections -= 1


@pytest.fixture
async def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has so many seconds pass at once, for whoever waits in this event loop."""
    loop = asyncio.get_running_loop()
    real, passed_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed_s)

    def pass_time(seconds: float) -> None:
        nonlocal passed_s
        passed_s += seconds

    return pass_time


async def is_refused_at_once(siblings: Siblings, slot: int, question: Question[Any]) -> bool:
    """Whether it is, long before patience is over."""
    asked = asyncio.ensure_future(siblings.ask(slot, question, patience_s=LONG_S))
    done, _ = await asyncio.wait({asked}, timeout=LONG_S / 2)
    asked.cancel()
    return bool(done) and isinstance(asked.exception(), Replaying)


class TestStopped:
    async def test_more_askers_than_may_ask_at_once_wait_no_longer_than_one(self, control_directory: Path) -> None:
        stopped = Stopped()
        async with stopped.at(control_directory / "1.sock"), siblings_of(control_directory) as siblings:
            asked = (siblings.ask(1, FindTasks(f"t{n}"), patience_s=1.0) for n in range(120))
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {Replaying}
            assert stopped.asked[FindTasks.__name__] <= 16, "whoever had no turn gave up with the first"

    async def test_whoever_comes_after_one_has_waited_in_vain_shares_one_question(
        self, control_directory: Path
    ) -> None:
        stopped = Stopped()
        async with stopped.at(control_directory / "1.sock"), siblings_of(control_directory) as siblings:
            with pytest.raises(Replaying):
                await siblings.ask(1, FindTasks("t"), patience_s=SHORT_S)
            before = stopped.asked.copy()
            asked = (siblings.ask(1, FindTasks(f"t{n}"), patience_s=SHORT_S) for n in range(120))
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {Replaying}
            assert await siblings.ask_present(ReportHealth(), patience_s=LONG_S) == {}
            assert stopped.asked - before == {Ping.__name__: 1}

    async def test_one_that_goes_on_is_asked_again_by_all(self, control_directory: Path) -> None:
        async with siblings_of(control_directory) as siblings:
            async with Stopped().at(control_directory / "1.sock"):
                with pytest.raises(Replaying):
                    await siblings.ask(1, FindWaiting([]), patience_s=SHORT_S)
            waiting = saying(partial(asyncio.sleep, 0, ["t"]))
            async with worker(control_directory, {FindWaiting: waiting, Ping: nothing}):
                asked = (siblings.ask(1, FindWaiting([]), patience_s=LONG_S) for _ in range(120))
                assert await asyncio.gather(*asked) == [["t"]] * 120

    async def test_one_that_stays_away_is_refused_at_once_whatever_is_asked(
        self, control_directory: Path, pass_time: Callable[[float], None]
    ) -> None:
        worker_2 = Stopped(Ping=None)
        async with worker_2.at(control_directory / "1.sock"), siblings_of(control_directory) as siblings:
            assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {1: None}
            worker_2.stop()
            assert await siblings.ask_present(Ping(), patience_s=SHORT_S) == {}, "nobody but the watch looks"
            pass_time(LONG_S)
            before = worker_2.asked.copy()
            for question in (FindTasks("t"), FindWaiting([]), Flush(), ListMissing(), NoteDeleted("S", NOW)):
                assert await is_refused_at_once(siblings, 1, question)
                assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {}
            assert worker_2.asked - before == {Ping.__name__: 1}

    async def test_whoever_asks_first_once_it_goes_on_has_the_answer(
        self, control_directory: Path, pass_time: Callable[[float], None]
    ) -> None:
        worker_2 = Stopped(Ping=None, FindWaiting=["t"])
        async with worker_2.at(control_directory / "1.sock"), siblings_of(control_directory) as siblings:
            assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {1: None}
            for _ in range(2):
                worker_2.stop()
                assert await siblings.ask_present(Ping(), patience_s=SHORT_S) == {}
                pass_time(LONG_S)
                assert await is_refused_at_once(siblings, 1, FindWaiting([]))
                worker_2.go_on()
                assert await siblings.ask(1, FindWaiting([]), patience_s=LONG_S) == ["t"]

    async def test_whoever_asks_first_once_it_was_started_again_has_the_answer(
        self, control_directory: Path, pass_time: Callable[[float], None]
    ) -> None:
        answers: Answers = {Ping: nothing, FindWaiting: saying(partial(asyncio.sleep, 0, ["t"]))}
        async with siblings_of(control_directory) as siblings:
            for _ in range(2):
                async with worker(control_directory, answers):
                    assert await siblings.ask(1, FindWaiting([]), patience_s=LONG_S) == ["t"]
                assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {}
                pass_time(LONG_S)
                assert await is_refused_at_once(siblings, 1, FindWaiting([]))

    async def test_one_that_stops_once_more_is_waited_for_once_more(
        self, control_directory: Path, pass_time: Callable[[float], None]
    ) -> None:
        worker_2 = Stopped(Ping=None, FindWaiting=["t"])
        async with worker_2.at(control_directory / "1.sock"), siblings_of(control_directory) as siblings:
            for _ in range(2):
                assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {1: None}
                pass_time(LONG_S)
                worker_2.stop()
                assert await siblings.ask_present(Ping(), patience_s=SHORT_S) == {}
                answer = asyncio.ensure_future(siblings.ask(1, FindWaiting([]), patience_s=LONG_S))
                assert await siblings.ask_present(Ping(), patience_s=SHORT_S) == {}
                assert not answer.done()
                worker_2.go_on()
                assert await answer == ["t"]

    async def test_one_that_was_never_there_is_waited_for_by_the_first_who_asks_however_long_it_starts(
        self, control_directory: Path, pass_time: Callable[[float], None]
    ) -> None:
        waiting = saying(partial(asyncio.sleep, 0, ["t"]))
        async with AsyncExitStack() as stack, siblings_of(control_directory) as siblings:
            assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {}
            pass_time(LONG_S)
            answer = asyncio.ensure_future(siblings.ask(1, FindWaiting([]), patience_s=LONG_S))
            assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {}
            await stack.enter_async_context(worker(control_directory, {FindWaiting: waiting, Ping: nothing}))
            assert await answer == ["t"]

    async def test_one_that_ends_at_work_is_missed_from_its_last_sign_of_life(self, control_directory: Path) -> None:
        clock = asyncio.get_running_loop().time
        signs: list[float] = []
        never: Answers = {ListMissing: saying(asyncio.Event().wait)}
        async with worker(control_directory, never, pulse_s=PULSE_S / 50) as path:
            sibling = Sibling(1, path)
            asking = sibling.ask(ListMissing(), silence_s=LONG_S, note_life=lambda: signs.append(clock()))
            answer = asyncio.ensure_future(asking)
            await until(lambda: len(signs) > 1)
        with pytest.raises(asyncio.IncompleteReadError):
            await answer
        assert sibling.missed_since is not None
        assert sibling.missed_since > signs[0]

    async def test_what_all_must_know_is_told_to_those_that_can_be_told_though_one_stays_away(
        self, control_directory: Path, pass_time: Callable[[float], None]
    ) -> None:
        told = asyncio.Event()

        async def note(_: Question[Any]) -> None:
            told.set()

        async with AsyncExitStack() as stack, siblings_of(control_directory, workers=3) as siblings:
            async with worker(control_directory, {Ping: nothing}, slot=1):
                assert set(await siblings.ask_present(Ping(), patience_s=LONG_S)) == {1}
            assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {}
            pass_time(LONG_S)
            telling = asyncio.ensure_future(siblings.tell_all(NoteDeleted("S", NOW), patience_s=LONG_S))
            assert await is_refused_at_once(siblings, 1, ListMissing())
            await stack.enter_async_context(worker(control_directory, {NoteDeleted: note, Ping: nothing}, slot=2))
            with pytest.raises(Replaying, match="worker 2 "):
                await telling
            assert told.is_set()

    async def test_who_looks_whether_it_is_there_does_not_queue_behind_lookups(self, control_directory: Path) -> None:
        busy = Stopped(Ping=None)
        async with busy.at(control_directory / "1.sock"), siblings_of(control_directory) as siblings:
            lookups = [asyncio.ensure_future(siblings.ask(1, FindTasks("t"), patience_s=LONG_S)) for _ in range(120)]
            await until(lambda: busy.asked[FindTasks.__name__] == 16)
            assert await siblings.ask_present(Ping(), patience_s=LONG_S) == {1: None}
            assert not any(lookup.done() for lookup in lookups)
            for lookup in lookups:
                lookup.cancel()
            await asyncio.gather(*lookups, return_exceptions=True)
            siblings.close()

    async def test_one_who_looks_again_at_once_takes_nobody_the_outcome(self, control_directory: Path) -> None:
        """Torture of three workers, seed 17: the answer to a batch was 500."""
        sibling = Sibling(1, control_directory / "1.sock")

        async def twice() -> list[bool]:
            return [await sibling.is_there() for _ in range(2)]

        first, other, second = await asyncio.gather(twice(), sibling.is_there(), twice())
        assert (first, other, second) == ([False, False], False, [False, False])


class TestRemoved:
    async def test_a_socket_that_was_removed_is_made_again(self, control_directory: Path) -> None:
        async with worker(control_directory, {Ping: nothing}) as path, siblings_of(control_directory) as siblings:
            path.unlink()
            await siblings.ask(1, Ping(), patience_s=LONG_S)
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600

    async def test_and_so_is_its_directory(self, control_directory: Path) -> None:
        directory = control_directory / "inner"
        directory.mkdir(0o700)
        async with worker(directory, {Ping: nothing}) as path, siblings_of(directory) as siblings:
            shutil.rmtree(directory)
            await siblings.ask(1, Ping(), patience_s=LONG_S)
            assert stat.S_IMODE(directory.lstat().st_mode) == 0o700
        assert not path.exists()

    async def test_but_not_in_a_directory_that_others_can_reach(self, control_directory: Path) -> None:
        directory = control_directory / "inner"
        directory.mkdir(0o700)
        with capture_logs() as logs:
            async with worker(directory, {Ping: nothing}) as path:
                shutil.rmtree(directory)
                directory.mkdir()
                directory.chmod(0o755)
                await until(lambda: any(line["event"] == "control.unreachable" for line in logs))
                assert not path.exists()


class TestHostile:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\n",
            b"\x00\xff\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"version":1,"question":{"type":"Shutdown"}}\n',
            b'{"version":1,"question":{"type":"FindTasks","task_id":7}}\n',
            b'{"version":1,"question":{"type":"Ping","more":1}}\n',
            b'{"version":2,"question":{"type":"Ping"}}\n',
            b'{"version":1}\n',
            b"[" * 100_000 + b"\n",
        ],
    )
    async def test_what_is_not_understood_is_refused_and_its_connection_closed(
        self, control_directory: Path, sent: bytes
    ) -> None:
        async with worker(control_directory, {Ping: nothing}) as path, siblings_of(control_directory) as siblings:
            answer = await exchange(path, sent + write_question(Ping()))
            assert msgspec.json.decode(answer)["code"] == "NOT_UNDERSTOOD"
            await siblings.ask(1, Ping(), patience_s=LONG_S)

    async def test_a_line_without_an_end_is_cut_off(self, control_directory: Path) -> None:
        async with worker(control_directory, {Ping: nothing}) as path, siblings_of(control_directory) as siblings:
            assert await exchange(path, b"x" * (4 * MAX_QUESTION_BYTES)) == b""
            await siblings.ask(1, Ping(), patience_s=LONG_S)

    async def test_one_who_leaves_in_the_middle_is_forgotten(self, control_directory: Path) -> None:
        async with worker(control_directory, {Ping: nothing}) as path, siblings_of(control_directory) as siblings:
            for sent in (b"", b'{"version"', write_question(Ping())):
                _, writer = await asyncio.open_unix_connection(str(path))
                writer.write(sent)
                writer.transport.abort()
            await siblings.ask(1, Ping(), patience_s=LONG_S)

    async def test_only_this_user_may_reach_it_and_the_end_removes_it(self, control_directory: Path) -> None:
        async with worker(control_directory, {Ping: nothing}) as path:
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
        assert not path.exists()

    async def test_the_socket_of_one_that_was_killed_is_replaced(self, control_directory: Path) -> None:
        async with siblings_of(control_directory) as siblings:
            server = await asyncio.start_unix_server(lambda *_: None, control_directory / "1.sock")
            server.close()
            async with worker(control_directory, {Ping: nothing}):
                await siblings.ask(1, Ping(), patience_s=LONG_S)


def test_every_question_has_an_answer_that_can_be_read_and_a_version() -> None:
    for kind in (Ping, ListDeleted, ListMissing):
        assert msgspec.json.decode(write_question(kind())) == {"version": VERSION, "question": {"type": kind.__name__}}
    assert Ping in AnyQuestion.__args__

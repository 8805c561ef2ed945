"""The buffer as a whole against a model of a dictionary: whatever happens, nothing is lost, nothing is invented.

The search is short by default; `PERSISTENCE_TEST_EXAMPLES` sets how many examples are tried.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.dead_letters import read_letters
from persistence_service.buffer.intake import KIND_SESSIONS, KIND_TASKS
from persistence_service.buffer.policy import MemoryBounds
from persistence_service.errors import (
    JournalFull,
    JournalUnavailable,
    PersistenceError,
    SessionNotFound,
    StorageUnavailable,
    UnclassifiedStorageError,
)
from persistence_service.fleet.whole import WholeBuffer
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.dead_letter import DeadLetter
from persistence_service.models.limits import Limits
from persistence_service.models.merge import merge_sessions, merge_tasks
from persistence_service.models.session import SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import Task, TaskRequest
from persistence_service.models.times import to_micros
from persistence_service.services.cleanup import CleanupService
from persistence_service.services.dead_letters import DeadLetterService, LetterFilter
from persistence_service.services.deletion import DeletionService
from persistence_service.settings import Durability
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import DEAD_LETTERS, SESSIONS, TASKS, TOMBSTONES
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.query import Query
from persistence_service.storage.registry import StorageRegistry
from persistence_service.storage.sqlite.backend import SqliteBackend
from persistence_service.testing.clocks import ManualTiming
from persistence_service.testing.faulty_backend import When
from persistence_service.testing.faulty_files import FaultyFiles
from tests.unit.buffer.harness import Rig, let_all_run, open_rig, session_request, task_request, until
from tests.unit.buffer.model import Model, without_service_times

T = TypeVar("T")
AWAY = StorageUnavailable("gone")

_MEMORY = 5
_SESSION_IDS = ("A", "B", "C")
_TASK_IDS = ("A1", "A2", "A3", "B1", "B2", "C1")  # the first letter is the session: a task keeps its own
_CLAIMED_IDS = ("K", "L")  # several sessions claim these
_CLAIMING_IDS = (*_SESSION_IDS, "D")  # the last of them is never known
_EVENT_TIMES = (
    None,
    "2026-01-31T10:00:01Z",
    "2026-01-31T10:00:02Z",
    "2026-01-31T12:04:00Z",  # ahead of the clock, for a while
    "2026-01-31T12:04:30Z",
)
_times = st.sampled_from(_EVENT_TIMES)
_statuses = st.sampled_from(list(Status))
_objects = st.none() | st.fixed_dictionaries({"n": st.integers(0, 2)})

_poison = st.sampled_from([False] * 4 + [True])


def _session(session_id: str, status: Status, *, poison: bool, **fields: Any) -> SessionRequest:  # noqa: ANN401  # values of its fields
    """Session A never ends, is never poisoned and is never deleted, so that its rows and tasks are always certain."""
    if session_id == "A":
        status, poison = Status.PROCESSING, False
    return session_request(session_id, status=status, llm_provider="poison" if poison else "openai", **fields)


def _task(task_id: str, *, poison: bool, **fields: Any) -> TaskRequest:  # noqa: ANN401  # as above
    text = "poison" if poison and task_id not in ("A1", "A2") else "text"
    return task_request(task_id, task_id[0], target_text=text, **fields)


_session_requests = st.builds(
    _session,
    st.sampled_from(_SESSION_IDS),
    _statuses,
    poison=_poison,
    event_time=_times,
    total_tasks=st.integers(0, 3),
    completed_tasks=st.integers(0, 3),
    game_info=_objects,
    metadata=_objects,
)
_task_requests = st.builds(
    _task,
    st.sampled_from(_TASK_IDS),
    poison=_poison,
    status=_statuses,
    event_time=_times,
)

_claims = st.builds(
    task_request, st.sampled_from(_CLAIMED_IDS), st.sampled_from(_CLAIMING_IDS), status=_statuses, event_time=_times
)


def is_poison(record: Any) -> bool:  # noqa: ANN401  # any record
    return "poison" in (getattr(record, "target_text", None), getattr(record, "llm_provider", None))


class BufferMachine(RuleBasedStateMachine):
    """One service over its crashes; its backend lives on."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.directory = self.folder / "journal"
        self.timing = ManualTiming()
        self.files = FaultyFiles()
        self.model = Model()
        self.backend = self.new_backend()
        self.asked_to_delete: set[str] = set()
        self.away = self.poisoned = False
        self.run(self.backend.open())
        self.open()

    def new_backend(self) -> StorageBackend:
        return MemoryBackend()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # ----------------------------------------------------------------------------------------------- runs

    def open(self) -> None:
        self.opened = open_rig(
            self.directory,
            inner=self.backend,
            timing=self.timing,
            files=self.files,
            size=3,
            bounds=MemoryBounds(records=_MEMORY, pressure=0.9),
            segment_bytes=2048,
            orphan_grace_s=50,
            max_dead_letters=1,
            start=False,
        )
        self.run(self._enter())

    async def _enter(self) -> None:
        self.rig: Rig = await self.opened.__aenter__()
        registry = StorageRegistry()
        registry.register("test", lambda: self.rig.backend)
        registry.route_all("test", {})
        buffer = WholeBuffer(self.rig.buffer)
        self.deletion = DeletionService(registry=registry, buffer=buffer, timing=self.timing)
        self.cleanup = CleanupService(registry=registry, buffer=buffer, deletion=self.deletion)
        self.letters = DeadLetterService(
            registry=registry,
            files=self.rig.letter_files,
            timing=self.timing,
            limits=Limits(),
            metrics=self.rig.metrics,
        )
        self._apply_faults()
        await self.rig.start()

    def _apply_faults(self) -> None:
        self.rig.backend.come_back()
        if self.away:
            self.rig.backend.go_away(AWAY)
        self.rig.backend.reject(is_poison if self.poisoned else None)

    async def _restart(self) -> None:
        self.directory = await self.rig.crash()
        await self.opened.__aexit__(None, None, None)

    @rule()
    def crash(self) -> None:
        self.run(self._restart())
        self.open()

    @rule()
    def crash_in_a_write(self) -> None:
        async def crash() -> None:
            self.rig.backend.hold()
            flush = asyncio.create_task(self.rig.buffer.flush())
            await let_all_run()
            await self._restart()
            await asyncio.gather(flush, return_exceptions=True)

        self.run(crash())
        self.open()

    @rule()
    def stop_and_start(self) -> None:
        async def stop() -> None:
            self.rig.buffer.begin_shutdown()
            stopping = asyncio.create_task(self.rig.flusher.stop(drain_s=0.5))
            while not stopping.done():
                await let_all_run()
                self.timing.advance(1)
            await stopping
            await until(self.rig.background[0].done)
            await self.opened.__aexit__(None, None, None)

        self.run(stop())
        self.open()

    # ------------------------------------------------------------------------------------------------ intake

    @rule(batch=st.lists(_session_requests, min_size=1, max_size=3), ack=st.sampled_from(["memory", "journal"]))
    def accept_sessions(self, batch: list[SessionRequest], ack: str) -> None:
        self.run(self._accept(batch, Durability(ack)))

    @rule(batch=st.lists(_task_requests, min_size=1, max_size=5))
    def accept_tasks(self, batch: list[TaskRequest]) -> None:
        self.run(self._accept(batch, Durability.JOURNAL))

    @rule(batch=st.lists(_claims, min_size=1, max_size=4))
    def accept_tasks_that_several_sessions_claim(self, batch: list[TaskRequest]) -> None:
        self.run(self._accept(batch, Durability.JOURNAL))

    @rule(batch=st.lists(_task_requests, min_size=1, max_size=3), number=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def accept_on_a_failing_disk(self, batch: list[TaskRequest], number: int) -> None:
        async def accept() -> None:
            certain = [task_request(t.task_id, t.session_id, event_time=_EVENT_TIMES[1]) for t in batch]
            self.files.fail("writev", number, times=1)
            with suppress(JournalFull, JournalUnavailable):
                await self._accept(certain, Durability.JOURNAL)
                return
            self.files.heal()
            await until(lambda: self.rig.journal.stats().failing is None)
            await self._accept(certain, Durability.JOURNAL)

        self.run(accept())
        self.files.heal()

    @rule(batch=st.lists(_task_requests | _claims, min_size=1, max_size=3))
    def accept_until_stored(self, batch: list[TaskRequest]) -> None:
        async def accept() -> None:
            accepting = asyncio.create_task(self._accept(batch, Durability.STORAGE))
            await self._let_time_pass_until_done(accepting)
            receipt = await accepting
            told = {item.index for item in receipt.not_stored}
            for index, record in enumerate(self.last_accepted):
                if index not in told and isinstance(record, Task) and record.session_id not in self.model.deleted:
                    (stored,) = await self.backend.read(TASKS, [record.task_id]) or (None,)
                    assert stored is not None, "a task that was said to be stored is not"
                    assert stored.session_id == record.session_id

        self.run(accept())

    async def _let_time_pass_until_done(self, work: asyncio.Task[Any]) -> None:
        """Time passes only while both `work` and the flusher wait for it, not while a thread is still at work for them."""
        limit = self.timing.monotonic() + 100
        while not work.done():
            await until(lambda: work.done() or self.timing.sleeping > 1)
            assert self.timing.monotonic() < limit, "it does not end"
            self.timing.advance(1)
            await let_all_run()

    async def _accept(self, batch: Sequence[SessionRequest] | Sequence[TaskRequest], ack: Durability) -> Any:  # noqa: ANN401  # a receipt
        records: list[Any]
        now = self.timing.wall_us() + 10**9
        if isinstance(batch[0], SessionRequest):
            receipt = await self.rig.buffer.accept_sessions(batch, ack)  # type: ignore[arg-type]  # told by the first
            records = accept_sessions(batch, Acceptance(to_micros(receipt.accepted_at), now), Limits())  # type: ignore[arg-type]  # a batch of one kind
        else:
            receipt = await self.rig.buffer.accept_tasks(batch, ack)  # type: ignore[arg-type]  # likewise
            records = accept_tasks(batch, Acceptance(to_micros(receipt.accepted_at), now), Limits())  # type: ignore[arg-type]  # a batch of one kind
        self.model.accept(records)
        self.last_accepted = records
        await self.learn_tombstones()
        return receipt

    # ------------------------------------------------------------------------------------------------ faults

    @rule()
    def backend_goes_or_comes(self) -> None:
        self.away = not self.away
        self._apply_faults()

    @rule()
    def poison_begins_or_ends(self) -> None:
        self.poisoned = not self.poisoned
        self._apply_faults()

    @rule(when=st.sampled_from(list(When)))
    def a_transaction_will_fail(self, when: When) -> None:
        self.rig.backend.fail_next(AWAY, when=when)

    @rule(times=st.integers(1, 4))
    def writes_will_fail_for_an_unknown_reason(self, times: int) -> None:
        self.rig.backend.fail_next(UnclassifiedStorageError("what?", number=9999), times=times)

    # ------------------------------------------------------------------------------------------------- service

    @rule()
    def flush(self) -> None:
        async def flush() -> None:
            with suppress(StorageUnavailable):
                aside = self.rig.buffer.stats().set_aside
                await self.rig.buffer.flush()
                left = self.rig.buffer.stats().memory_records + self.rig.waiting.spill.total
                assert left <= aside, "what had been set aside may have been given another chance since"
                await self.check_rows()

        self.run(flush())

    @rule(seconds=st.sampled_from([1, 31, 61]))
    def time_passes(self, seconds: int) -> None:
        self.run(self.rig.pass_time(seconds))

    @rule(session_id=st.sampled_from(["B", "C"]))
    def delete(self, session_id: str) -> None:
        self.run(self._delete(session_id))

    @rule(session_id=st.sampled_from(["B", "C"]), batch=st.lists(_task_requests | _claims, max_size=3))
    def delete_before_the_answer_of_a_write_comes(self, session_id: str, batch: list[TaskRequest]) -> None:
        """The session has come meanwhile, its orphans in flight are not known to be deleted, and more of them comes."""

        async def delete() -> None:
            self.rig.backend.hold_next_answer()
            flush = asyncio.create_task(self.rig.buffer.flush())
            await let_all_run()
            if not self.rig.backend.is_holding:  # there was nothing to write, or it failed
                self.rig.backend.release()
            try:
                await self._accept([session_request(session_id)], Durability.JOURNAL)
                await self._delete(session_id)
                if batch:
                    await self._accept(batch, Durability.JOURNAL)
            finally:
                self.rig.backend.release()
            await asyncio.gather(flush, return_exceptions=True)

        self.run(delete())

    async def _delete(self, session_id: str) -> None:
        try:
            await self.deletion.delete(session_id)
        except SessionNotFound:
            await self.learn_tombstones()
            refused = any(is_poison(session) for session in self.model.sessions[session_id])
            assert refused or self.model.session(session_id) is None or await self.is_aside(SESSIONS, session_id)
        except PersistenceError:  # the outcome is open
            self.asked_to_delete.add(session_id)
        else:
            self.asked_to_delete.add(session_id)
            await self.learn_tombstones()
            assert self.model.session(session_id) is None or await self.is_aside(SESSIONS, session_id)
            assert await self.rig.buffer.session(session_id) is None
        await self.learn_tombstones()

    @rule()
    def clean_up(self) -> None:
        async def clean_up() -> None:
            with suppress(PersistenceError):
                await self.cleanup.cleanup(completed_days=0, failed_days=0, cancelled_days=0)
            self.asked_to_delete.update(_SESSION_IDS)
            await self.learn_tombstones()

        self.run(clean_up())

    @rule()
    def replay_letters(self) -> None:
        async def replay() -> None:
            with suppress(PersistenceError):
                await self.letters.replay_all(LetterFilter())

        self.run(replay())

    @rule()
    def complete_deletions(self) -> None:
        async def resume() -> None:
            with suppress(PersistenceError):
                await self.deletion.resume()

        self.run(resume())

    # -------------------------------------------------------------------------------------------------- checks

    async def learn_tombstones(self) -> None:
        tombstones = await self.backend.query(TOMBSTONES, Query())
        for tombstone in tombstones:
            assert tombstone.session_id in self.asked_to_delete or tombstone.removed_at is None
        self.model.deleted = {t.session_id: t.deleted_up_to for t in tombstones}

    async def dead_letters(self) -> list[DeadLetter]:
        """Those in the backend, and those in files."""
        in_files = [letter for letter in self.rig.letter_files.all() if isinstance(letter, DeadLetter)]
        return await self.backend.query(DEAD_LETTERS, Query()) + in_files

    async def is_aside(self, collection: Any, key: str) -> bool:  # noqa: ANN401  # a collection
        """Whether something of this key is a dead letter or on its way there."""
        if any(letter.record_key == key for letter in await self.dead_letters()):
            return True
        waiting = self.rig.waiting
        buffer: RecordBuffer[Any] = waiting.sessions if collection is SESSIONS else waiting.tasks
        kind = KIND_SESSIONS if collection is SESSIONS else KIND_TASKS
        refused = any(collection.key_of(each.entry.record) == key for each in buffer.all_refused())
        return refused or bool(waiting.set_aside.queue.holding(kind, key))

    @invariant()
    def every_record_can_be_read(self) -> None:
        async def read() -> None:
            await self.rig.rests()  # what becomes a dead letter between two looks would seem to be missing
            for task_id in (*_TASK_IDS, *_CLAIMED_IDS):
                await self.check_read_task(task_id)
            for session_id in _SESSION_IDS:
                await self.check_read_session(session_id)

        self.run(read())

    async def check_read_task(self, task_id: str) -> None:
        """What waits, what is stored and what letters hold: together they are all that was accepted, whoever claims the id."""
        held = await self.rig.buffer.tasks(task_id)
        held += await self.backend.read(TASKS, [task_id])
        letters = [letter.letter_id for letter in await self.dead_letters() if letter.record_key == task_id]
        in_files = [self.rig.letter_files.read(letter_id) for letter_id in letters]
        for letter in (*await read_letters(self.backend, letters), *filter(None, in_files)):
            assert isinstance(letter.record, Task)
            held.append(letter.record)
        for session_id in {task.session_id for task in held} | set(_CLAIMING_IDS):
            if session_id in self.model.deleted:
                continue
            found = [task for task in held if task.session_id == session_id]
            expected = self.model.task(task_id, session_id)
            assert (without_service_times(reduce(merge_tasks, found)) if found else None) == expected

    async def check_read_session(self, session_id: str) -> None:
        if session_id in self.model.deleted or await self.is_aside(SESSIONS, session_id):
            return
        waiting = await self.rig.buffer.session(session_id)
        found = [*await self.backend.read(SESSIONS, [session_id]), *([waiting] if waiting else [])]
        expected = self.model.session(session_id)
        assert (without_service_times(reduce(merge_sessions, found)) if found else None) == expected

    async def check_rows(self) -> None:
        """Everything is flushed: what is stored is what the model says, but for what is aside."""
        await self.learn_tombstones()
        sessions = {s.session_id: without_service_times(s) for s in await self.backend.query(SESSIONS, Query())}
        tasks = {t.task_id: without_service_times(t) for t in await self.backend.query(TASKS, Query())}
        unfinished = {t.session_id for t in await self.backend.query(TOMBSTONES, Query()) if t.removed_at is None}
        for record in (*sessions.values(), *tasks.values()):
            assert self.model.was_accepted(record), "nothing is invented"
        for session_id in _SESSION_IDS:
            if session_id in unfinished or await self.is_aside(SESSIONS, session_id):
                continue
            assert self.model.allows_session(session_id, sessions.get(session_id)), session_id
            for task_id in _TASK_IDS:
                if task_id[0] != session_id or await self.is_aside(TASKS, task_id):
                    continue
                assert self.model.allows_task(task_id, session_id, tasks.get(task_id)), task_id

    @invariant()
    def the_books_are_right(self) -> None:
        self.rig.check_books()

    @invariant()
    def no_orphan_is_deleted(self) -> None:
        tasks = self.rig.tasks
        assert not any(tasks._deleted.covers(orphan.entry.record) for orphan in tasks._orphans)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.rig.waiting.room.unflushed <= _MEMORY

    async def check_end(self) -> None:
        """All is well again: everything accepted is stored, but for the tasks of sessions that nobody knows."""
        self.away = self.poisoned = False
        self._apply_faults()
        for _ in range(30):
            await self.rig.pass_time(31)
            await self.deletion.resume()
            await self.rig.buffer.flush()
            counts = await self.letters.replay_all(LetterFilter())
            if not self.rig.buffer.stats().set_aside and not counts.replayed and not counts.dropped:
                break
        stats = self.rig.buffer.stats()
        assert (stats.total_count, stats.set_aside) == (stats.waiting_for_session, 0)
        await self.learn_tombstones()
        letters = await self.dead_letters()
        sessions = {s.session_id: without_service_times(s) for s in await self.backend.query(SESSIONS, Query())}
        tasks = {t.task_id: without_service_times(t) for t in await self.backend.query(TASKS, Query())}
        for session_id in _SESSION_IDS:
            assert self.model.allows_session(session_id, sessions.get(session_id)), session_id
        lettered = {(letter.record_key, letter.session_id) for letter in letters}
        orphans = {(task.task_id, task.session_id) for task in self.rig.tasks.records()}
        for (task_id, session_id), _ in list(self.model.tasks.items()):
            expected, stored = self.model.task(task_id, session_id), tasks.get(task_id)
            if expected is None or self.model.may_lack(task_id, session_id, None):
                continue
            elsewhere = {(task_id, session_id)} & (lettered | orphans)
            if task_id in _CLAIMED_IDS:
                assert elsewhere or (stored is not None and stored.session_id == session_id)
            elif session_id in sessions:
                assert self.model.allows_task(task_id, session_id, stored), task_id
            else:
                assert elsewhere, f"{task_id} is lost"
        for record in (*sessions.values(), *tasks.values()):
            assert self.model.was_accepted(record)

    def teardown(self) -> None:
        try:
            self.run(self.check_end())
        finally:
            self.run(self.opened.__aexit__(None, None, None))
            self.run(self.backend.close())
            self.runner.close()
            shutil.rmtree(self.folder)


def _settings(examples: int, steps: int) -> settings:
    examples = int(os.environ.get("PERSISTENCE_TEST_EXAMPLES", examples))
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def test_nothing_is_lost_and_nothing_invented_in_memory() -> None:
    run_state_machine_as_test(BufferMachine, settings=_settings(45, 25))


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the schema and nothing else."""
    path = tmp_path_factory.mktemp("template") / "empty.db"

    async def make() -> None:
        backend = SqliteBackend(path)
        await backend.open()
        await backend.migrate()
        await backend.close()

    asyncio.run(make())
    return path


def test_nothing_is_lost_and_nothing_invented_in_sqlite(empty_database: Path) -> None:
    class SqliteMachine(BufferMachine):
        def new_backend(self) -> StorageBackend:
            path = self.folder / "law.db"
            shutil.copy(empty_database, path)
            return SqliteBackend(path, readers=1)

    run_state_machine_as_test(SqliteMachine, settings=_settings(10, 20))

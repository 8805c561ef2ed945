"""The main job, from end to end: workers report, the service keeps, and everything is read back and compared."""

import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from persistence_service.client import Status
from persistence_service.errors import SessionNotFound, TaskNotFound
from persistence_service.torture.ledger import Ledger, Record, Verdict, merged_session, position, read, task_order
from tests.e2e.caller import Caller, as_json, segment
from tests.e2e.workbooks import Workbook
from tests.e2e.worker import Worker

_MOST_PER_BATCH = 200
_BATCHES_AT_LEAST = 10


class MainJob:
    """One worker a workbook, all at once. Half way they wait for each other, so that what is unfinished can be told exactly."""

    def __init__(self, caller: Caller, workbooks: Sequence[Workbook]) -> None:
        self.caller = caller
        self.ledger = Ledger()
        self._workbooks = workbooks
        self._barrier = asyncio.Barrier(len(workbooks) + 1)
        self._workers = [
            Worker(caller, self.ledger, workbook, batch_size=self._batch_size(workbook)) for workbook in workbooks
        ]
        self.batches = sum(worker.batches for worker in self._workers)

    @staticmethod
    def _batch_size(workbook: Workbook) -> int:
        return min(_MOST_PER_BATCH, max(1, len(workbook.tasks) // _BATCHES_AT_LEAST))

    async def run(self) -> None:
        """Do all of it; what recovery says is checked before, half way, and after."""
        await self.check_recovery()
        async with asyncio.TaskGroup() as group:
            last = len(self._workers) - 1
            for number, worker in enumerate(self._workers):
                # The first has not begun and the last is done when they meet; the others are amid a batch.
                share = {0: 0.0, last: 1.0}.get(number, 0.3 + 0.4 * number / last)
                group.create_task(worker.work(pause_at=share, pause=self._pause))
            group.create_task(self._check_half_way())
        await self.check_recovery()

    async def _pause(self) -> None:
        await self._barrier.wait()
        await self._barrier.wait()

    async def _check_half_way(self) -> None:
        await self._barrier.wait()
        unfinished = self.ledger.unfinished()
        assert len(unfinished) == len(self._workbooks) - 1
        assert sum(counts.total() > 0 for counts in unfinished.values()) == len(self._workbooks) - 2
        await self.check_recovery()
        await self._barrier.wait()

    # ------------------------------------------------------------------------------------------------ recovery

    async def check_recovery(self) -> None:
        """While no worker has a report under way, what recovery says is exactly what the ledger says."""
        expected = self.ledger.unfinished()
        answer = await self.caller.client.incomplete_sessions()
        assert answer.complete
        assert answer.missing == []
        assert answer.next_cursor is None
        assert answer.count == len(answer.sessions) == len(expected)
        activities = [session.last_activity for session in answer.sessions]
        assert activities == sorted(activities, reverse=True)
        for session in answer.sessions:
            counts, unfinished = expected.pop(session.session_id), session.unfinished_tasks
            assert (unfinished.pending, unfinished.processing) == (counts["pending"], counts["processing"])
        assert not expected
        for session_id in self.ledger.sessions_kept:
            await self._check_restore(session_id, "pending", "processing")
            await self._check_restore(session_id, "pending", "processing", "failed")

    async def _check_restore(self, session_id: str, *statuses: str) -> None:
        answer = await self.caller.client.restore(session_id, include_failed="failed" in statuses)
        expected = [task for task in self.ledger.tasks_of(session_id) if task["status"] in statuses]
        assert read(as_json(answer.session)) == merged_session(self.ledger.sessions_kept[session_id])
        assert answer.session_id == session_id
        assert answer.next_cursor is None
        assert answer.tasks_count == len(expected)
        assert [read(as_json(task)) for task in answer.tasks] == expected

    async def check_single_reads(self, random: Random, count: int) -> None:
        """Wherever an acknowledged task waits, buffered, journaled or stored, it can be read at once, and is no older."""
        kept = dict(self.ledger.tasks_kept)
        for task_id in random.sample(sorted(kept), min(count, len(kept))):
            row = read(as_json(await self.caller.client.task(task_id)))
            assert task_order(row) >= task_order(kept[task_id])
            assert self.ledger.was_sent(row)

    # ------------------------------------------------------------------------------------------- at the end

    async def check_everything(self) -> Verdict:
        """`check_kept`, and the other ways to read it all: by page and by id."""
        verdict = await self.check_kept()
        ledger = self.ledger
        by_page = [read(row) for session_id in ledger.sessions_kept for row in await self._task_pages(session_id)]
        assert ledger.judge(by_page) == verdict
        if verdict:
            assert by_page == [task for session_id in ledger.sessions_kept for task in ledger.tasks_of(session_id)]
            await self._check_reads_by_id()
        return verdict

    async def check_kept(self) -> Verdict:
        """Flush, read everything back, and compare every field, every filter and every total; returns the four numbers."""
        ledger, caller = self.ledger, self.caller
        assert (
            set(ledger.tasks_kept)
            == set(ledger.tasks_sent)
            == {str(task["task_id"]) for workbook in self._workbooks for task in workbook.tasks}
        )
        flushed = await caller.client.flush()
        assert (flushed.waiting, flushed.dead_lettered) == (0, 0)

        by_cursor = [read(row) for row in await caller.walk("/tasks", sort_by="task_id", order="asc")]
        verdict = ledger.judge(by_cursor)
        assert by_cursor == sorted(by_cursor, key=lambda task: str(task["task_id"]))
        if verdict:
            assert by_cursor == sorted(ledger.tasks_kept.values(), key=lambda task: str(task["task_id"]))
            await self._check_sessions()
            await self._check_filters_and_totals()
        return verdict

    async def _task_pages(self, session_id: str) -> list[Record]:
        rows = await self.caller.pages(f"/sessions/{segment(session_id)}/tasks")
        assert rows == sorted(rows, key=position)
        return rows

    async def _check_sessions(self) -> None:
        expected = {key: merged_session(states) for key, states in self.ledger.sessions_kept.items()}
        for rows in (await self.caller.pages("/sessions"), await self.caller.walk("/sessions", order="asc")):
            assert len(rows) == len(expected)
            assert {row["session_id"]: read(row) for row in rows} == expected
        for session_id, session in expected.items():
            assert read(as_json(await self.caller.client.session(session_id))) == session

    async def _check_filters_and_totals(self) -> None:
        caller, ledger, kept = self.caller, self.ledger, self.ledger.tasks_kept
        for status in ("pending", "processing", "completed", "failed", "cancelled"):
            expected = {key for key, task in kept.items() if task["status"] == status}
            if len(expected) < len(kept) / 2:
                listed = [row["task_id"] for row in await caller.walk("/tasks", status=status)]
                assert len(listed) == len(expected)
                assert set(listed) == expected
            answer = await caller.get("/tasks", status=status, page_size=1)
            assert (answer["total"], answer["total_exact"]) == (len(expected), True)
            for session_id in ledger.sessions_kept:
                answer = await caller.get(f"/sessions/{segment(session_id)}/tasks", status=status, page_size=1)
                assert answer["total"] == sum(kept[key]["session_id"] == session_id for key in expected)
                if answer["total"] < len(kept) / 20:
                    tasks = [task.task_id async for task in caller.client.tasks_of(session_id, status=Status(status))]
                    assert tasks == [
                        task["task_id"] for task in ledger.tasks_of(session_id) if task["status"] == status
                    ]
        for field in ("sheet_name", "batch_id"):
            some = next(iter(kept.values()))[field]
            expected = {key for key, task in kept.items() if task[field] == some}
            assert {row["task_id"] for row in await caller.pages("/tasks", **{field: some})} == expected
        assert (await caller.get("/sessions", status="completed"))["total"] == len(self._workbooks)
        assert (await caller.get("/sessions", status="processing"))["total"] == 0

    async def _check_reads_by_id(self) -> None:
        ids = sorted(self.ledger.tasks_kept)
        for task_id in ids[:: max(1, len(ids) // 500)]:
            assert read(as_json(await self.caller.client.task(task_id))) == self.ledger.tasks_kept[task_id]
        with pytest.raises(TaskNotFound):
            await self.caller.client.task("nobody's %2F id")
        with pytest.raises(SessionNotFound):
            await self.caller.client.session("nobody's %2F id")

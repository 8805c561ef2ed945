"""The drill's workers: they delete sessions amid their work, send what no one knows, what conflicts and what is refused."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import pytest

from persistence_service.errors import SessionNotFound, TaskNotFound
from persistence_service.torture.account import Account, Kept, Letter, as_moment
from persistence_service.torture.fates import Deletion
from persistence_service.torture.ledger import Record, Verdict, read, task_as_answered
from tests.e2e.caller import Caller, as_json, batched, segment
from tests.e2e.database import POISON, Database
from tests.e2e.workbooks import Workbook
from tests.e2e.worker import Worker

_BATCH = 25


def workbook(session_id: str, tasks: int, *, poisoned_one_in: int = 0, text: str = "…") -> Workbook:
    """A workbook of that many cells, of which the database refuses some while it is poisoned."""
    session: Record = {
        "session_id": session_id,
        "filename": f"{session_id}.xlsx",
        "file_path": f"/games/{session_id}.xlsx",
        "llm_provider": "openai",
        "total_tasks": tasks,
        "game_info": {"title": session_id},
    }

    def cell(number: int) -> Record:
        is_poisoned = poisoned_one_in and number % poisoned_one_in == 0
        return {
            "task_id": f"{session_id}/{number}",
            "session_id": session_id,
            "batch_id": f"{session_id} {number // _BATCH}",
            "sheet_name": "对话",
            "row_index": number,
            "column_name": "target",
            "source_text": f"{POISON if is_poisoned else ''}{number} {text}",
            "target_text": f"译文 {number}",
        }

    return Workbook(session, [cell(number) for number in range(tasks)])


def now() -> datetime:
    """The time by the wall clock, which the service has too; the client's event times may be ahead of it."""
    return datetime.now(UTC)


class Drill:
    """Everything that workers and operators do; the account knows what has to come of it."""

    def __init__(self, caller: Caller, database: Database) -> None:
        self.caller = caller
        self.account = Account()
        self.database = database
        self.letters_seen: set[str] = set()

    def worker(self, book: Workbook) -> Worker:
        """The one who translates `book`."""
        return Worker(self.caller, self.account, book, batch_size=_BATCH)

    async def report(self, book: Workbook, tasks: Sequence[Record]) -> None:
        """Report tasks as they are, a batch at a time."""
        worker = self.worker(book)
        for batch in batched(list(tasks), _BATCH):
            await worker.report("tasks", batch)

    async def report_done(self, book: Workbook, *, batch: int = _BATCH) -> list[Record]:
        """Report all tasks, each once, when it is translated."""
        worker = self.worker(book)
        done = [worker.finished(task) for task in book.tasks]
        for some in batched(done, batch):
            await worker.report("tasks", some)
        return done

    # ---------------------------------------------------------------------------------------------- deletion

    async def delete(self, session_id: str) -> None:
        """Delete a session until that is acknowledged."""
        client = self.caller.client
        asked = now()
        await client.delete_session(session_id)
        self.account.note_deleted(session_id, asked, as_moment(client.event_time()))

    async def delete_amid_work(self, book: Workbook, *, revived: bool) -> None:
        """Begin to translate, delete it all, send it once more as late retries do, and perhaps begin anew."""
        worker = self.worker(book)
        await worker.report_session("processing", metadata={"attempt": 1}, completed_tasks=7)
        first = self.account.sessions_kept[book.session_id][0]
        sent: list[Record] = []
        for batch in batched(book.tasks, _BATCH):
            for tasks in ([worker.processing(task) for task in batch], [worker.finished(task) for task in batch[3:]]):
                await worker.report("tasks", tasks)
                sent += tasks
        await self.delete(book.session_id)
        await self.check_gone(book.session_id, sent[::40])
        await worker.report("sessions", [first])
        await self.report(book, sent)
        await self.check_gone(book.session_id, sent[::40])
        if revived:
            await worker.report_session("processing", metadata=None, total_tasks=3)
            again, anew = book.tasks[: len(book.tasks) // 2], workbook(book.session_id + "+", _BATCH).tasks
            await self.report(book, [worker.processing(task) for task in again])
            await self.report(book, [worker.finished(task) for task in again[::2]])
            await self.report(book, [worker.finished(task | {"session_id": book.session_id}) for task in anew])
        await self.report(book, sent[::2])

    async def delete_under_worker(self, book: Workbook) -> None:
        """Somebody else deletes it while its worker goes on; the worker's last report of the session revives it."""

        async def delete() -> None:
            await self.delete(book.session_id)

        await self.worker(book).work(pause_at=0.5, pause=delete)

    async def check_gone(self, session_id: str, tasks: Iterable[Record]) -> None:
        """Nothing of what was sent before the deletion shows, wherever one looks."""
        client = self.caller.client
        with pytest.raises(SessionNotFound):
            await client.session(session_id)
        for task in tasks:
            with pytest.raises(TaskNotFound):
                await client.task(str(task["task_id"]))
        assert (await self.caller.get("/tasks", session_id=session_id, page_size=1))["items"] == []

    # ------------------------------------------------------------------------------------------------- cleanup

    def expect_cleanup(self, kept: Kept, *statuses: str) -> tuple[int, int]:
        """Note that the finished sessions are about to go, each up to its newest record; how many, and their tasks."""
        gone = [str(session["session_id"]) for session in kept.sessions if session["status"] in statuses]
        tasks = 0
        for session_id in gone:
            rows = [row for row in (*kept.sessions, *kept.tasks) if row["session_id"] == session_id]
            newest = max(as_moment(row["event_time"]) for row in rows)
            self.account.deleted[session_id] = Deletion.exactly(newest)
            tasks += len(rows) - 1
        return len(gone), tasks

    # ---------------------------------------------------------------------------------------------- what is kept

    async def letters(self, reason: str) -> int:
        """How many dead letters there are for that reason."""
        answer = await self.caller.get("/dead-letters", reason=reason, page_size=1)
        assert answer["total_exact"]
        return int(answer["total"])

    async def kept(self) -> Kept:
        """Everything that the service shows after a flush, beside what the database itself says of deletions."""
        caller = self.caller
        await caller.client.flush()
        letters = []
        for listed in await caller.walk("/dead-letters"):
            letter = await caller.get(f"/dead-letters/{segment(listed['letter_id'])}")
            assert {name: letter[name] for name in listed} == listed
            self.letters_seen.add(letter["letter_id"])
            letters.append(Letter(letter["reason"], task_as_answered(letter["record"])))
        tasks = [read(row) for row in await caller.walk("/tasks", sort_by="task_id")]
        stored = self.database.look("SELECT COUNT(*) FROM translation_tasks")
        assert stored == [(len(tasks),)], f"{stored} are stored, {len(tasks)} are listed"
        for task in tasks[:: max(1, len(tasks) // 50)]:
            assert read(as_json(await caller.client.task(str(task["task_id"])))) == task
        tombstones = self.database.look("SELECT session_id, deleted_up_to FROM deleted_sessions")
        return Kept(
            sessions=[read(row) for row in await caller.walk("/sessions")],
            tasks=tasks,
            letters=letters,
            deleted_up_to={str(session_id): as_moment(up_to) for session_id, up_to in tombstones},
        )

    async def sum_up(self, phase: str) -> Verdict:
        """Compare everything so far, and say in a line what came of a phase."""
        kept = await self.kept()
        verdict = self.account.check(kept)
        print(
            f"{phase}: {len(kept.sessions)} sessions, {len(kept.tasks)} tasks, {len(kept.letters)} letters: {verdict}"
        )
        assert verdict, f"{phase}: {verdict}"
        return verdict

    def say_all(self, kills: int, verdict: Verdict) -> None:
        """Say in a line what it took."""
        print(
            f"{kills} kills, {len(self.account.deleted)} sessions deleted, {len(self.letters_seen)} letters, "
            f"{self.caller.repeated} requests repeated: {verdict}"
        )

"""A translation worker: it reports every state of every cell, and goes on until each report is acknowledged."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from zlib import crc32

import msgspec

from persistence_service.client import SessionRequest, TaskRequest
from persistence_service.torture.ledger import Ledger, Record
from tests.e2e.caller import Caller, batched
from tests.e2e.workbooks import Workbook

_BEIJING = timezone(timedelta(hours=8))
# Of a hundred tasks two fail; of ten batches one is reported once more as it was before it was done.
_FAILS_ONE_IN = 50
_LATE_ONE_IN = 10

Pause = Callable[[], Awaitable[None]]


async def _go_on() -> None:
    pass


class Worker:
    """Translates one workbook, and reports through the client, which also gives it the event times."""

    def __init__(self, caller: Caller, ledger: Ledger, workbook: Workbook, *, batch_size: int) -> None:
        self._client = caller.client
        self._ledger = ledger
        self._workbook = workbook
        self._batches = list(batched(workbook.tasks, batch_size))

    @property
    def batches(self) -> int:
        """How many batches it will send in all."""
        late = len(range(0, len(self._batches), _LATE_ONE_IN))
        return 2 + 2 * len(self._batches) + late

    async def work(self, *, pause_at: float = 0, pause: Pause = _go_on) -> None:
        """Translate it, and `pause` when the share `pause_at` of it is done.

        0 is with none begun, 1 with all done, what lies between is amid the two reports of a batch.
        """
        await self.report_session("processing", metadata={"attempt": 1, "worker": self._workbook.session_id})
        pause_before = round(pause_at * len(self._batches))
        if pause_at == 0:
            await pause()
        for number, batch in enumerate(self._batches):
            begun = [self.processing(task) for task in batch]
            await self.report("tasks", begun)
            if number == pause_before and pause_at > 0:
                await pause()
            await self.report("tasks", [self.finished(task) for task in batch])
            if number % _LATE_ONE_IN == 0:
                await self.report("tasks", begun)  # as a retry does that was given up on and arrives after all
        failed = sum(_fails(task) for task in self._workbook.tasks)
        done = len(self._workbook.tasks) - failed
        await self.report_session("completed", completed_tasks=done, failed_tasks=failed, game_info=None)
        if pause_at == 1:
            await pause()

    async def report_session(self, status: str, **fields: object) -> None:
        """Report the session's state."""
        session = self._workbook.session | {"status": status, "event_time": self._now()} | fields
        await self.report("sessions", [session])

    async def report(self, kind: str, records: list[Record]) -> None:
        """Send a batch until it is acknowledged."""
        self._ledger.sending(kind, records)
        if kind == "tasks":
            receipt = await self._client.send_tasks(msgspec.convert(records, list[TaskRequest]))
        else:
            receipt = await self._client.send_sessions(msgspec.convert(records, list[SessionRequest]))
        assert (receipt.count, receipt.durability) == (len(records), "journal")
        self._ledger.acknowledged(kind, records)

    def processing(self, task: Record) -> Record:
        """`task` as it is reported when its translation begins, now."""
        begun = {name: value for name, value in task.items() if name != "target_text"}
        return begun | {"status": "processing", "start_time": self._now(), "event_time": self._now()}

    def finished(self, task: Record) -> Record:
        """`task` as it is reported when it is translated, now, or has failed."""
        seed = crc32(str(task["task_id"]).encode())
        milliseconds = seed % 100_000
        end = datetime.fromisoformat(self._now())
        start = end - timedelta(milliseconds=milliseconds)
        times: Record = {
            "start_time": start.astimezone(_BEIJING).isoformat(),
            "end_time": end.isoformat(timespec="microseconds"),
            "duration_ms": milliseconds,
            "event_time": self._now(),
        }
        if _fails(task):
            untranslated = {name: value for name, value in task.items() if name != "target_text"}
            message = f"rate limited: “{str(task['source_text'])[:200]}”"
            return untranslated | times | {"status": "failed", "error_message": message, "retry_count": seed % 4}
        return task | times | {"status": "completed", "confidence": seed % 1_000_001 / 1_000_000}

    def _now(self) -> str:
        return self._client.event_time()


def _fails(task: Record) -> bool:
    return crc32(str(task["task_id"]).encode()) % _FAILS_ONE_IN == 0

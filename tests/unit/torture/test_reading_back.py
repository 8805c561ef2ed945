"""Right after an acknowledgement an older state is a finding, and a missing one; 503 is none, nor what is deleted."""

from collections import Counter
from datetime import UTC, datetime
from random import Random

import httpx
import pytest

from persistence_service.client.batches import Kind
from persistence_service.client.paths import BASE_PATH
from persistence_service.models.answers import BatchAccepted
from persistence_service.torture.account import Account, Sending
from persistence_service.torture.ledger import Record, WrongAnswer
from persistence_service.torture.poison import POISON, is_poison
from persistence_service.torture.reading_back import ReadBack

_NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
_SERVICE_TIMES = dict.fromkeys(("created_at", "updated_at"), "2026-01-31T12:00:00Z")
_SESSION: Record = {
    "session_id": "s",
    "filename": "f",
    "file_path": "p",
    "llm_provider": "l",
    "status": "processing",
    "event_time": "2026-01-31T12:00:01Z",
}
_TASK: Record = {
    "task_id": "t",
    "session_id": "s",
    "batch_id": "b",
    "sheet_name": "x",
    "row_index": 1,
    "column_name": "c",
    "source_text": "text",
    "status": "processing",
    "event_time": "2026-01-31T12:00:02Z",
}
_OLDER = "2026-01-31T12:00:00Z"


class Always(Random):
    """Reads each time."""

    def random(self) -> float:
        return 0.0


class Service:
    """Answers each request alike; it may be told to do something meanwhile."""

    def __init__(self, status: int, row: Record | None = None) -> None:
        self.status = status
        self.row = {} if row is None else row | _SERVICE_TIMES
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path.removeprefix(BASE_PATH))
        if self.asked[-1] == "/tasks":
            return httpx.Response(self.status, json={"items": [self.row] if self.row else [], "next_cursor": None})
        return httpx.Response(self.status, json=self.row)


@pytest.fixture
def account() -> Account:
    account = Account(refused=is_poison)
    account.is_kept(account.leaves("sessions", [_SESSION]))
    return account


def sent(account: Account, record: Record) -> Sending:
    kind: Kind = "tasks" if "task_id" in record else "sessions"
    sending = account.leaves(kind, [record])
    account.is_kept(sending)
    return sending


async def found(service: Service, account: Account, sending: Sending, durability: str = "journal") -> list[str]:
    transport = httpx.MockTransport(service.answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        reading = ReadBack(http, account, Always(), [], Counter())
        await reading.check(sending, BatchAccepted("accepted", 1, _NOW, durability))
        return reading.found


@pytest.mark.parametrize("record", [_TASK, _SESSION | {"status": "completed"}])
async def test_a_read_that_shows_the_state_is_well_and_an_older_or_none_is_found(
    account: Account, record: Record
) -> None:
    sending = sent(account, record)
    as_sent = dict(sending.states[0]) | {"event_time": record["event_time"]}
    assert await found(Service(200, as_sent), account, sending) == []
    assert len(await found(Service(200, as_sent | {"event_time": _OLDER}), account, sending)) == 1
    assert len(await found(Service(404), account, sending)) == 1
    assert await found(Service(503), account, sending) == []


async def test_what_was_acknowledged_with_storage_is_in_the_list(account: Account) -> None:
    sending = sent(account, _TASK)
    as_sent = dict(sending.states[0]) | {"event_time": _TASK["event_time"]}
    well = Service(200, as_sent)
    assert await found(well, account, sending, "storage") == []
    assert well.asked == ["/tasks", "/tasks/t"]
    (in_list, alone) = await found(Service(200), account, sending, "storage")
    assert "a list does not have it" in in_list
    assert "a read does not have it" in alone


async def test_without_event_time_what_was_sent_before_is_older(account: Account) -> None:
    first, second = (sent(account, _TASK | {"event_time": None, "context": text}) for text in "12")
    shown = [dict(sending.states[0]) | {"event_time": _OLDER} for sending in (first, second)]
    assert await found(Service(200, shown[1]), account, second) == []
    assert len(await found(Service(200, shown[0]), account, second)) == 1


async def test_what_may_be_deleted_or_a_dead_letter_or_was_in_memory_alone_is_not_asked_for(account: Account) -> None:
    orphan = sent(account, _TASK | {"task_id": "o", "session_id": "unknown"})
    poison = sent(account, _TASK | {"task_id": "p", "source_text": POISON})
    stolen = sent(account, _TASK | {"task_id": "o"})
    in_memory = sent(account, _TASK)
    service = Service(404)
    for sending in (orphan, poison, stolen):
        assert await found(service, account, sending) == []
    assert await found(service, account, in_memory, "memory") == []
    account.deleting("s")
    assert await found(service, account, in_memory, "storage") == []
    assert service.asked == []


async def test_what_the_contract_does_not_have_is_no_answer(account: Account) -> None:
    with pytest.raises(WrongAnswer, match="500"):
        await found(Service(500), account, sent(account, _TASK))

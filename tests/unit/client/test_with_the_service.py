"""The client and the service understand each other."""

from itertools import pairwise

import msgspec
import pytest

from persistence_service.client import (
    PersistenceClient,
    SessionRequest,
    Status,
    TaskRequest,
    UnexpectedAnswer,
)
from persistence_service.errors import (
    FieldProblem,
    PayloadTooLarge,
    SessionNotFound,
    ShuttingDown,
    StorageUnavailable,
    TaskNotFound,
    ValidationFailed,
)
from persistence_service.models.times import format_time
from tests.api.conftest import Api, StartApi, a_session
from tests.unit.client.network import Network, answer, refuse, some_tasks

SESSION = msgspec.convert(a_session(game_info={"source_lang": "en"}), SessionRequest)
TASK_IDS = ["a/b", "/", "x?page=2#top", "100%", "%2F", "漢字\U0001f600", "e\u0301", "..//..", "batch", "a+b c"]


async def test_what_is_sent_is_read_back(client: PersistenceClient) -> None:
    tasks = [msgspec.structs.replace(task, task_id=key) for task, key in zip(some_tasks(10), TASK_IDS, strict=True)]
    receipt = await client.send_sessions([SESSION])
    assert (receipt.count, receipt.durability, receipt.waiting, receipt.dead_lettered) == (1, "journal", [], [])
    assert (await client.send_tasks(tasks, ack="storage")).durability == "storage"
    for task in tasks:
        view = await client.task(task.task_id)
        assert (view.task_id, view.source_text, view.status) == (task.task_id, task.source_text, Status.PENDING)
    session = await client.session("s1")
    assert session.filename == SESSION.filename
    assert msgspec.json.decode(session.game_info) == SESSION.game_info


async def test_large_batches_arrive_compressed_and_whole(client: PersistenceClient) -> None:
    await client.send_sessions([SESSION])
    receipt = await client.send_tasks(some_tasks(2500, source_text="长" * 50))
    assert receipt.count == 2500
    assert client.stats.requests == 4
    tasks = [task async for task in client.tasks_of("s1", fresh=True)]
    assert [task.row_index for task in tasks] == list(range(2500))
    assert {task.source_text for task in tasks} == {"长" * 50}
    times = [task.event_time for task in tasks]
    assert all(earlier < later for earlier, later in pairwise(times))


async def test_states_follow_each_other_as_they_were_sent(client: PersistenceClient) -> None:
    (task,) = some_tasks(1)
    for status in (Status.PENDING, Status.PROCESSING, Status.FAILED, Status.PROCESSING):
        await client.send_tasks([msgspec.structs.replace(task, status=status)])
        assert (await client.task(task.task_id)).status == status


async def test_an_event_time_is_kept_as_it_was_given(client: PersistenceClient) -> None:
    given = client.event_time()
    await client.send_tasks(some_tasks(1, event_time=given))
    assert format_time((await client.task("t0")).event_time) == given


async def test_tasks_of_a_session_are_walked_by_position_and_filter(client: PersistenceClient) -> None:
    await client.send_sessions([SESSION])
    tasks = some_tasks(250)
    done = [msgspec.structs.replace(task, status=Status.COMPLETED, sheet_name="Done") for task in tasks[::2]]
    await client.send_tasks(done + tasks[1::2])
    assert [task async for task in client.tasks_of("s1")] == []
    stored = [task.task_id async for task in client.tasks_of("s1", fresh=True)]
    assert stored == [task.task_id for task in done + tasks[1::2]]
    completed = [task.task_id async for task in client.tasks_of("s1", status=Status.COMPLETED)]
    assert completed == [task.task_id for task in done]
    assert [task async for task in client.tasks_of("s1", sheet_name="done")] == []
    with pytest.raises(SessionNotFound):
        _ = [task async for task in client.tasks_of("s2")]


async def test_what_is_unfinished_is_found_and_restored(client: PersistenceClient) -> None:
    await client.send_sessions([SESSION])
    first, second, third = some_tasks(3)
    await client.send_tasks(
        [
            first,
            msgspec.structs.replace(second, status=Status.COMPLETED),
            msgspec.structs.replace(third, status=Status.FAILED),
        ]
    )
    found = await client.incomplete_sessions()
    assert (found.count, found.complete, found.sessions[0].session_id) == (1, True, "s1")
    assert found.sessions[0].unfinished_tasks.pending == 1
    assert (await client.incomplete_sessions(idle_s=3600)).sessions == []
    assert [task.task_id for task in (await client.restore("s1")).tasks] == ["t0"]
    again = await client.restore("s1", include_failed=True, limit=1)
    assert (again.tasks_count, [task.task_id for task in again.tasks]) == (2, ["t0"])
    rest = await client.restore("s1", include_failed=True, limit=1, cursor=again.next_cursor)
    assert ([task.task_id for task in rest.tasks], rest.next_cursor) == (["t2"], None)


async def test_flush_and_health_tell_how_things_are(client: PersistenceClient, api: Api) -> None:
    await client.send_sessions([SESSION])
    assert (await client.health()).buffer.total_count == 1
    flushed = await client.flush()
    assert (flushed.sessions_written, flushed.waiting) == (1, 0)
    api.backend.go_away(StorageUnavailable("away"))
    assert (await client.health()).database == "unhealthy"


async def test_an_unhealthy_service_is_an_answer_and_asked_no_second_time(client: PersistenceClient) -> None:
    healthy = await client.health()
    unhealthy = msgspec.structs.replace(healthy, status="unhealthy")
    network = Network.of(answer(503, msgspec.to_builtins(unhealthy)), refuse(503, "SHUTTING_DOWN", "in a moment"))
    async with network.client() as asking:
        assert await asking.health() == unhealthy
        with pytest.raises(ShuttingDown, match="in a moment"):
            await asking.health()
    assert len(network.requests) == 2


async def test_what_is_not_there_is_said_with_its_id(client: PersistenceClient) -> None:
    with pytest.raises(TaskNotFound) as no_task:
        await client.task("a/../b")
    assert no_task.value.task_id == "a/../b"
    with pytest.raises(SessionNotFound) as no_session:
        await client.session("nobody's %2F")
    assert no_session.value.session_id == "nobody's %2F"


async def test_each_problem_names_the_record_field_and_reason(client: PersistenceClient) -> None:
    good, bad = some_tasks(2)
    with pytest.raises(ValidationFailed) as caught:
        await client.send_tasks([good, msgspec.structs.replace(bad, row_index=-1)])
    (problem,) = caught.value.problems
    assert problem == FieldProblem(1, "row_index", problem.reason)
    with pytest.raises(TaskNotFound):
        await client.task("t0")


async def test_a_batch_over_the_services_own_bound_says_what_to_do(start_api: StartApi) -> None:
    api = await start_api(limits={"max_batch_items": 10})
    async with PersistenceClient("http://localhost:8001", transport=api.client._transport) as client:
        with pytest.raises(PayloadTooLarge, match="at most 10 items"):
            await client.send_tasks(some_tasks(11))


async def test_an_address_that_is_not_the_services_is_no_missing_record(api: Api) -> None:
    async with PersistenceClient("http://localhost:8001/elsewhere/", transport=api.client._transport) as client:
        with pytest.raises(UnexpectedAnswer) as caught:
            await client.task("t1")
        with pytest.raises(UnexpectedAnswer):
            await client.health()
    assert (caught.value.status, caught.value.error_code) == (404, "HTTP_404")
    assert caught.value.request_id


async def test_orphans_are_named_by_their_place(client: PersistenceClient) -> None:
    await client.send_sessions([SESSION])
    known, _ = some_tasks(2)
    stray: TaskRequest = msgspec.structs.replace(known, task_id="stray", session_id="s2")
    receipt = await client.send_tasks([known, stray], ack="storage")
    assert receipt.durability == "journal"
    assert [(item.index, item.reason) for item in receipt.waiting] == [(1, "unknown_session")]

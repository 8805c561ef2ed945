"""What the client does when requests fail, on a network that fails by script."""

import asyncio
import math
from itertools import pairwise

import httpx
import msgspec
import pytest

from persistence_service import errors
from persistence_service.api.errors import code_of, status_of
from persistence_service.client import (
    GaveUp,
    PersistenceClient,
    ServiceUnreachable,
    SessionRequest,
    Status,
    TaskRequest,
    UnexpectedAnswer,
)
from persistence_service.client.retry import Backoff
from persistence_service.errors import (
    FieldProblem,
    PersistenceError,
    SessionNotFound,
    TaskNotFound,
    Unavailable,
    ValidationFailed,
)
from persistence_service.models.times import format_time
from tests.unit.client.network import (
    WALL_US,
    Network,
    Step,
    accept,
    answer,
    event_times,
    fail,
    plain,
    refuse,
    some_tasks,
)

BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.ReadTimeout,
    httpx.WriteError,
    httpx.WriteTimeout,
    httpx.RemoteProtocolError,
)


@pytest.mark.parametrize("error", BROKEN)
async def test_what_broke_is_sent_again_byte_for_byte(error: type[httpx.TransportError]) -> None:
    network = Network.of(fail(error), fail(error), accept)
    async with network.client() as client:
        receipt = await client.send_tasks(some_tasks(3))
        assert (client.stats.requests, client.stats.retried) == (1, 2)
    assert receipt.count == 3
    assert len({plain(request) for request in network.requests}) == 1


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_what_was_refused_for_a_while_is_sent_again(status: int) -> None:
    network = Network.of(refuse(status, "BUFFER_FULL"), answer(status), accept)
    async with network.client() as client:
        await client.send_tasks(some_tasks(1))
        assert client.stats.retried == 2


async def test_event_times_are_set_before_the_first_attempt_and_never_again() -> None:
    network = Network.of(fail(httpx.ReadTimeout), refuse(503, "JOURNAL_FULL", Retry_After="9"), accept)
    tasks = some_tasks(2) + some_tasks(1, event_time="2026-01-01T00:00:00Z")
    async with network.client() as client:
        await client.send_tasks(tasks)
        await client.send_tasks(tasks)
    assert network.timing.wall > WALL_US + 9_000_000
    times = event_times(network.bodies)
    first = ["2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:00.000001Z", "2026-01-01T00:00:00Z"]
    assert times[:3] == [first] * 3
    assert times[3][:2] > first[:2]
    assert times[3][2] == first[2]


async def test_later_states_have_later_event_times_though_the_wall_clock_jumps_back() -> None:
    network = Network.of(accept)
    async with network.client() as client:
        for wall in (WALL_US, WALL_US - 10**9, WALL_US + 5, WALL_US - 1):
            network.timing.wall = wall
            await client.send_tasks(some_tasks(2))
    times = [time for batch in event_times(network.bodies) for time in batch]
    assert all(earlier < later for earlier, later in pairwise(times))


async def test_no_attempt_comes_before_retry_after() -> None:
    network = Network.of(refuse(503, "BUFFER_FULL", Retry_After="4"), refuse(503, "BUFFER_FULL"), accept)
    async with network.client() as client:
        await client.send_tasks(some_tasks(1))
    asked, own = network.timing.slept
    assert 4 <= asked <= 4.4
    assert 0.1 <= own <= 0.2  # the second pause of a backoff that begins at 0.1 s


async def test_pauses_grow_with_jitter_to_a_longest_one() -> None:
    network = Network.of(*[fail(httpx.ConnectError)] * 12, accept)
    async with network.client(backoff=Backoff(first_s=1, longest_s=8), give_up_s=None) as client:
        await client.send_tasks(some_tasks(1))
    bounds = [min(8.0, 2.0**number) for number in range(12)]
    assert all(bound / 2 <= slept <= bound for slept, bound in zip(network.timing.slept, bounds, strict=True))
    assert len(set(network.timing.slept)) == 12


async def test_it_gives_up_when_the_next_attempt_would_come_too_late() -> None:
    network = Network.of(refuse(503, "JOURNAL_FULL", "no room", Retry_After="25"))
    async with network.client(give_up_s=60) as client:
        with pytest.raises(GaveUp) as caught:
            await client.send_tasks(some_tasks(1))
    assert caught.value.attempts == len(network.requests) == 3
    assert isinstance(caught.value.last, errors.JournalFull)
    assert caught.value.__cause__ is caught.value.last
    assert caught.value.last.retry_after_s == 25
    assert 50 <= caught.value.elapsed_s <= 60
    assert isinstance(caught.value, Unavailable)


async def test_it_never_gives_up_if_told_so() -> None:
    network = Network.of(*[refuse(503, "STORAGE_UNAVAILABLE", Retry_After="300")] * 300, accept)
    async with network.client(give_up_s=None) as client:
        await client.send_tasks(some_tasks(1))
        assert client.stats.retried == 300
    assert sum(network.timing.slept) > 24 * 3600


async def test_an_attempt_that_hangs_ends_when_it_is_time_to_give_up() -> None:
    network = Network.of(accept)
    is_sent = asyncio.Event()

    class Hanging(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            is_sent.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with network.client(give_up_s=60) as client:
        client._http._transport = Hanging()
        sending = asyncio.create_task(client.send_tasks(some_tasks(1)))
        await is_sent.wait()
        network.timing.advance(60)
        with pytest.raises(GaveUp) as caught:
            await sending
    assert caught.value.attempts == 1
    assert isinstance(caught.value.last, ServiceUnreachable)


@pytest.mark.parametrize(
    "status,code", [(400, "MALFORMED_BODY"), (403, "FORBIDDEN"), (404, "HTTP_404"), (409, "X"), (500, "INTERNAL_ERROR")]
)
async def test_what_no_repetition_mends_is_raised_at_once(status: int, code: str) -> None:
    network = Network.of(refuse(status, code, "why"))
    async with network.client() as client:
        with pytest.raises(PersistenceError, match="why") as caught:
            await client.send_tasks(some_tasks(1))
        assert client.stats.retried == 0
    assert isinstance(caught.value, UnexpectedAnswer) == (code in ("HTTP_404", "X", "INTERNAL_ERROR"))
    assert getattr(caught.value, "error_code", caught.value.code) == code


@pytest.mark.parametrize("url", ["ftp://service", "service:8001"])
async def test_an_address_that_can_never_work_is_not_tried_again(url: str) -> None:
    async with PersistenceClient(url, give_up_s=None) as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.send_tasks(some_tasks(1))


# -------------------------------------------------------------------------------------------------------- splitting


async def test_a_large_batch_goes_in_several_requests_each_repeated_by_itself() -> None:
    network = Network.of(accept, fail(httpx.ReadError), accept, accept)
    tasks = some_tasks(25)
    async with network.client(max_batch_items=10) as client:
        receipt = await client.send_tasks(tasks)
        assert (client.stats.requests, client.stats.retried) == (3, 1)
    sizes = [len(body["tasks"]) for body in network.bodies]
    assert sizes == [10, 10, 10, 5]
    assert network.bodies[1] == network.bodies[2]
    del network.requests[1]
    sent = [task["task_id"] for body in network.bodies for task in body["tasks"]]
    assert sent == [task.task_id for task in tasks]
    assert receipt.count == 25


async def test_a_request_is_bounded_in_bytes_and_a_record_over_that_goes_alone() -> None:
    network = Network.of(accept)
    sizes = [400, 400, 400, 5000, 100, 100]
    tasks = [
        msgspec.structs.replace(task, source_text="x" * size) for task, size in zip(some_tasks(6), sizes, strict=True)
    ]
    async with network.client(max_batch_bytes=1500) as client:
        await client.send_tasks(tasks)
    assert [len(body["tasks"]) for body in network.bodies] == [2, 1, 1, 2]


async def test_an_empty_batch_is_asked_for_too() -> None:
    network = Network.of(accept)
    async with network.client() as client:
        assert (await client.send_tasks([])).count == 0
    assert network.bodies == [{"tasks": []}]


async def test_problems_and_what_waits_are_named_by_their_place_in_the_whole_batch() -> None:
    wrong = [{"index": 1, "field": "row_index", "reason": "is wrong"}, {"index": None, "field": "", "reason": "too"}]
    network = Network.of(accept, refuse(422, "VALIDATION_ERROR", wrong))
    async with network.client(max_batch_items=2) as client:
        with pytest.raises(ValidationFailed) as caught:
            await client.send_tasks(some_tasks(6))
    assert len(network.requests) == 2
    assert caught.value.problems == (FieldProblem(3, "row_index", "is wrong"), FieldProblem(None, "", "too"))
    assert caught.value.__notes__ == ["request r-1"]


async def test_the_receipt_is_as_safe_as_the_least_safe_part() -> None:
    def stored(durability: str, **unstored: object) -> dict[str, object]:
        return {
            "status": "accepted",
            "count": 2,
            "timestamp": "2026-01-31T12:00:00Z",
            "durability": durability,
            **unstored,
        }

    waiting = [{"index": 1, "reason": "unknown_session"}]
    dead = [{"index": 0, "reason": "data_rejected"}]
    dropped = [{"index": 1, "reason": "session_deleted"}]
    network = Network.of(
        answer(202, stored("journal", dropped=dropped)),
        answer(200, stored("storage")),
        answer(202, stored("journal", waiting=waiting, dead_lettered=dead, dropped=dropped)),
    )
    async with network.client(max_batch_items=2) as client:
        receipt = await client.send_tasks(some_tasks(6), ack="storage")
    assert [request.url.params["ack"] for request in network.requests] == ["storage"] * 3
    assert receipt.durability == "journal"
    assert [(item.index, item.reason) for item in receipt.waiting] == [(5, "unknown_session")]
    assert [(item.index, item.reason) for item in receipt.dead_lettered] == [(4, "data_rejected")]
    assert [(item.index, item.reason) for item in receipt.dropped] == [(1, "session_deleted"), (5, "session_deleted")]


# --------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "body",
    [
        None,
        {"status": "ok"},
        {"status": "accepted", "count": 1, "timestamp": "2026-01-31T12:00:00Z", "durability": "journal"},
        {"status": "accepted", "count": 2, "timestamp": "2026-01-31T12:00:00Z", "durability": "none"},
    ],
)
async def test_a_200_that_does_not_acknowledge_the_batch_is_not_taken_for_one(body: object) -> None:
    async with Network.of(answer(200, body)).client() as client:
        with pytest.raises(UnexpectedAnswer) as caught:
            await client.send_tasks(some_tasks(2))
    assert caught.value.status == 200


async def test_the_page_of_a_proxy_is_shown_for_what_it_is() -> None:
    async with Network.of(lambda _: httpx.Response(413, text="<h1>Too large</h1>")).client() as client:
        with pytest.raises(
            UnexpectedAnswer, match="not an answer of the persistence service: '<h1>Too large"
        ) as caught:
            await client.send_tasks(some_tasks(1))
    assert (caught.value.status, caught.value.error_code) == (413, "")


def _answered() -> list[type[PersistenceError]]:
    """The errors that say nothing but a sentence and when to come again, and those of the calls that the client makes."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PersistenceError)]
    simple = [kind for kind in kinds if issubclass(kind, Unavailable) or "__init__" not in vars(kind)]
    are_answered = [kind for kind in simple if code_of(kind) == kind.code and kind.code != PersistenceError.code]
    return [*are_answered, errors.SessionNotFound, errors.TaskNotFound]


@pytest.mark.parametrize("kind", _answered())
async def test_each_error_of_the_service_is_raised_as_its_own_class(kind: type[PersistenceError]) -> None:
    network = Network.of(refuse(status_of(kind), kind.code, "what happened", Retry_After="7"))
    async with network.client(give_up_s=5) as client:
        with pytest.raises(PersistenceError) as caught:
            await client.task("t/1")
    raised = caught.value.last if isinstance(caught.value, GaveUp) else caught.value
    assert type(raised) is kind, f"teach client/errors.py to build {kind.__name__}"
    assert raised.__notes__ == ["request r-1"]
    if isinstance(raised, Unavailable):
        assert raised.retry_after_s == 7


async def test_an_error_that_this_version_does_not_know_keeps_all_that_was_said() -> None:
    async with Network.of(refuse(409, "LEASED_TO_THE_MOON", "by another worker")).client() as client:
        with pytest.raises(UnexpectedAnswer, match="409 LEASED_TO_THE_MOON: by another worker") as caught:
            await client.restore("s1")
    found = caught.value
    assert (found.status, found.error_code, found.detail, found.request_id) == (
        409,
        "LEASED_TO_THE_MOON",
        "by another worker",
        "r-1",
    )


# ---------------------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    "metadata,reason",
    [
        ({"deep": [math.nan]}, "is not JSON"),
        ({"far": math.inf}, "is not JSON"),
        ({"half": "\ud83d"}, "lone surrogate"),
        ({"object": object()}, "is not JSON"),
    ],
)
async def test_values_that_are_not_json_are_refused_here_and_not_changed(
    metadata: dict[str, object], reason: str
) -> None:
    session = SessionRequest("s1", "a.xlsx", "/a.xlsx", Status.PENDING, "openai", metadata=metadata)
    network = Network.of(accept)
    async with network.client() as client:
        with pytest.raises(ValidationFailed) as caught:
            await client.send_sessions([msgspec.structs.replace(session, metadata={}), session])
    assert network.requests == []
    (problem,) = caught.value.problems
    assert problem.index == 1
    assert reason in problem.reason


@pytest.mark.parametrize("confidence", [math.nan, math.inf])
async def test_a_confidence_that_is_no_number_does_not_become_null(confidence: float) -> None:
    network = Network.of(accept)
    async with network.client() as client:
        with pytest.raises(ValidationFailed):
            await client.send_tasks([msgspec.structs.replace(some_tasks(1)[0], confidence=confidence)])
    assert network.requests == []


async def test_bodies_over_a_bound_are_compressed() -> None:
    network = Network.of(accept)
    tasks = [msgspec.structs.replace(task, source_text="长" * 100) for task in some_tasks(20)]
    async with network.client(gzip_over_bytes=1000) as client:
        await client.send_tasks(tasks)
        await client.send_tasks(tasks[:1])
    large, small = network.requests
    assert large.headers["content-encoding"] == "gzip"
    assert len(large.content) < len(plain(large)) / 5
    assert "content-encoding" not in small.headers
    assert [msgspec.convert(task, TaskRequest).source_text for task in network.bodies[0]["tasks"]] == ["长" * 100] * 20


async def test_requests_carry_the_key() -> None:
    network = Network.of(accept)
    async with network.client(api_key="k-1") as client:
        await client.send_tasks([])
    assert network.requests[0].headers["x-api-key"] == "k-1"


# ----------------------------------------------------------------------------------------------------------- delete


@pytest.mark.parametrize(
    "unknown",
    [
        fail(httpx.ReadTimeout),
        fail(httpx.RemoteProtocolError),
        answer(502),
        answer(504),
        refuse(503, "STORAGE_UNAVAILABLE"),
        refuse(503, "QUERY_TIMEOUT"),
    ],
)
async def test_a_delete_whose_first_outcome_was_unknown_is_done_when_the_session_is_gone(unknown: Step) -> None:
    network = Network.of(unknown, refuse(503, "JOURNAL_REPLAYING"), refuse(404, "SESSION_NOT_FOUND"))
    async with network.client() as client:
        assert await client.delete_session("s 1") is None
    assert [(request.method, request.url.raw_path) for request in network.requests] == [
        ("DELETE", b"/api/v1/translation/sessions/s%201")
    ] * 3


@pytest.mark.parametrize(
    "before",
    [
        [],
        [fail(httpx.ConnectError)],
        [fail(httpx.ConnectTimeout)],
        [refuse(503, "JOURNAL_REPLAYING")],
        [refuse(503, "MEMORY_LIMIT"), answer(429)],
        [answer(408)],
    ],
)
async def test_a_delete_that_never_began_before_tells_that_there_is_no_session(before: list[Step]) -> None:
    network = Network([*before, refuse(404, "SESSION_NOT_FOUND")])
    async with network.client() as client:
        with pytest.raises(SessionNotFound) as caught:
            await client.delete_session("s1")
    assert caught.value.session_id == "s1"


async def test_after_a_delete_the_client_s_event_times_are_later_than_what_stays_deleted() -> None:
    deleted = {"status": "deleted", "session_id": "s1", "deleted_up_to": "2026-01-31T12:00:00.500000Z"}
    network = Network.of(answer(200, deleted))  # by a service whose clock is half a second ahead
    async with network.client() as client:
        answered = await client.delete_session("s1")
        assert answered is not None
        assert format_time(answered.deleted_up_to) == deleted["deleted_up_to"]
        assert client.event_time() == "2026-01-31T12:00:00.500001Z"
        network.timing.advance(1)
        assert client.event_time() == "2026-01-31T12:00:01.000000Z"


async def test_where_the_time_of_a_deletion_is_not_told_event_times_pass_the_service_s_clock() -> None:
    gone = refuse(404, "SESSION_NOT_FOUND", date="Sat, 31 Jan 2026 12:00:07 GMT")
    network = Network.of(fail(httpx.ReadTimeout), gone)
    async with network.client() as client:
        assert await client.delete_session("s1") is None
        assert client.event_time() == "2026-01-31T12:00:08.000001Z"


@pytest.mark.parametrize("record_id", ["", ".", "..", "a/tasks", " a", "a\x00", "a" * 37, "\ud83d"])
async def test_what_can_be_no_id_never_reaches_another_call(record_id: str) -> None:
    network = Network.of(answer(200, {}))
    async with network.client() as client:
        for call in (client.session, client.delete_session, client.restore):
            with pytest.raises(SessionNotFound):
                await call(record_id)
    assert network.requests == []


@pytest.mark.parametrize("record_id", ["", ".", "..", " a", "a\x00", "a" * 65, "\ud83d"])
async def test_what_can_be_no_task_id_is_no_task(record_id: str) -> None:
    network = Network.of(answer(200, {}))
    async with network.client() as client:
        with pytest.raises(TaskNotFound):
            await client.task(record_id)
    assert network.requests == []

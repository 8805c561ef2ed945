"""Several workers as real processes are one service to callers who never know which of them answers."""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any

import httpx

from persistence_service.fleet.sibling import SHORTEST_SILENCE_S
from tests.e2e.caller import BASE
from tests.e2e.conftest import StartService
from tests.e2e.database import Database
from tests.e2e.service import ServiceProcess
from tests.e2e.test_kill import any_moment
from tests.e2e.test_process import NO_FLUSH
from tests.e2e.test_workers_process import THREE, WORKERS, all_ready, supervisor, until

_CONNECTIONS = 9
_NEED_ALL = (
    ("GET", "/sessions/S"),
    ("GET", "/recovery/incomplete-sessions"),
    ("POST", "/flush"),
    ("DELETE", "/sessions/S"),
)
_ROUNDS = 4
_TICK_S = 0.05
_WAITED_FOR_S = 4.0  # reads wait a second more: a worker's journal is closed after it has last answered
_ENDS = re.compile(r"^(\S+Z) .*(journal_closed|worker\.ready).*worker=(\d+)", re.MULTILINE)
_REQUESTS = re.compile(r'api_requests_total\{.*worker="(\d+)"\} (\d+)')


async def call(service: ServiceProcess, method: str, path: str, body: object = None, **parameters: object) -> Any:  # noqa: ANN401  # JSON
    """The JSON of a 200 answer, over a connection of its own."""
    response = await answered(service, method, path, body, **parameters)
    assert response.status_code == httpx.codes.OK, response.text
    return response.json()


async def answered(
    service: ServiceProcess, method: str, path: str, body: object = None, **parameters: object
) -> httpx.Response:
    """The first answer that is not 503, which is one where a worker does not answer the others in time."""
    async with asyncio.timeout(150):
        while True:
            response = await attempt(service, method, BASE + path, body, **parameters)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return response


async def attempt(
    service: ServiceProcess, method: str, path: str, body: object = None, **parameters: object
) -> httpx.Response:
    """Whatever answer, over a connection of its own."""
    query = {name: str(value) for name, value in parameters.items()}
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as http:  # noqa: S501  # plain HTTP
        return await http.request(method, service.url + path, json=body, params=query)


def a_session(session_id: str) -> dict[str, object]:
    return {
        "session_id": session_id,
        "filename": "items.xlsx",
        "file_path": "items.xlsx",
        "status": "processing",
        "llm_provider": "x",
    }


def a_task(task_id: str, session_id: str, retry_count: int = 0) -> dict[str, object]:
    return {
        "task_id": task_id,
        "session_id": session_id,
        "batch_id": "b",
        "sheet_name": "s",
        "row_index": 1,
        "column_name": "A",
        "source_text": "t",
        "status": "processing",
        "retry_count": retry_count,
    }


async def answered_by(service: ServiceProcess) -> Counter[str]:
    """How many requests each worker has answered, told by whichever is asked."""
    text = (await attempt(service, "GET", "/metrics")).text
    counts: Counter[str] = Counter()
    for worker, count in _REQUESTS.findall(text):
        counts[worker] += int(count)
    return counts


async def spread(service: ServiceProcess) -> None:
    """Have requests answered until every worker has had some."""

    async def each_had_some() -> bool:
        await asyncio.gather(*(attempt(service, "GET", "/health/live") for _ in range(_CONNECTIONS)))
        return len(await answered_by(service)) == WORKERS

    await until(each_had_some, service)


async def test_each_reads_what_any_has_accepted_updated_and_deleted(
    database: Database, start_service: StartService
) -> None:
    service = await start_service({**database.settings(), **THREE, **NO_FLUSH})
    await all_ready(service)
    await spread(service)

    async def work(name: str) -> None:
        for number in range(8):
            session_id = f"{name}-{number}"
            await call(service, "POST", "/sessions/batch", {"sessions": [a_session(session_id)]})
            for retries in range(3):  # without an event time: what is sent later is newer
                task = a_task(f"{session_id}:t", session_id, retries)
                await call(service, "POST", "/tasks/batch", {"tasks": [task]})
                assert (await call(service, "GET", f"/tasks/{session_id}:t"))["retry_count"] == retries
            assert (await call(service, "GET", f"/sessions/{session_id}"))["session_id"] == session_id
            assert (await call(service, "GET", f"/sessions/{session_id}/tasks", fresh=True))["total"] == 1
            if number % 2:
                await call(service, "DELETE", f"/sessions/{session_id}")
                for path in (f"/sessions/{session_id}", f"/tasks/{session_id}:t"):
                    assert (await answered(service, "GET", path)).status_code == httpx.codes.NOT_FOUND

    await asyncio.gather(*(work(f"w{number}") for number in range(3)))
    page = await call(service, "GET", "/sessions", fresh=True, page_size=100)
    assert {each["session_id"] for each in page["items"]} == {f"w{n}-{k}" for n in range(3) for k in range(0, 8, 2)}
    assert (await call(service, "GET", "/recovery/incomplete-sessions"))["count"] == page["total"]


async def test_whichever_is_asked_tells_the_figures_of_all(database: Database, start_service: StartService) -> None:
    service = await start_service({**database.settings(), **THREE, **NO_FLUSH})
    await all_ready(service)
    await spread(service)
    sessions = [a_session(f"s{number}") for number in range(30)]
    await asyncio.gather(*(call(service, "POST", "/sessions/batch", {"sessions": [each]}) for each in sessions))

    # A worker that does not answer in time is left out, which on a slow machine may be: they tell all, then, if asked again.
    async def statistics_are_of_all() -> bool:
        statistics = await call(service, "GET", "/stats")
        process = statistics["process"]
        told = (statistics["buffer"]["sessions_count"], process["workers"], process["missing_workers"])
        return bool(told == (len(sessions), WORKERS, []))

    async def health_is_of_all() -> bool:
        health = (await attempt(service, "GET", "/health")).json()
        return bool((health["status"], health["buffer"]["sessions_count"]) == ("healthy", len(sessions)))

    async def metrics_are_of_all() -> bool:
        lines = (await attempt(service, "GET", "/metrics")).text.splitlines()
        waiting = [line.rpartition(" ")[2] for line in lines if line.startswith('buffer_size{type="sessions"')]
        return sum(map(float, waiting)) == len(sessions) and f"persistence_workers_up {WORKERS}.0" in lines

    async def each_request_is_counted_by_one() -> bool:
        before = (await answered_by(service)).total()
        return (await answered_by(service)).total() == before + 1

    for _ in range(_CONNECTIONS):
        await until(statistics_are_of_all, service)
        await until(health_is_of_all, service)
        await until(metrics_are_of_all, service)
    await until(each_request_is_counted_by_one, service)
    assert (await call(service, "POST", "/flush"))["sessions_written"] == len(sessions)


async def test_while_a_worker_is_stopped_each_is_refused_at_once_what_it_may_know_and_the_rest_goes_on(
    start_service: StartService,
) -> None:
    service = await start_service({**THREE, **NO_FLUSH}, measured=False)
    stopped = (await all_ready(service))[2]
    await call(service, "POST", "/sessions/batch", {"sessions": [a_session("S")]})
    await call(service, "POST", "/flush")

    async def is_refused(method: str, path: str, **parameters: object) -> bool:
        response = await attempt(service, method, BASE + path, **parameters)
        assert response.status_code in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE), response.text
        return response.status_code == httpx.codes.SERVICE_UNAVAILABLE

    os.kill(stopped, signal.SIGSTOP)
    try:
        every = [partial(is_refused, *each) for each in _NEED_ALL] + [
            partial(is_refused, "GET", "/sessions", fresh=True)
        ]
        for refused in every:
            assert all(await asyncio.gather(*(refused() for _ in range(_CONNECTIONS)))), "both others have waited then"
        began = monotonic()
        for refused in every * _ROUNDS:
            assert await refused()
        # Who looks whether a worker is there waits for a second; so would these, each after the other.
        assert monotonic() - began < len(every) * _ROUNDS * SHORTEST_SILENCE_S
        await call(service, "POST", "/sessions/batch", {"sessions": [a_session("T")]})
        assert (await call(service, "GET", "/sessions"))["total"] == 1
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert (await call(service, "GET", "/sessions/T"))["session_id"] == "T"
    await call(service, "DELETE", "/sessions/S")
    assert (await call(service, "GET", "/sessions", fresh=True))["total"] == 1


async def test_reads_are_neither_refused_nor_old_while_workers_restart_one_after_the_other(
    start_service: StartService,
) -> None:
    service = await start_service({**THREE, **NO_FLUSH}, measured=False)
    await all_ready(service)
    ended = asyncio.Event()
    reads = 0
    refused: list[str] = []

    async def work(name: str) -> None:
        nonlocal reads
        await call(service, "POST", "/sessions/batch", {"sessions": [a_session(name)]})
        retries = 0
        while not ended.is_set():
            retries += 1
            try:
                await call(service, "POST", "/tasks/batch", {"tasks": [a_task(f"{name}:t", name, retries)]})
                read = await attempt(service, "GET", f"{BASE}/tasks/{name}:t")
            except httpx.TransportError:
                continue  # the connection broke: the outcome is open, and the next update is a newer one
            if read.status_code != httpx.codes.OK:
                refused.append(read.text)
                continue
            assert read.json()["retry_count"] == retries
            reads += 1

    async def restart() -> None:
        os.kill(supervisor(service), signal.SIGHUP)
        await until(lambda: any("service.restarted" in line for line in service.log), service)
        ended.set()

    async with longest_stall_s() as stall_s:
        await asyncio.gather(restart(), *(work(f"w{number}") for number in range(3)))
    assert reads > 0
    # A machine may be too slow for that, but not for the rest.
    if longest_absence_s(service) + stall_s() < _WAITED_FOR_S:
        assert refused == []
    assert all("JOURNAL_REPLAYING" in text for text in refused)


@asynccontextmanager
async def longest_stall_s() -> AsyncIterator[Callable[[], float]]:
    """For how long at most the machine did nothing for us during the block."""
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        while True:
            before = monotonic()
            await any_moment(_TICK_S)
            longest = max(longest, monotonic() - before - _TICK_S)

    looking = asyncio.create_task(look())
    try:
        yield lambda: longest
    finally:
        looking.cancel()


def longest_absence_s(service: ServiceProcess) -> float:
    """From the end of a worker that was restarted to when its successor was ready."""
    ended: dict[str, datetime] = {}
    longest = 0.0
    for at, event, worker in _ENDS.findall("\n".join(service.log)):
        moment = datetime.fromisoformat(at)
        if event == "journal_closed":
            ended[worker] = moment
        elif worker in ended:
            longest = max(longest, (moment - ended.pop(worker)).total_seconds())
    assert longest, "some were restarted"
    return longest

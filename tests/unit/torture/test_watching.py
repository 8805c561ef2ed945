"""What a service goes through is counted from its metrics, whichever process answers, and whoever does not."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence

import httpx
import pytest

from persistence_service.torture.watching import watch


@pytest.fixture(autouse=True)
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence_service.torture.watching._EVERY_S", 0.0)


def page(spilled: int, set_aside: int, fsyncs: int, *failures: int) -> str:
    """The metrics that count, among others; failures are told by table."""
    lines = ["# HELP persistence_spilled_records said in words 7", f"persistence_spilled_records {spilled}.0"]
    lines += [f'persistence_flush_failures_total{{table="{table}"}} {count}.0' for table, count in enumerate(failures)]
    lines += [f"persistence_set_aside {set_aside}.0", f"persistence_journal_fsyncs_total {fsyncs}.0", "other 9.0"]
    return "\n".join(lines) + "\n"


async def seen(*answers: str | int) -> dict[str, int]:
    """What is counted when the metrics are these, one look after the other; a number is a status without metrics."""
    watched: Counter[str] = Counter()
    over = asyncio.Event()
    left = _and_then_end(answers, over)

    def answer(_: httpx.Request) -> httpx.Response:
        given = next(left)
        if given == 0:
            raise httpx.ConnectError("nobody is there")
        return httpx.Response(given) if isinstance(given, int) else httpx.Response(200, text=given)

    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service") as http,
    ):
        watching = asyncio.create_task(watch(http, watched))
        await over.wait()
        watching.cancel()
        await asyncio.wait([watching])
    return {name: count for name, count in watched.items() if count}


def _and_then_end(answers: Sequence[str | int], over: asyncio.Event) -> Iterator[str | int]:
    yield from answers
    over.set()
    while True:
        yield 0


async def test_what_grows_and_what_shrinks_is_counted() -> None:
    assert await seen(page(0, 0, 1), page(50, 3, 2), page(20, 5, 3), page(30, 0, 4)) == {
        "spilled": 60,
        "read_back": 30,
        "set_aside": 5,
    }


async def test_failures_of_all_tables_are_summed() -> None:
    assert await seen(page(0, 0, 1, 1, 1), page(0, 0, 2, 3, 2)) == {"failed_flushes": 5}


async def test_another_process_begins_from_nothing_and_has_read_nothing_back() -> None:
    assert await seen(page(50, 0, 9, 4), page(20, 0, 2, 1)) == {"spilled": 70, "failed_flushes": 5}


async def test_a_service_that_does_not_answer_is_looked_at_again() -> None:
    assert await seen(0, page(10, 0, 1), 503, 0, page(15, 0, 2)) == {"spilled": 15}

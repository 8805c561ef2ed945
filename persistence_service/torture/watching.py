"""What a service goes through while it is tortured, from its metrics: that it had to spill, to read back, and to try again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import httpx

_EVERY_S: Final = 0.25
_SPILLED: Final = "persistence_spilled_records"
_SET_ASIDE: Final = "persistence_set_aside"
_FAILURES: Final = "persistence_flush_failures_total"
_ONLY_GROWS: Final = "persistence_journal_fsyncs_total"


async def watch(http: httpx.AsyncClient, seen: Counter[str]) -> None:
    """Count in `seen`, until it is cancelled: records `spilled`, `read_back` and `set_aside`, and `failed_flushes`.

    No more than what shows between two looks, so each is at least that much.
    """
    before: Counter[str] = Counter()
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            text = (await http.get("/metrics", timeout=2)).raise_for_status().text
        except httpx.HTTPError:
            continue
        now = _values(text)
        if now[_ONLY_GROWS] < before[_ONLY_GROWS]:  # it is another process
            before = Counter()
        seen["spilled"] += max(0, now[_SPILLED] - before[_SPILLED])
        seen["read_back"] += max(0, before[_SPILLED] - now[_SPILLED])
        seen["set_aside"] += max(0, now[_SET_ASIDE] - before[_SET_ASIDE])
        seen["failed_flushes"] += max(0, now[_FAILURES] - before[_FAILURES])
        before = now


def _values(text: str) -> Counter[str]:
    """By name, the sum over all labels."""
    values: Counter[str] = Counter()
    for line in text.splitlines():
        name = line.split("{")[0].split(" ")[0]
        if name in {_SPILLED, _SET_ASIDE, _FAILURES, _ONLY_GROWS}:
            values[name] += round(float(line.rpartition(" ")[2]))
    return values

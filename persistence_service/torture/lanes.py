"""Faults strike in lanes: one after the other within a lane, and all lanes at once, so that they meet in every way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

from persistence_service.torture.faults import Fault, ServiceEnded
from persistence_service.torture.report import Report
from persistence_service.torture.schedule import Stroke, schedule

_STROKE_WITHIN_S = 300.0
_LONGEST_PAUSE_S = 0.4
_LONGEST_LIFE_S = 5.0
"""Of a process before the next is done to it: faults of other lanes need one that runs."""
_PROCESS = "process"
_LANES = {"disk": "disk", "clock": "disk", "network": "database", "database": "database", "server": "database"}
"""By what a fault's name begins with; all others are in the lane of the process."""


class Lane:
    """Faults of which never two strike at once, drawn from a seed of their own; what is next waits for the next time."""

    def __init__(self, faults: Sequence[Fault], seed: str, longest_pause_s: float) -> None:
        self._strokes: Iterator[Stroke] = schedule(faults, seed, longest_pause_s)

    def next(self) -> Stroke:
        """The next to strike."""
        return next(self._strokes)

    def put_back(self, stroke: Stroke) -> None:
        """It did not strike after all."""
        self._strokes = chain([stroke], self._strokes)


class Lanes:
    """All faults of a torture in their lanes; what they did is noted in the report."""

    def __init__(self, faults: Sequence[Fault], seed: str, report: Report) -> None:
        self._faults = faults
        self._report = report
        lanes: dict[str, list[Fault]] = {}
        for fault in faults:
            lanes.setdefault(_lane_of(fault), []).append(fault)
        self._lanes = [
            Lane(its, f"{seed}/{name}", _LONGEST_LIFE_S if name == _PROCESS and len(lanes) > 1 else _LONGEST_PAUSE_S)
            for name, its in lanes.items()
        ]

    async def strike(self, seconds: float) -> None:
        """Until the time is over, or a lane can't go on: then the others end what they have begun."""
        over = asyncio.Event()
        timing = asyncio.get_running_loop().call_later(seconds, over.set)
        try:
            ends = await asyncio.gather(*(self._run(lane, over) for lane in self._lanes), return_exceptions=True)
            for end in ends:
                if end is not None:
                    raise end
            if not self._lanes:
                await over.wait()
        finally:
            timing.cancel()

    async def _run(self, lane: Lane, over: asyncio.Event) -> None:
        try:
            while not over.is_set():
                stroke = lane.next()
                with suppress(TimeoutError):
                    async with asyncio.timeout(stroke.pause_s):
                        await over.wait()
                if over.is_set():
                    lane.put_back(stroke)
                    return
                if not await self._strike(stroke):
                    return
        finally:
            over.set()

    async def _strike(self, stroke: Stroke) -> bool:
        """Whether the service is well enough for the next."""
        name = stroke.fault.name
        try:
            async with asyncio.timeout(_STROKE_WITHIN_S):
                await stroke.fault.strike(stroke.random)
        except TimeoutError:
            self._report.trouble.append(f"{name} was not over within {_STROKE_WITHIN_S:.0f} s")
            return False
        except ServiceEnded as exc:
            self._report.trouble.append(f"before or in {name}: {exc}")
            return False
        self._report.faults[name] += 1
        for fault in self._faults:
            self._report.hits[fault.name] = getattr(fault, "hits", self._report.faults[fault.name])
        return True


def _lane_of(fault: Fault) -> str:
    return _LANES.get(fault.name.split(":")[0], _PROCESS)

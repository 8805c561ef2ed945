"""One torture, from the first record to the verdict."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import ceil
from time import monotonic

from persistence_service.client import SessionRequest, Status
from persistence_service.client.timing import EventClock, SystemTiming
from persistence_service.errors import PersistenceError, SessionNotFound
from persistence_service.torture.account import Account, Kept, cell_of
from persistence_service.torture.clients import Connections, Rules, TortureClient
from persistence_service.torture.faults import Fault, ServiceEnded, Subject
from persistence_service.torture.histories import Author
from persistence_service.torture.lanes import Lanes
from persistence_service.torture.ledger import Record, Verdict, WrongAnswer
from persistence_service.torture.power_faults import PowerLost
from persistence_service.torture.reading import Reader
from persistence_service.torture.report import Report
from persistence_service.torture.watching import watch

_ROUND_S = 60.0
_ANSWERED_WITHIN_S = 180.0
_SETTLED_WITHIN_S = 240.0
_REMOVED_WITHIN_S = 300.0
_LOOK_AGAIN_S = 0.5
_TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; with `removes` all that was stored is deleted in the end.

    `clock_doubt`: by how much the service's clock may differ from ours, None for what follows from the faults.
    """

    seconds: float
    seed: int
    clients: int = 12
    clock_doubt: timedelta | None = None
    removes: bool = False


def new_prefix() -> str:
    """What the ids of a torture begin with, which no other torture's do."""
    return f"torture-{os.urandom(4).hex()}"


@dataclass
class Conductor:
    """Has clients send, and faults strike, and compares in the end; long tortures in rounds, so that memory is bounded.

    Without a `subject` the service is somebody else's: it is not started again, and what is in it besides is not looked at.
    """

    plan: Plan
    url: str
    faults: Sequence[Fault]
    report: Report
    tell: Callable[[str], None]
    subject: Subject | None = None
    prefix: str = field(default_factory=new_prefix)
    refused: Callable[[Record], bool] | None = None
    """See `Account`."""

    async def run(self) -> None:
        """All rounds; what is found is in the report."""
        began = monotonic()
        rounds = max(1, ceil(self.plan.seconds / _ROUND_S))
        lanes = Lanes(self.faults, str(self.plan.seed), self.report)
        async with Connections.to(self.url) as http:
            for number in range(1, rounds + 1):
                await self._round(number, http, lanes, self.plan.seconds / rounds)
                self.report.rounds = number
                self.report.seconds = monotonic() - began
                if not self.report.is_well:
                    return

    async def _round(self, number: int, http: Connections, lanes: Lanes, seconds: float) -> None:
        account = Account(refused=self.refused)
        clock = EventClock(SystemTiming().wall_us)
        rules = Rules(self.url, clock, self._clock_doubt(), self.report.trouble, seen=self.report.seen)
        seed = f"{self.plan.seed}/{number}"
        prefix = f"{self.prefix}-{number}"
        clients = [
            TortureClient(rules, account, Author(f"{seed}/{each}", f"{prefix}-{each}", clock.next), http)
            for each in range(self.plan.clients)
        ]
        over = asyncio.Event()
        sending = [asyncio.create_task(client.run(over)) for client in clients]
        beside = [asyncio.create_task(self._tell_progress(account, number))]
        if self.subject is not None:
            beside.append(asyncio.create_task(watch(http.plain, self.report.seen)))
        try:
            await lanes.strike(seconds)
            over.set()
            await self._all_answered(sending)
            await _ended(*sending, *beside)
            self.report.verdicts.append(Verdict(regressed=rules.found_at_once))
            await self._compare(account, Reader(http.plain, prefix, within_s=_SETTLED_WITHIN_S))
        except ServiceEnded as exc:
            self.report.trouble.append(f"it does not come back: {exc}")
        finally:
            over.set()
            await _ended(*sending, *beside)
            if self.plan.removes:
                await self._remove(account, Reader(http.plain, prefix, within_s=_SETTLED_WITHIN_S), http)

    # ----------------------------------------------------------------------------------------------------- faults

    def _has(self, source: str) -> bool:
        return any(fault.name.startswith(source) for fault in self.faults)

    def _clock_doubt(self) -> timedelta:
        """What is somebody else's may be anywhere."""
        if self.plan.clock_doubt is not None:
            return self.plan.clock_doubt
        return timedelta(days=4 if self._has("clock:") else 0, minutes=0 if self.subject is not None else 10)

    async def _all_answered(self, sending: Sequence[asyncio.Task[None]]) -> None:
        """Everything is healed: whoever has begun a request gets his answer."""
        if self.subject is not None:
            await self._up_again(self.subject)
        done, waiting = await asyncio.wait(sending, timeout=_ANSWERED_WITHIN_S)
        for task in done:
            task.result()
        if waiting:
            self.report.trouble.append(
                f"{len(waiting)} clients have no answer {_ANSWERED_WITHIN_S:.0f} s after the last fault"
            )

    async def _up_again(self, subject: Subject) -> None:
        """No fault leaves it down; if it is, that is a finding, and what it has kept is looked at all the same."""
        try:
            await subject.until_ready()
        except ServiceEnded as exc:
            self.report.trouble.append(str(exc))
            await self._restart(subject)

    async def _restart(self, subject: Subject) -> None:
        if subject.is_running:
            await subject.kill()
        await subject.start()

    # ----------------------------------------------------------------------------------------------------- verdict

    async def _compare(self, account: Account, reader: Reader) -> None:
        self.tell("waiting until all is stored")
        report = self.report
        report.records_sent += account.records_sent
        report.records_acknowledged += account.records_acknowledged
        report.sessions_deleted += len(account.deleted)
        account.loses([lost for fault in self.faults if isinstance(fault, PowerLost) for lost in fault.lost])
        try:
            kept = await self._settled(account, reader)
        except WrongAnswer as exc:
            report.trouble.append(str(exc))
            return
        report.records_stored += len(kept.sessions) + len(kept.tasks)
        report.dead_letters += len(kept.letters)
        report.data_rejected += kept.letters_of("data_rejected").total()
        self.tell("comparing")
        report.verdicts.append(account.check(kept))
        if self.subject is not None:
            losses = (await reader.health())["journal"]["losses"]
            report.trouble.extend(f"the journal reports a loss: {loss}" for loss in losses)

    async def _settled(self, account: Account, reader: Reader) -> Kept:
        """What is kept when nothing is on its way any more."""
        ends_at = monotonic() + _SETTLED_WITHIN_S
        while True:
            flushed = await reader.flush()
            kept = await self._with_waiting(account, reader, await reader.kept(account.session_ids))
            stored = {session["session_id"] for session in kept.sessions}
            adoptable = [
                letter.task["session_id"]
                for letter in kept.letters
                if letter.reason == "unknown_session" and letter.task["session_id"] in stored
            ]
            waiting = flushed["waiting"] if self.subject is not None else 0
            if not waiting and not adoptable:
                return kept
            if monotonic() > ends_at:
                self.report.trouble.append(
                    f"{waiting} records still wait, and {len(adoptable)} dead letters of sessions that are stored, "
                    f"{_SETTLED_WITHIN_S:.0f} s after the last fault: {sorted(map(str, adoptable))[:3]}"
                )
                return kept
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _with_waiting(self, account: Account, reader: Reader, kept: Kept) -> Kept:
        """Somebody else's service may have orphans wait for long, and no list shows them."""
        if self.subject is not None:
            return kept
        seen = {cell_of(task) for task in (*kept.tasks, *(letter.task for letter in kept.letters))}
        waiting = await reader.waiting(task_id for session_id, task_id in account.cells.keys() - seen)
        return replace(kept, letters=[*kept.letters, *waiting])

    async def _remove(self, account: Account, reader: Reader, http: Connections) -> None:
        """Leave nothing behind in a database that is not ours, or say what is left."""
        self.tell("removing what was stored")
        try:
            async with asyncio.timeout(_REMOVED_WITHIN_S):
                if self.subject is not None and not self.subject.is_ready:
                    await self._restart(self.subject)
                await self._remove_all(account, reader, http)
        except (PersistenceError, TimeoutError) as exc:
            self.report.trouble.append(
                f"not all was removed ({exc!r}): delete the sessions, tasks and dead letters whose session_id begins with {self.prefix}"
            )

    async def _remove_all(self, account: Account, reader: Reader, http: Connections) -> None:
        """Orphans are given a session, which is deleted with them."""
        for session_id in account.session_ids:
            with suppress(SessionNotFound):
                await http.client.delete_session(session_id)
                continue
            await http.client.send_sessions([_nobodys(session_id)])
            await http.client.delete_session(session_id)
        for letter_id in await reader.letter_ids():
            await reader.discard(letter_id)

    async def _tell_progress(self, account: Account, number: int) -> None:
        while True:
            self.tell(
                f"round {number}: {self.report.faults.total():,} faults, "
                f"{self.report.records_acknowledged + account.records_acknowledged:,} records acknowledged"
            )
            await asyncio.sleep(_TELL_EVERY_S)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """None of them goes on."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _nobodys(session_id: str) -> SessionRequest:
    """A session that is only there to be deleted."""
    return SessionRequest(
        session_id=session_id, filename="torture", file_path="torture", llm_provider="torture", status=Status.CANCELLED
    )

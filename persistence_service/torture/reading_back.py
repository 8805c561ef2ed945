"""What an acknowledgement is worth at once, while faults strike: whoever reads then reads no older state, or hears 503."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from random import Random
from typing import Any

import httpx

from persistence_service.client.paths import BASE_PATH, session_segment, task_segment
from persistence_service.models.answers import BatchAccepted
from persistence_service.torture.account import Account, Sending, cell_of, is_timed
from persistence_service.torture.ledger import Record, WrongAnswer, read, session_order, task_order

_OFTEN = 0.3
_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Reads some of what was just acknowledged, once, and notes in `found` what is older or missing.

    Left out is what may be missing rightly: what is deleted or being deleted, what is or may become a dead letter, what was
    acknowledged with `memory` alone. `seen` counts the reads that told something, as `read_back_at_once` and `lists_at_once`.
    """

    http: httpx.AsyncClient
    account: Account
    random: Random
    found: list[str]
    seen: Counter[str]

    async def check(self, sending: Sending, receipt: BatchAccepted) -> None:
        """Right after `sending` was acknowledged.

        Raises:
            WrongAnswer: an answer that the contract does not have.
        """
        if receipt.durability == "storage" and sending.kind == "tasks":
            await self._listed(sending.states)
        if receipt.durability == "memory" or self.random.random() > _OFTEN:
            return
        state = self.random.choice(sending.states)
        if sending.kind == "tasks":
            await self._task(state)
        elif is_timed(state):
            await self._session(state)

    async def _listed(self, states: Sequence[Record]) -> None:
        """What is stored is in lists from now on."""
        session_id = str(states[0]["session_id"])
        if session_id in self.account.deleted:
            return
        rows = await self._rows(session_id)
        if rows is None or session_id in self.account.deleted:
            return
        self.seen["lists_at_once"] += 1
        for state in states:
            self._compare("list", state, rows.get(str(state["task_id"])))

    async def _rows(self, session_id: str) -> Mapping[str, Record] | None:
        """The tasks of a session as they are listed, by id; None if that is not answered."""
        rows: dict[str, Record] = {}
        asked = {"session_id": session_id, "page_size": str(_PAGE_SIZE), "count": "false"}
        while True:
            page = await self._answer("/tasks", asked)
            if page is None:
                return None
            rows |= {str(row["task_id"]): read(row) for row in page["items"]}
            if page["next_cursor"] is None:
                return rows
            asked["cursor"] = page["next_cursor"]

    async def _task(self, state: Record) -> None:
        if not self._has_to_show(state):
            return
        row = await self._answer(f"/tasks/{task_segment(str(state['task_id']))}")
        if row is None or not self._has_to_show(state):
            return
        self.seen["read_back_at_once"] += 1
        self._compare("read", state, read(row) if row else None)

    def _has_to_show(self, state: Record) -> bool:
        """It can't be a dead letter: its session is kept, it is of no other, and nothing of it is refused."""
        session_id, task_id = cell_of(state)
        account = self.account
        sent = account.tasks_sent[task_id]
        return (
            session_id in account.sessions
            and session_id not in account.deleted
            and all(other["session_id"] == session_id for other in sent)
            and not (account.refused is None or any(map(account.refused, sent)))
        )

    def _compare(self, how: str, state: Record, row: Record | None) -> None:
        name = f"task {state['task_id']} of session {state['session_id']}"
        if row is None:
            self.found.append(f"{name}: acknowledged, and right after that a {how} does not have it")
            return
        known = self.account.recognised(row)
        if task_order(known) < task_order(state):
            self.found.append(f"{name}: {_told(state)} acknowledged, and right after that a {how} says {_told(known)}")

    async def _session(self, state: Record) -> None:
        session_id = str(state["session_id"])
        if session_id in self.account.deleted:
            return
        row = await self._answer(f"/sessions/{session_segment(session_id)}")
        if row is None or session_id in self.account.deleted:
            return
        self.seen["read_back_at_once"] += 1
        if not row:
            self.found.append(f"session {session_id}: acknowledged, and right after that it can't be read")
        elif session_order(read(row)) < session_order(state):
            self.found.append(
                f"session {session_id}: {_told(state)} acknowledged, and right after that a read says {_told(row)}"
            )

    async def _answer(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401  # JSON
        """What is answered; empty if there is no such record; None if there is no answer, or 503."""
        try:
            response = await self.http.get(BASE_PATH + path, params=parameters)
        except httpx.TransportError:
            return None
        match response.status_code:
            case HTTPStatus.OK:
                return response.json()
            case HTTPStatus.NOT_FOUND:
                return {}
            case HTTPStatus.SERVICE_UNAVAILABLE:
                return None
            case _:
                raise WrongAnswer(f"GET {path}: {response.status_code} {response.text[:300]}")


def _told(state: Record) -> str:
    return f"{state['status']} of {state['event_time']}"

"""What the service shows of one torture: sessions, tasks and dead letters, all pages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from time import monotonic
from typing import Any

import httpx

from persistence_service.client.paths import BASE_PATH, task_segment
from persistence_service.torture.account import Kept, Letter
from persistence_service.torture.ledger import Record, WrongAnswer, read, task_as_answered

_AGAIN_S = 0.1
_AT_ONCE = 4
_PAGE_SIZE = 100


class Reader:
    """Reads what is stored, through the API alone; asks again after 503 and broken connections, until `within_s` are over."""

    def __init__(self, http: httpx.AsyncClient, prefix: str, *, within_s: float) -> None:
        self._http = http
        self._prefix = prefix
        self._within_s = within_s

    async def flush(self) -> Any:  # noqa: ANN401  # JSON
        """Have everything written; how much waits."""
        return await self._answer("POST", "/flush")

    async def health(self) -> Any:  # noqa: ANN401  # JSON
        """What the service says of itself, whatever its status."""
        try:
            return (await self._http.get("/health")).json()
        except (httpx.TransportError, ValueError) as exc:
            raise WrongAnswer(f"GET /health: {exc!r}") from exc

    async def kept(self, session_ids: Iterable[str]) -> Kept:
        """All that is kept of these sessions, and of all others of this torture.

        It is read again when dead letters came or went meanwhile: one that becomes a row between the reading of rows and of
        letters would be seen nowhere.
        """
        session_ids = list(session_ids)
        ends_at = monotonic() + self._within_s
        while True:
            if monotonic() > ends_at:
                raise WrongAnswer(f"dead letters still come and go after {self._within_s:.0f} s")
            before = await self._listed()
            kept = await self._kept(session_ids)
            if kept is not None and {letter["letter_id"] for letter in before} == kept[1]:
                return kept[0]

    async def _kept(self, session_ids: Iterable[str]) -> tuple[Kept, set[str]] | None:
        """What is read once, with the ids of the letters; None if one of these went away while it was read."""
        sessions = [read(row) for row in await self._walk("/sessions", filename=self._prefix)]
        names = {*session_ids, *(str(session["session_id"]) for session in sessions)}
        gate = asyncio.Semaphore(_AT_ONCE)

        async def tasks_of(session_id: str) -> list[Any]:
            async with gate:
                return await self._walk("/tasks", session_id=session_id, sort_by="task_id")

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(tasks_of(name)) for name in sorted(names)]
        tasks = [read(row) for task in reading for row in task.result()]
        listed = await self._listed()
        letters = await self._letters(listed)
        if len(letters) < len(listed):
            return None
        return Kept(sessions, tasks, letters), {str(letter["letter_id"]) for letter in listed}

    async def waiting(self, task_ids: Iterable[str]) -> list[Letter]:
        """Those of these tasks that are neither stored nor dead letters, but wait for their session, as letters to be."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(task_id: str) -> Any:  # noqa: ANN401  # JSON
            async with gate:
                return await self._answer("GET", f"/tasks/{task_segment(task_id)}", missing_ok=True)

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(one(task_id)) for task_id in task_ids]
        return [Letter("unknown_session", read(task.result())) for task in asking if task.result() is not None]

    async def letter_ids(self) -> list[str]:
        """The dead letters of this torture."""
        return [str(listed["letter_id"]) for listed in await self._listed()]

    async def discard(self, letter_id: str) -> None:
        """Remove a dead letter for good."""
        await self._answer("DELETE", f"/dead-letters/{letter_id}", missing_ok=True)

    async def _listed(self) -> list[Any]:
        listed = await self._walk("/dead-letters")
        return [letter for letter in listed if str(letter["session_id"]).startswith(self._prefix)]

    async def _letters(self, every: Iterable[Record]) -> list[Letter]:
        """The letters that are listed, without those that are gone by now."""
        letters = []
        for listed in every:
            if listed["collection"] != "translation_tasks":
                raise WrongAnswer(f"a session that is right became a dead letter: {listed['detail']}")
            letter = await self._answer("GET", f"/dead-letters/{listed['letter_id']}", missing_ok=True)
            if letter is not None:
                letters.append(Letter(letter["reason"], task_as_answered(letter["record"])))
        return letters

    async def _walk(self, path: str, **parameters: str) -> list[Record]:
        """Everything that a list shows, by cursor."""
        items: list[Record] = []
        asked = parameters | {"page_size": str(_PAGE_SIZE), "count": "false"}
        while True:
            answer = await self._answer("GET", path, asked)
            items += answer["items"]
            if answer["next_cursor"] is None:
                return items
            asked["cursor"] = answer["next_cursor"]

    async def _answer(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, *, missing_ok: bool = False
    ) -> Any:  # noqa: ANN401  # JSON
        last = "no answer"
        try:
            async with asyncio.timeout(self._within_s):
                while True:
                    try:
                        response = await self._http.request(method, BASE_PATH + path, params=parameters)
                    except httpx.TransportError as exc:
                        last = repr(exc)
                    else:
                        if response.status_code == HTTPStatus.OK:
                            return response.json()
                        if missing_ok and response.status_code == HTTPStatus.NOT_FOUND:
                            return None
                        last = f"{response.status_code} {response.text[:300]}"
                        if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                            raise WrongAnswer(f"{method} {path}: {last}")
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            raise WrongAnswer(f"{method} {path} was not answered within {self._within_s:.0f} s: {last}") from None

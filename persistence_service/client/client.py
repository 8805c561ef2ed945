"""The asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from random import Random
from types import TracebackType
from typing import Literal, Self, TypeVar

import httpx
import msgspec

from persistence_service.client.batches import DURABILITIES, Kind, encoded, indices_from, joined, moved, parts_of
from persistence_service.client.errors import UnexpectedAnswer, error_from
from persistence_service.client.http import ClientStats, Reply, Requests, open_http
from persistence_service.client.paths import BASE_PATH, session_segment, task_segment
from persistence_service.client.retry import Backoff, answered_at
from persistence_service.client.timing import EventClock, SystemTiming, Timing
from persistence_service.errors import SessionNotFound
from persistence_service.models.administration_answers import SessionDeleted
from persistence_service.models.answers import (
    BatchAccepted,
    FlushDone,
    Health,
    IncompleteSessions,
    Page,
    RestoredSession,
    SessionView,
    TaskView,
)
from persistence_service.models.session import SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import TaskRequest
from persistence_service.models.times import to_micros

Ack = Literal["memory", "journal", "storage"]
T = TypeVar("T")
Record = TypeVar("Record", SessionRequest, TaskRequest)

_PAGE_SIZE = "100"
_SECOND_US = 1_000_000


class PersistenceClient:
    """Writes and reads over HTTP; one object serves any number of tasks of one event loop.

    Every call is sent again after a broken connection, a time-out, 408, 429, 502, 503 and 504, with growing pauses that
    honour `Retry-After`, until `give_up_s` have passed (None: for ever). Sending again is always safe; so is cancelling.
    Any other error is raised as it is answered, with the classes of `persistence_service.errors`.

    `transport` replaces the pool of connections, for TLS of one's own and for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        give_up_s: float | None = 60.0,
        max_connections: int = 5,
        max_keepalive: int = 2,
        max_batch_items: int = 1000,
        max_batch_bytes: int = 4 * 1024 * 1024,
        gzip_over_bytes: int | None = 8 * 1024,
        transport: httpx.AsyncBaseTransport | None = None,
        backoff: Backoff | None = None,
        timing: Timing | None = None,
        random: Random | None = None,
    ) -> None:
        self._root = url.rstrip("/")
        self._base = self._root + BASE_PATH
        self._max_items = max_batch_items
        self._max_bytes = max_batch_bytes
        self._gzip_over_bytes = gzip_over_bytes
        timing = timing or SystemTiming()
        self._clock = EventClock(timing.wall_us)
        self._http = open_http(
            api_key=api_key, max_connections=max_connections, max_keepalive=max_keepalive, transport=transport
        )
        self._requests = Requests(
            self._http,
            give_up_s=give_up_s,
            backoff=backoff or Backoff(),
            timing=timing,
            random=random or Random(),  # noqa: S311  # jitter, not a secret
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Calls that are under way break off."""
        await self._http.aclose()

    @property
    def stats(self) -> ClientStats:
        """How many requests were made, and how many attempts more than these it took."""
        return self._requests.stats

    # -------------------------------------------------------------------------------------------------- write

    def event_time(self) -> str:
        """An event time for a state that is recorded now: later than any that this client has given."""
        return self._clock.next()

    async def send_sessions(self, sessions: Sequence[SessionRequest], *, ack: Ack | None = None) -> BatchAccepted:
        """Have sessions kept; as `send_tasks`."""
        return await self._send("sessions", sessions, ack)

    async def send_tasks(self, tasks: Sequence[TaskRequest], *, ack: Ack | None = None) -> BatchAccepted:
        """Have tasks kept, in order, and say how safe they are.

        A task without an event time gets one before the first attempt, and keeps it in every other. More than
        `max_batch_items` or about `max_batch_bytes` go in several requests one after the other, each of which is kept whole
        or not at all; the first that fails ends the call. Indices, in the answer and in errors, are those of `tasks`; the
        answer's durability is the least of all requests.

        Raises:
            ValidationFailed: what is wrong with which task.
            GaveUp: not acknowledged in time; what was sent may have been kept.
        """
        return await self._send("tasks", tasks, ack)

    async def _send(self, kind: Kind, records: Sequence[Record], ack: Ack | None) -> BatchAccepted:
        items = encoded([self._stamped(record) for record in records])
        receipts: list[BatchAccepted] = []
        for part in parts_of(kind, items, max_items=self._max_items, max_bytes=self._max_bytes):
            with indices_from(part.first):
                receipt = await self._call(
                    BatchAccepted,
                    "POST",
                    f"/{kind}/batch",
                    parameters=_given(ack=ack),
                    body=part.body,
                    accepted=(HTTPStatus.OK, HTTPStatus.ACCEPTED),
                )
            if receipt.count != part.count or receipt.durability not in DURABILITIES:
                raise UnexpectedAnswer(HTTPStatus.OK, f"{part.count} records were sent and {receipt} is the answer")
            receipts.append(moved(receipt, part.first))
        return joined(receipts)

    def _stamped(self, record: Record) -> Record:
        if record.event_time is not None:
            return record
        return msgspec.structs.replace(record, event_time=self._clock.next())

    async def flush(self) -> FlushDone:
        """Have everything that was accepted before this call written to the database."""
        return await self._call(FlushDone, "POST", "/flush")

    async def delete_session(self, session_id: str) -> SessionDeleted | None:
        """Delete a session and its tasks, wherever they wait.

        Its records up to the answer's `deleted_up_to` stay deleted; the event times that this client gives from now on are
        later. None: an attempt of unknown outcome has done it, so that the next found no session.

        Raises:
            SessionNotFound: there is none.
        """
        url = f"{self._base}/sessions/{session_segment(session_id)}"
        reply = await self._requests.send("DELETE", url)
        try:
            deleted = _decoded(SessionDeleted, reply, session_id)
        except SessionNotFound:
            if not reply.maybe_done_before:
                raise
            answered = answered_at(reply.response.headers)
            if answered is not None:  # the service's clock, in whole seconds, after the deletion
                self._clock.go_past(to_micros(answered) + _SECOND_US)
            return None
        self._clock.go_past(to_micros(deleted.deleted_up_to))
        return deleted

    # --------------------------------------------------------------------------------------------------- read

    async def session(self, session_id: str) -> SessionView:
        """A session, with everything that was accepted.

        Raises:
            SessionNotFound: there is none.
        """
        path = f"/sessions/{session_segment(session_id)}"
        return await self._call(SessionView, "GET", path, record_id=session_id)

    async def task(self, task_id: str) -> TaskView:
        """A task, with everything that was accepted.

        Raises:
            TaskNotFound: there is none.
        """
        path = f"/tasks/{task_segment(task_id)}"
        return await self._call(TaskView, "GET", path, record_id=task_id)

    async def tasks_of(
        self, session_id: str, *, status: Status | None = None, sheet_name: str | None = None, fresh: bool = False
    ) -> AsyncIterator[TaskView]:
        """The stored tasks of a session by sheet, row and column; with `fresh` all that was accepted before.

        Raises:
            SessionNotFound: there is none.
        """
        path = f"/sessions/{session_segment(session_id)}/tasks"
        parameters = _given(page_size=_PAGE_SIZE, count=False, status=status, sheet_name=sheet_name)
        wanted = parameters | _given(fresh=fresh)
        while True:
            page = await self._call(Page[TaskView], "GET", path, parameters=wanted, record_id=session_id)
            for task in page.items:
                yield task
            if page.next_cursor is None:
                return
            wanted = parameters | _given(cursor=page.next_cursor)

    async def incomplete_sessions(
        self, *, limit: int = 100, cursor: str | None = None, idle_s: float | None = None
    ) -> IncompleteSessions:
        """Unfinished sessions, latest activity first; `idle_s` keeps those without activity for so long.

        `cursor` continues behind an answer's `next_cursor`.
        """
        parameters = _given(limit=limit, cursor=cursor, idle_seconds=idle_s)
        return await self._call(IncompleteSessions, "GET", "/recovery/incomplete-sessions", parameters=parameters)

    async def restore(
        self, session_id: str, *, include_failed: bool = False, limit: int = 10_000, cursor: str | None = None
    ) -> RestoredSession:
        """A session and its unfinished tasks, by sheet, row and column.

        `cursor` continues behind an answer's `next_cursor`.

        Raises:
            SessionNotFound: there is none.
        """
        path = f"/recovery/restore/{session_segment(session_id)}"
        parameters = _given(include_failed=include_failed, limit=limit, cursor=cursor)
        return await self._call(RestoredSession, "POST", path, parameters=parameters, record_id=session_id)

    async def health(self) -> Health:
        """How the service is at this moment: asked once, also when it is unhealthy.

        Raises:
            ServiceUnreachable: it does not answer.
        """
        response = await self._requests.once("GET", self._root + "/health")
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE):
            raise error_from(response)
        try:
            return msgspec.json.decode(response.content, type=Health)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise error_from(response) from None

    # ---------------------------------------------------------------------------------------------------------

    async def _call(
        self,
        answer: type[T],
        method: str,
        path: str,
        *,
        parameters: dict[str, str] | None = None,
        body: bytes | None = None,
        record_id: str = "",
        accepted: Sequence[int] = (HTTPStatus.OK,),
    ) -> T:
        compress = body is not None and self._gzip_over_bytes is not None and len(body) > self._gzip_over_bytes
        reply = await self._requests.send(
            method, self._base + path, parameters=parameters, body=body, compress=compress
        )
        return _decoded(answer, reply, record_id, accepted)


def _decoded(answer: type[T], reply: Reply, record_id: str, accepted: Sequence[int] = (HTTPStatus.OK,)) -> T:
    if reply.response.status_code not in accepted:
        raise error_from(reply.response, record_id=record_id)
    try:
        return msgspec.json.decode(reply.response.content, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise error_from(reply.response) from None


def _given(**parameters: str | float | bool | None) -> dict[str, str]:
    """The parameters that have a value, as they are written in a query."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in parameters.items()
        if value is not None
    }

"""A running service as the target of a copy: batches over HTTP, which it journals, stores and merges as any others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from persistence_service.client import BatchAccepted, PersistenceClient, SessionRequest, TaskRequest
from persistence_service.errors import PayloadTooLarge, ValidationFailed
from persistence_service.models.session import Session
from persistence_service.models.task import Task
from persistence_service.models.times import format_time
from persistence_service.services.journal_copy import CopyReport
from persistence_service.storage.collections import SESSIONS, Collection

R = TypeVar("R", SessionRequest, TaskRequest)

_OBJECTS = ("game_info", "metadata")
_object = msgspec.json.Decoder(dict[str, Any])


class ServiceTarget:
    """Sends to a service, with the event times that the records have: it stamps none of them anew."""

    def __init__(self, client: PersistenceClient) -> None:
        self._client = client

    async def write(self, collection: Collection[Any], records: Sequence[Any], report: CopyReport) -> None:
        """Have the service acknowledge the records; those that it refuses are named."""
        if collection.name != SESSIONS.name:
            await self._send(self._client.send_tasks, [_task_request(record) for record in records], report)
            return
        earlier = [request for record in records for request in _earlier_objects(record)]
        # What is refused here is so below too, for the same reason.
        await self._send(self._client.send_sessions, earlier, CopyReport())
        await self._send(self._client.send_sessions, [_session_request(record) for record in records], report)

    async def _send(
        self, send: Callable[[Sequence[R]], Awaitable[BatchAccepted]], requests: Sequence[R], report: CopyReport
    ) -> None:
        if not requests:
            return
        try:
            report.stored += (await send(requests)).count
        except ValidationFailed as exc:
            bad = {problem.index: problem for problem in exc.problems if problem.index is not None}
            if not bad:
                raise
            for index, problem in bad.items():
                report.note_refusal(f"{_name(requests[index])}: {problem.field} {problem.reason}")
            await self._send(send, [request for index, request in enumerate(requests) if index not in bad], report)
        except PayloadTooLarge as exc:
            if len(requests) == 1:
                report.note_refusal(f"{_name(requests[0])}: {exc}")
                return
            middle = len(requests) // 2
            await self._send(send, requests[:middle], report)
            await self._send(send, requests[middle:], report)


def _name(request: SessionRequest | TaskRequest) -> str:
    return f"task {request.task_id}" if isinstance(request, TaskRequest) else f"session {request.session_id}"


def _task_request(task: Task) -> TaskRequest:
    fields = {name: getattr(task, name) for name in TaskRequest.__struct_fields__}
    return TaskRequest(**fields | {name: _text(fields[name]) for name in ("start_time", "end_time", "event_time")})


def _session_request(session: Session) -> SessionRequest:
    """The session, with those of its objects that are as new as itself."""
    fields = {name: getattr(session, name) for name in SessionRequest.__struct_fields__}
    objects = {name: _object_of(session, name, session.event_time) for name in _OBJECTS}
    return SessionRequest(**fields | objects | {"event_time": _text(session.event_time)})


def _object_of(session: Session, name: str, moment: datetime) -> dict[str, Any] | None:
    """The object, if it is of this time."""
    text = getattr(session, name)
    return _object.decode(text) if text is not None and getattr(session, f"{name}_time") == moment else None


def _earlier_objects(session: Session) -> Iterator[SessionRequest]:
    """The session as of the time of each object that won before the rest of it did: nothing else of these wins."""
    whole = _session_request(session)
    moments = {getattr(session, f"{name}_time") for name in _OBJECTS} - {None, session.event_time}
    for moment in moments:
        objects = {name: _object_of(session, name, moment) for name in _OBJECTS}
        yield replace(whole, event_time=_text(moment), **objects)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)

"""A corrected record for a dead letter: checked like an item of a batch, with the stamps of the record that it replaces."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from persistence_service.errors import FieldProblem, ValidationFailed
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.limits import Limits
from persistence_service.models.requests import malformed, problem_from
from persistence_service.models.session import Session, SessionRequest
from persistence_service.models.task import Task, TaskRequest
from persistence_service.models.times import format_time, to_micros

_any_json = msgspec.json.Decoder(msgspec.Raw)
_sessions = msgspec.json.Decoder(SessionRequest)
_tasks = msgspec.json.Decoder(TaskRequest)


def accept_correction(body: bytes, original: Session | Task, limits: Limits, now_us: int) -> Session | Task:
    """The record of `body`, a session or a task as in a batch, whichever `original` is.

    Without an `event_time` it keeps the original's; when it was accepted is the original's in any case.

    Raises:
        MalformedBody: not JSON in UTF-8.
        ValidationFailed: names what is wrong with it.
    """
    acceptance = Acceptance(stamp_us=to_micros(original.event_time), now_us=now_us)
    accepted: list[Session] | list[Task]
    try:
        body.decode()
        _any_json.decode(body)  # what is no JSON at all is that first, whatever else is wrong with its beginning
        if isinstance(original, Session):
            accepted = accept_sessions([_sessions.decode(body)], acceptance, limits)
        else:
            accepted = accept_tasks([_tasks.decode(body)], acceptance, limits)
    except msgspec.ValidationError as exc:
        raise ValidationFailed([problem_from(None, exc)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise malformed(exc) from None
    except ValidationFailed as exc:  # there is no array, so no place in one
        raise ValidationFailed([FieldProblem(None, p.field, p.reason) for p in exc.problems]) from None
    return replace(accepted[0], created_at=original.created_at, updated_at=original.updated_at)


def request_of(record: Session | Task) -> SessionRequest | TaskRequest:
    """`record` as it could be sent in a batch, `event_time` included: what a person mends and sends back."""
    if isinstance(record, Session):
        return SessionRequest(
            session_id=record.session_id,
            filename=record.filename,
            file_path=record.file_path,
            status=record.status,
            llm_provider=record.llm_provider,
            processing_tasks=record.processing_tasks,
            total_tasks=record.total_tasks,
            completed_tasks=record.completed_tasks,
            failed_tasks=record.failed_tasks,
            game_info=None if record.game_info is None else msgspec.json.decode(record.game_info),
            metadata=None if record.metadata is None else msgspec.json.decode(record.metadata),
            event_time=format_time(record.event_time),
        )
    times = ("start_time", "end_time", "event_time")
    fields = {name: getattr(record, name) for name in TaskRequest.__struct_fields__ if name not in times}
    return TaskRequest(
        **fields,
        start_time=None if record.start_time is None else format_time(record.start_time),
        end_time=None if record.end_time is None else format_time(record.end_time),
        event_time=format_time(record.event_time),
    )

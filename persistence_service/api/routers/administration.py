"""What operators do: delete, clean up, and see to dead letters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from persistence_service.api.body import read_optional_json_body
from persistence_service.api.dependencies import (
    CleanupParameters,
    LetterIdInPath,
    LetterList,
    NoParameters,
    ReplayParameters,
    ServicesDep,
    SessionIdInPath,
    no_body,
    well_formed,
)
from persistence_service.api.openapi import BODY, documented
from persistence_service.api.responses import json_response
from persistence_service.api.routers import BASE_PATH
from persistence_service.errors import (
    DeadLetterDamaged,
    DeadLetterNotFound,
    QueryTimeout,
    Replaying,
    SessionNotFound,
    StorageUnavailable,
    ValidationFailed,
)
from persistence_service.models.administration_answers import (
    CleanupDone,
    DamagedLetter,
    DeadLetterList,
    DeadLetterWithRecord,
    LetterDiscarded,
    LetterReplayed,
    LettersReplayed,
    RecordAsSent,
    SessionDeleted,
    letter_view,
    letter_with_record,
)

router = APIRouter(prefix=BASE_PATH, tags=["administration"], dependencies=[Depends(well_formed)])
_STORAGE = (ValidationFailed, StorageUnavailable, QueryTimeout)


@router.delete("/sessions/{session_id}", dependencies=[Depends(no_body)])
@documented(SessionDeleted, errors=(SessionNotFound, *_STORAGE, Replaying))
async def delete_session(
    services: ServicesDep, session_id: SessionIdInPath, _: Annotated[NoParameters, Query()]
) -> Response:
    """Delete a session with its tasks, buffered ones too.

    Its records with an event time up to `deleted_up_to` stay deleted, whenever they arrive; begin anew with later event times.
    After a 503 or a broken connection the outcome is open; ask again. What was begun is completed.
    """
    deleted_up_to = await services.deletion.delete(session_id)
    return json_response(SessionDeleted("deleted", session_id, deleted_up_to))


@router.post("/sessions/cleanup", dependencies=[Depends(no_body)])
@documented(CleanupDone, errors=(*_STORAGE, Replaying))
async def clean_up_sessions(services: ServicesDep, wanted: Annotated[CleanupParameters, Query()]) -> Response:
    """Delete the completed, failed and cancelled sessions that are so many days old.

    Sessions with buffered records are left alone. Writes go on meanwhile. Interrupted, it has deleted some; call it again.
    """
    cleaned = await services.cleanup.cleanup(
        completed_days=wanted.completed_days,
        failed_days=wanted.failed_days,
        cancelled_days=wanted.cancelled_days,
        age_of=wanted.age_of,
        dry_run=wanted.dry_run,
    )
    return json_response(CleanupDone(cleaned.deleted_sessions, cleaned.deleted_tasks, wanted.dry_run))


@router.get("/dead-letters")
@documented(DeadLetterList, errors=_STORAGE)
async def list_dead_letters(services: ServicesDep, listing: Annotated[LetterList, Query()]) -> Response:
    """List the records that could not be stored, those refused last first."""
    page = await services.dead_letters.page(
        listing.which(),
        limit=listing.page_size,
        cursor=listing.cursor,
        descending=listing.order == "desc",
        count=listing.count,
    )
    return json_response(
        DeadLetterList(
            total=page.total,
            total_exact=page.total_exact,
            page_size=listing.page_size,
            items=[letter_view(letter) for letter in page.items],
            next_cursor=page.next_cursor,
            damaged=[DamagedLetter(each.letter_id, each.detail) for each in page.damaged],
        )
    )


@router.get("/dead-letters/{letter_id}")
@documented(DeadLetterWithRecord, errors=(DeadLetterNotFound, DeadLetterDamaged, *_STORAGE))
async def get_dead_letter(
    services: ServicesDep, letter_id: LetterIdInPath, _: Annotated[NoParameters, Query()]
) -> Response:
    """Get one dead letter with its record, which can be mended and sent back to replay it."""
    return json_response(letter_with_record(*await services.dead_letters.letter(letter_id)))


@router.post("/dead-letters/replay", dependencies=[Depends(no_body)])
@documented(LettersReplayed, errors=_STORAGE)
async def replay_dead_letters(services: ServicesDep, wanted: Annotated[ReplayParameters, Query()]) -> Response:
    """Replay every dead letter that matches, oldest first.

    Interrupted, it has replayed some; call it again.
    """
    counts = await services.dead_letters.replay_all(wanted.which(), dry_run=wanted.dry_run)
    return json_response(
        LettersReplayed(counts.matched, counts.replayed, counts.dropped, counts.still_refused, wanted.dry_run)
    )


@router.post("/dead-letters/{letter_id}/replay")
@documented(
    LetterReplayed,
    body=RecordAsSent,
    body_required=False,
    errors=(DeadLetterNotFound, DeadLetterDamaged, *BODY, *_STORAGE),
)
async def replay_dead_letter(
    request: Request, services: ServicesDep, letter_id: LetterIdInPath, _: Annotated[NoParameters, Query()]
) -> Response:
    """Write the record of a dead letter, or the corrected one in the body; stored, the letter is gone.

    The record keeps its event time, unless the body names another. A record of what was deleted since is `dropped`. Refused
    again, the letter stays: `still_refused`.
    """
    corrected = await read_optional_json_body(request, services.limits.max_body_bytes)
    outcome = await services.dead_letters.replay(letter_id, corrected)
    reason = None if outcome.reason is None else outcome.reason.value
    return json_response(LetterReplayed(outcome.status.value, letter_id, reason, outcome.detail))


@router.delete("/dead-letters/{letter_id}", dependencies=[Depends(no_body)])
@documented(LetterDiscarded, errors=(DeadLetterNotFound, *_STORAGE))
async def discard_dead_letter(
    services: ServicesDep, letter_id: LetterIdInPath, _: Annotated[NoParameters, Query()]
) -> Response:
    """Remove a dead letter and its record for good."""
    await services.dead_letters.discard(letter_id)
    return json_response(LetterDiscarded("discarded", letter_id))

"""A session: one workbook being translated by one provider, as a worker sends it and as it is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from persistence_service.models.limits import MAX_PATH, MAX_PROVIDER
from persistence_service.models.status import Status
from persistence_service.models.task import Count, Name, SessionId, TimeText

JsonObject = Annotated[dict[str, Any], Meta(description="at most 256 KiB and 30 levels; int64 or finite doubles")]


class SessionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """One session of a request; the first fields are those of `Session`, in its order."""

    session_id: SessionId
    filename: Name
    file_path: Annotated[str, Meta(max_length=MAX_PATH)]
    status: Status
    llm_provider: Annotated[str, Meta(max_length=MAX_PROVIDER)]
    processing_tasks: Count = 0
    total_tasks: Count = 0
    completed_tasks: Count = 0
    failed_tasks: Count = 0
    game_info: JsonObject | None = None
    metadata: JsonObject | None = None
    event_time: TimeText | None = None


class Session(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One session as it is kept.

    `game_info` and `metadata` are JSON texts, each with the event time and the digest that it won with (None as long as
    there is no value); `digest` and `event_time` are those of the record that won the names, provider and status.
    """

    session_id: str
    filename: str
    file_path: str
    status: Status
    llm_provider: str
    processing_tasks: int
    total_tasks: int
    completed_tasks: int
    failed_tasks: int
    game_info: str | None
    metadata: str | None
    event_time: datetime
    digest: bytes
    game_info_time: datetime | None
    game_info_digest: bytes | None
    metadata_time: datetime | None
    metadata_digest: bytes | None
    created_at: datetime
    updated_at: datetime

"""The body of the answer to `GET /stats`."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from persistence_service.models.answers import BufferView, Number, Time

_UNKNOWN = "null until the database was counted for the first time"


class CountsByStatus(Struct, frozen=True):
    """How many there are of each status."""

    pending: Number
    processing: Number
    completed: Number
    failed: Number
    cancelled: Number


class SessionFigures(Struct, frozen=True):
    """Stored sessions."""

    total: Number
    by_status: CountsByStatus


class TaskFigures(Struct, frozen=True):
    """Stored tasks; the averages are of the `…_count` tasks that have such a value, null when none has."""

    total: Number
    by_status: CountsByStatus
    average_duration_ms: float | None
    duration_count: Number
    average_confidence: float | None
    confidence_count: Number


class CollectionFigures(Struct, frozen=True):
    """What the backend knows of a collection without counting; may be an estimate."""

    rows: int | None
    bytes: int | None


class SizeFigures(Struct, frozen=True):
    """What the backend takes on disk. `log_bytes` and `free_bytes` (used again later) are parts of `total_bytes`."""

    total_bytes: Number
    log_bytes: int | None
    free_bytes: int | None
    collections: dict[str, CollectionFigures]


class StorageFigures(Struct, frozen=True):
    """The backend, its database and version; `sizes` is null where the backend can't tell."""

    backend: str
    engine: Annotated[str | None, Meta(description=_UNKNOWN)]
    version: Annotated[str | None, Meta(description=_UNKNOWN)]
    sizes: SizeFigures | None


class BufferFigures(BufferView, frozen=True):
    """What was accepted and is not in the database yet, at this moment, and how long the journal has room for it."""

    spilled_bytes: Number
    journal_bytes: Number
    journal_full_in_s: Annotated[
        float | None,
        Meta(
            description="seconds until the journal is full, if it fills as it did lately; null while it does not fill"
        ),
    ]


class ProcessInfo(Struct, frozen=True):
    """This process; memory and threads are null where the system does not tell.

    Of several workers it is what all of them take, but for `pid`, which is the first one's, and `uptime_s`, the longest.
    """

    pid: int
    uptime_s: float
    cpu_s: float
    resident_bytes: int | None
    peak_resident_bytes: int | None
    threads: int | None
    workers: Annotated[Number, Meta(description="only where there are several")] | UnsetType = UNSET
    missing_workers: (
        Annotated[list[int], Meta(description="those that can't be asked, whose figures are left out")] | UnsetType
    ) = UNSET


class Statistics(Struct, frozen=True):
    """Sessions, tasks and storage as they were counted at `as_of`, in the background; buffer and process as they are now."""

    sessions: Annotated[SessionFigures | None, Meta(description=_UNKNOWN)]
    tasks: Annotated[TaskFigures | None, Meta(description=_UNKNOWN)]
    storage: StorageFigures
    buffer: BufferFigures
    process: ProcessInfo
    as_of: Annotated[Time | None, Meta(description=f"when the count that is shown was begun; {_UNKNOWN}")]

"""What one of several workers may take of what the settings grant the service."""

from __future__ import annotations

from typing import Any

from persistence_service.buffer.policy import ASIDE
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.settings import Settings


def share_of(settings: Settings, worker: WorkerIdentity | None) -> Settings:
    """The settings of `worker`: its part of the bounds on memory and dead letters.

    Divided is what the workers together must not exceed and any of them can do with less of: what has no room in memory waits
    in the journal. `journal.max_bytes` is shared, not divided; the room for orphans is neither, see `aside_of`.
    """
    if worker is None:
        return settings
    buffer, limits = settings.buffer, settings.limits

    def part(granted: int, *, least: int = 1) -> int:
        return max(granted // worker.workers, least)

    changes: dict[str, Any] = {
        "max_memory_records": part(buffer.max_memory_records, least=buffer.max_buffer_size),
        # A session that was sent to another worker may wait there for a flush interval.
        "orphan_grace": max(buffer.orphan_grace, 2 * buffer.flush_interval),
        "max_memory_bytes": part(buffer.max_memory_bytes),
        "max_dead_letter_rate": part(buffer.max_dead_letter_rate, least=min(1, buffer.max_dead_letter_rate)),
    }
    return settings.model_copy(
        update={
            "buffer": buffer.model_copy(update=changes),
            "limits": limits.model_copy(update={"max_inflight_bytes": part(limits.max_inflight_bytes)}),
        }
    )


def aside_of(worker: WorkerIdentity | None) -> float:
    """How many orphans `worker` may hold, beside what it writes, as a share of that.

    All of the service's may be with one of them, since that is where their connection led: so each may hold what the service
    may, up to as many as it holds of all others. Together, however many they are, that is twice the bounds at most.
    """
    return min(1.0, ASIDE * (1 if worker is None else worker.workers))

"""What an operator may set of the buffer: bounds, times, and promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from persistence_service.settings import Durability

ASIDE: Final = 0.25


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """The most that waits in memory to be written; `pressure` is the share of it from which a flush starts early.

    What is over it waits in the journal alone. Orphans, and what the database refuses, may take the share `aside` beside that.
    """

    records: int = 50_000
    size_bytes: int = 64 * 1024 * 1024
    pressure: float = 0.8
    aside: float = ASIDE


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """When a flush starts, and how large its transactions are at most: a chunk is what waits, up to these bounds.

    A transaction costs several turns of the event loop, however many rows it has; when the loop is busy they take longer than
    the database does. So what has piled up meanwhile is written at once.
    """

    max_buffer_size: int
    flush_interval_s: float
    chunk_rows: int
    chunk_bytes: int = 4 * 1024 * 1024
    orphan_grace_s: float = 300.0


@dataclass(frozen=True, slots=True)
class AckPolicy:
    """The durability of an acknowledgement: by default, at the least, and how long storage may take."""

    default: Durability
    least: Durability
    timeout_s: float

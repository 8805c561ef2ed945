"""What travels between the event loop and the writer's thread."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persistence_service.journal.format import RECORD_OVERHEAD
from persistence_service.journal.segment import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from persistence_service.errors import Unavailable
    from persistence_service.journal.segment import Loss, Segment


class Acknowledgement(asyncio.Future[Position]):
    """The outcome of an append; it cannot be cancelled, because the write cannot.

    So a done callback always learns whether the record is in the journal, even when the request that waited for it is gone.
    Await it through `asyncio.shield` to be able to stop waiting early.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  (asyncio's signature)
        return False


@dataclass(slots=True)
class AppendRequest:
    """A record on its way to the disk."""

    kind: int
    payload: bytes
    items: int
    accepted_at_us: int
    high_water_us: int
    durable: bool
    future: Acknowledgement

    @property
    def size(self) -> int:
        return RECORD_OVERHEAD + len(self.payload)


@dataclass(frozen=True, slots=True)
class Rotate:
    """Seal the current segment if it has records, so that it can be removed once they are stored."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Nothing in this sealed segment is needed any more."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Barrier:
    """Everything handed over before is written and fsynced, or has failed; then the future is done."""

    future: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread; with `leave_empty` nothing in the journal is needed any more."""

    leave_empty: bool
    future: asyncio.Future[None]


Command = AppendRequest | Rotate | Remove | Barrier | Stop


@dataclass(slots=True)
class Delivery:
    """News from the writer, in the order in which it happened; `used_bytes` is true as of then."""

    used_bytes: int
    segments: int
    written: Sequence[tuple[AppendRequest, Position]] = ()
    refused: Sequence[AppendRequest] = ()
    error: Unavailable | None = None
    sealed: Segment | None = None
    losses: Sequence[Loss] = ()
    done: asyncio.Future[None] | None = None

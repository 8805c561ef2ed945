"""How much a journal may still grow: `journal.max_bytes` is for all journals of a service together."""

from __future__ import annotations

from typing import Final, Protocol

from persistence_service.journal.format import BODY_OFFSET

_SEGMENT_RESERVE: Final = 2 * BODY_OFFSET


class Budget(Protocol):
    """The service's other journals, which share `max_bytes` with this one."""

    @property
    def idle_bytes(self) -> int:
        """A segment of so many bytes of which nothing is needed is closed at once, so that its room serves the others."""
        ...

    def others(self) -> int:
        """What they take now."""
        ...

    def publish(self, used_bytes: int) -> None:
        """Let them know what this one takes, with what is on its way to the disk."""
        ...


class JournalRoom:
    """What of `max_bytes` is taken, by this journal and by those it shares them with; alone without a `budget`."""

    def __init__(self, max_bytes: int, budget: Budget | None, used_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = used_bytes
        self.pending_bytes = 0
        self.refused_size = 1  # of the record that had no room last
        self._budget = budget
        self._publish()

    @property
    def service_bytes(self) -> int:
        """What all of them take on disk."""
        return self.used_bytes + self._others()

    def fits(self, size: int) -> bool:
        """Whether a record of `size` bytes has room."""
        return self._excess(size) <= 0

    def own_excess(self, size: int) -> int:
        """How many bytes this journal must give back until `size` more fit, if all give back in proportion."""
        excess, others = self._excess(size), self._others()
        own = self.used_bytes + self.pending_bytes
        return excess if excess <= 0 or not others else -(-excess * own // (own + others))

    def is_worth_closing(self, size: int) -> bool:
        """Whether others need the room of a segment of `size` bytes that nobody needs."""
        return self._budget is not None and size >= self._budget.idle_bytes

    def begin(self, size: int) -> None:
        """So many bytes are on their way to the disk."""
        self.pending_bytes += size
        self._publish()

    def end(self, size: int) -> None:
        """They arrived, or were refused."""
        self.pending_bytes -= size

    def use(self, used_bytes: int) -> None:
        """What the segments take on disk now."""
        self.used_bytes = used_bytes
        self._publish()

    def _excess(self, size: int) -> int:
        return self.service_bytes + self.pending_bytes + size + _SEGMENT_RESERVE - self.max_bytes

    def _others(self) -> int:
        return self._budget.others() if self._budget is not None else 0

    def _publish(self) -> None:
        if self._budget is not None:
            self._budget.publish(self.used_bytes + self.pending_bytes)

"""Who a worker is among those of its service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Worker `slot` (from 0) of `workers` on this machine; their control sockets are in `control_directory`."""

    slot: int
    workers: int
    control_directory: Path

    @property
    def number(self) -> int:
        """As people count: from 1."""
        return self.slot + 1

    def journal_directory(self, root: Path) -> Path:
        """Where this worker's journal is; the first one's is where a single worker's would be."""
        return slot_directory(root, self.slot)

    def socket_of(self, slot: int) -> Path:
        """The control socket of a worker."""
        return self.control_directory / f"{slot}.sock"


def slot_directory(root: Path, slot: int) -> Path:
    """The journal of a slot, below that of the first."""
    return root if slot == 0 else root / f"worker-{slot + 1}"

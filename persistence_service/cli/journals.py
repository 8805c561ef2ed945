"""The journals that a command looks into."""

from __future__ import annotations

from pathlib import Path

from persistence_service.errors import JournalError
from persistence_service.fleet.inheritance import journals_below


def journals_of(root: Path) -> list[Path]:
    """The first worker's journal, and those of the others.

    Raises:
        JournalError: `root` can't be read.
    """
    try:
        return [root, *journals_below(root).values()]
    except OSError as exc:
        raise unreadable(root, exc) from exc


def unreadable(directory: Path, cause: OSError) -> JournalError:
    """The error for a journal that the operating system does not let us read."""
    return JournalError(f"the journal {directory} can't be read: {cause.strerror}")

"""The write-ahead log: what an acknowledged batch survives a crash in. Format: `docs/journal-format.md`."""

from persistence_service.journal.journal import Journal
from persistence_service.journal.segment import JournalStats, Loss, Position, Replayed, Segment

__all__ = ["Journal", "JournalStats", "Loss", "Position", "Replayed", "Segment"]

"""What a deletion does to a record, by the record's time: known, or known by its order alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from math import inf
from typing import Any

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


class Fate(Enum):
    """What has to be true of a record after the deletion of its session."""

    STAYS = "stays"
    GONE = "gone"
    EITHER = "either"


@dataclass(frozen=True, order=True, slots=True)
class ServiceTime:
    """Stands for the event time that the service gave to a record without one: not known, but that it increases."""

    place: int

    def __str__(self) -> str:
        return f"the service's time ({self.place})"


@dataclass(frozen=True, slots=True)
class Deletion:
    """All deletions of a session: what is not newer than `earliest` is gone, what is newer than `latest` stays.

    For records without time: the first `gone` that were sent are gone, those after the first `maybe_gone` stay.
    """

    earliest: datetime
    latest: datetime
    gone: int
    maybe_gone: float
    _asked_after: int
    _before: Deletion | None

    @classmethod
    def asked_for(cls, sent: int, before: Deletion | None) -> Deletion:
        """A deletion is asked for after so many records were sent, perhaps not the first: anything may be gone."""
        earliest, gone = (before.earliest, before.gone) if before else (_FIRST, 0)
        return cls(earliest, _LAST, gone, inf, sent, before)

    @classmethod
    def exactly(cls, up_to: datetime) -> Deletion:
        """A deletion up to a known time."""
        return cls(up_to, up_to, 0, 0, 0, None)

    def done(self, earliest: datetime, latest: datetime, sent: int) -> Deletion:
        """It was answered, after so many records were sent, to have reached up to a time between these.

        A deletion reaches no less far than the one before.
        """
        latest = max(latest, self._before.latest) if self._before else latest
        return replace(
            self, earliest=max(earliest, self.earliest), latest=latest, gone=self._asked_after, maybe_gone=sent
        )

    def not_done(self) -> Deletion:
        """It was answered that there is nothing to delete."""
        return self._before or Deletion(_FIRST, _FIRST, 0, 0, 0, None)

    def fate(self, time: object) -> Fate:
        """What becomes of a record of that time."""
        if isinstance(time, ServiceTime):
            return _fate(time.place, self.gone, self.maybe_gone)
        if isinstance(time, datetime):
            return _fate(time, self.earliest, self.latest)
        raise TypeError(f"{time!r} is no time of a record")


def _fate(time: Any, gone_up_to: Any, maybe_up_to: Any) -> Fate:  # noqa: ANN401  # of one kind that compares
    if time <= gone_up_to:
        return Fate.GONE
    return Fate.STAYS if time > maybe_up_to else Fate.EITHER

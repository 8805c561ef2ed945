"""Optional powers of a backend: interfaces beside `StorageBackend` that a backend may implement too.

Who uses one asks with `isinstance`, and does without where it is missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """How much there is of a collection; None where the backend can't tell without reading it all. May be an estimate."""

    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a backend takes on its disk, or the part of it that is its own.

    `log_bytes` are in `total_bytes`: what is written ahead and not in its place yet. `free_bytes` are room within
    `total_bytes` that is used again. `collections` has those that something is known of, by name.
    """

    total_bytes: int
    log_bytes: int | None = None
    free_bytes: int | None = None
    collections: Mapping[str, CollectionSize] = field(default_factory=dict)


class SizeReporter(ABC):
    """A backend that knows how large it is."""

    @abstractmethod
    async def sizes(self) -> Sizes:
        """The sizes now, or as the database last counted them. Never reads the records, so it costs the same at any size.

        Raises:
            BackendClosed: before `open`, and after `close`.
            StorageUnavailable: the backend is away.
        """


class AvailabilityNotifier(ABC):
    """A backend that notices by itself when it works again, before anybody uses it."""

    @abstractmethod
    def on_available(self, notify: Callable[[], None]) -> None:
        """Call `notify`, from the event loop, whenever the backend can be used again after it could not."""


class MigrationPlanner(ABC):
    """A backend that can say what `migrate` would do."""

    plans_before_open: bool = False
    """Whether `schema_version` and `pending_sql` answer before `open` too: for a backend whose `open` makes what is missing."""

    @abstractmethod
    async def schema_version(self) -> str:
        """The version of the schema that the database has; empty if it has none.

        Raises:
            BackendClosed: before `open` unless `plans_before_open`, and after `close`.
            StorageUnavailable: the backend is away.
        """

    @abstractmethod
    async def schema_problem(self) -> str:
        """Why the schema is not the one that this code uses, and what to do; empty if it is. Costs next to nothing.

        Raises:
            BackendClosed: before `open`, and after `close`.
            SchemaTooNew: a later version of the code was here.
            StorageUnavailable: the backend is away.
        """

    @abstractmethod
    async def pending_sql(self) -> str:
        """The statements that `migrate` would run now, to read or to run by hand; empty if there are none. Changes nothing.

        Raises:
            BackendClosed: before `open` unless `plans_before_open`, and after `close`.
            SchemaTooNew: a later version of the code was here.
            StorageUnavailable: the backend is away.
        """


class Level(StrEnum):
    """How a finding bears on the service."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something should be looked at."""
    PROBLEM = "problem"
    """It does not work, or records may be lost that were told to be safe."""
    NOT_CHECKED = "not_checked"
    """What had to work first did not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and in one sentence what to do about it; nothing is to be done where it is ok."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


class Diagnosable(ABC):
    """A backend that can look at its own set-up."""

    @abstractmethod
    async def diagnose(self) -> Sequence[Finding]:
        """Look at everything that the service needs of the database; changes nothing.

        May be called before `open`, and looks as far as it gets when little works. Never raises but for cancellation.
        """

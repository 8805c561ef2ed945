"""What a fault is, and the service as those see it who do something to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from persistence_service.errors import PersistenceError


class Fault(Protocol):
    """Something bad that happens again and again, never twice at once, but along with faults of other kinds."""

    @property
    def name(self) -> str:
        """Who suffers, and what: `service: SIGKILL`. Strikes are counted by it, and `--faults` chooses by it."""
        ...

    async def strike(self, random: Random) -> None:
        """Begin, last as long as `random` says (seconds, never a minute), and have healed on return, however it returns.

        Healed means that the service can store again by itself: it runs, the database answers, the disk takes bytes. It
        need not be ready yet. What is left to chance comes from `random` alone.

        Raises:
            CouldNotRun: the fault can't be made here; everything ends with that message.
        """
        ...


class Subject(Protocol):
    """The service process under torture: one at a time, each on the data of the one before.

    `under_faults` makes a variant of it: the same, with another `program` and what that is told over a channel of its own.
    """

    folder: Path
    """Journal, embedded database and all else of it."""

    @property
    def settings(self) -> Mapping[str, object]:
        """By dotted keys, as `--set` takes them; `workers` and the database are read from here."""
        ...

    @property
    def program(self) -> Sequence[str]:
        """What Python is started with, before the options."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether there is a process, stopped or not; it may not listen yet."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it was ready for batches, and nothing was done since that ends it."""
        ...

    @property
    def pid(self) -> int:
        """The process that runs (with several workers, their parent)."""
        ...

    @property
    def url(self) -> str:
        """Where it listens: the same at every start, so that clients find it again by themselves."""
        ...

    async def start(self, *, ready: bool = True) -> None:
        """Start it; returns when it is ready for batches, or without `ready` as soon as there is a process.

        Raises:
            ServiceEnded: it ended by itself before that.
        """
        ...

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        ...

    async def terminate(self) -> int:
        """SIGTERM, and the exit code of an orderly stop; may be cancelled and followed by `kill`."""
        ...

    def signal(self, number: int) -> None:
        """Send it any other signal: SIGSTOP, SIGCONT, SIGHUP."""
        ...

    async def until_ready(self) -> None:
        """Wait until it is ready for batches.

        Raises:
            ServiceEnded: it ended by itself, which no fault makes it do.
        """
        ...


class CouldNotRun(PersistenceError):  # noqa: N818  # errors are named for what happened
    """The torture itself can't be done here: no server, no right, no room. Not a finding."""

    code = "COULD_NOT_RUN"


class ServiceEnded(PersistenceError):  # noqa: N818  # errors are named for what happened
    """The service ended, or did not start, though nothing was done to it: a finding. The text has the end of its log."""

    code = "SERVICE_ENDED"

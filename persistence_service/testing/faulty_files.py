"""A disk that fails on command: the real file system behind `journal.files.Files`, with faults, short writes and gates."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from persistence_service.journal.files import Files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LONGEST_HOLD_S = 120.0


SHORT_WRITES: Final = "short writes"


@dataclass(slots=True)
class _Fault:
    """Lets `after` calls pass, then fails `times` of them; None fails all."""

    number: int
    after: int
    times: int | None

    def is_due(self) -> bool:
        if self.after:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class Gate:
    """Holds calls of an operation back until it is opened."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def wait_until_entered(self, timeout_s: float = 60.0) -> None:
        """A call is waiting, or has passed.

        Raises:
            TimeoutError: none came.
        """
        if not self._entered.wait(timeout_s):
            raise TimeoutError("nobody came to the gate")

    def open(self) -> None:
        self._opened.set()

    def pass_through(self) -> None:
        self._entered.set()
        if not self._opened.wait(_LONGEST_HOLD_S):  # a test that failed before it opened ends, and does not hang
            raise TimeoutError("nobody opened the gate")


class FaultyFiles(Files):
    """Real files whose operations, by the name of their method, fail and wait as a test says.

    `calls` counts each operation, `struck` those that failed or were slowed down, and as `SHORT_WRITES` those cut short. With
    `largest_write` no system call writes more than so many bytes; with `free` the volume claims so much room.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.largest_write: int | None = None
        self.free: int | None = None
        self._faults: dict[str, _Fault] = {}
        self._gates: dict[str, Gate] = {}
        self._delays: dict[str, float] = {}
        self._running = threading.RLock()

    def fail(self, operation: str, number: int, *, after: int = 0, times: int | None = None) -> None:
        """From now on, calls of `operation` raise the OSError of `number`: all, or `times` of them, `after` some passed."""
        self._faults[operation] = _Fault(number, after, times)

    def heal(self, *operations: str) -> None:
        """These operations work again, at once, and their gates are open; all of them when none is named."""
        for operation in operations or (*self._faults, *self._gates, *self._delays):
            self._faults.pop(operation, None)
            self._delays.pop(operation, None)
            gate = self._gates.pop(operation, None)
            if gate is not None:
                gate.open()

    def slow_down(self, operation: str, seconds: float) -> None:
        """From now on, each call of `operation` takes so much longer."""
        self._delays[operation] = seconds

    def gate(self, operation: str) -> Gate:
        """Calls of `operation` wait at the gate until it is opened."""
        gate = self._gates[operation] = Gate()
        return gate

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """No operation runs meanwhile, so that a copy of the files is what a crash between two operations leaves."""
        with self._running:
            yield

    @contextlib.contextmanager
    def _call(self, operation: str) -> Iterator[None]:
        self.calls[operation] += 1
        gate = self._gates.get(operation)
        if gate is not None:
            gate.pass_through()
        delay_s = self._delays.get(operation)
        if delay_s is not None:
            self.struck[operation] += 1
            time.sleep(delay_s)
        with self._running:
            fault = self._faults.get(operation)
            if fault is not None and fault.is_due():
                self.struck[operation] += 1
                raise OSError(fault.number, os.strerror(fault.number))
            yield

    def create(self, path: Path) -> int:
        with self._call("create"):
            return super().create(path)

    def open_existing(self, path: Path) -> int:
        with self._call("open_existing"):
            return super().open_existing(path)

    def writev(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        with self._call("writev"):
            if self.largest_write is None:
                return super().writev(fd, buffers, offset)
            content = b"".join(buffers)
            self.struck[SHORT_WRITES] += len(content) > self.largest_write
            return super().writev(fd, [content[: self.largest_write]], offset)

    def sync(self, fd: int) -> None:
        with self._call("sync"):
            super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        with self._call("sync_directory"):
            super().sync_directory(path)

    def truncate(self, path: Path, size: int) -> None:
        with self._call("truncate"):
            super().truncate(path, size)

    def rename(self, source: Path, target: Path) -> None:
        with self._call("rename"):
            super().rename(source, target)

    def unlink(self, path: Path) -> None:
        with self._call("unlink"):
            super().unlink(path)

    def make_directory(self, path: Path) -> None:
        with self._call("make_directory"):
            super().make_directory(path)

    def require_name(self, fd: int) -> None:
        with self._call("require_name"):
            super().require_name(fd)

    def names(self, path: Path) -> list[str]:
        with self._call("names"):
            return super().names(path)

    def read(self, fd: int, offset: int, length: int) -> bytes:
        with self._call("read"):
            return super().read(fd, offset, length)

    def free_bytes(self, path: Path) -> int:
        with self._call("free_bytes"):
            return super().free_bytes(path) if self.free is None else self.free

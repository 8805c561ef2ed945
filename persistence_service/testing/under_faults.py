"""The ordinary command line, but for a service whose disk and wall clock obey: what torture starts.

    python -m persistence_service.testing.under_faults ORDERS_SOCKET serve …

The service has no switch for it: it takes its files and its clock from whoever opens it, and here that is this module. Of several
workers each listens at a socket of its own: they are begun anew, with this module as their main one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import Any, Final, assert_never
from unittest.mock import patch

import msgspec

from persistence_service.bootstrap import Services, open_services
from persistence_service.cli import app, serve, worker
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.testing.clocks import JumpingTiming
from persistence_service.testing.faulty_files import FaultyFiles
from persistence_service.testing.noted_files import FaultyNotedFiles
from persistence_service.torture.orders import (
    Fail,
    Figures,
    Heal,
    Look,
    Order,
    SetClock,
    ShortenWrites,
    SlowDown,
    notes_beside,
    of_worker,
)
from persistence_service.torture.unsynced import SyncNotes

_MICROSECONDS = 1_000_000
_SOCKET: Final = "TORTURE_ORDERS_SOCKET"
"""The environment variable by which workers, which get no command line, are told."""


class Obedience(ThreadingUnixStreamServer):
    """Listens at `path` in threads of its own, which work whatever the event loop is at; ends with the process."""

    daemon_threads = True

    def __init__(self, path: Path, files: FaultyFiles, timing: JumpingTiming) -> None:
        path.unlink(missing_ok=True)  # of the process before
        super().__init__(str(path), _Conversation)
        self._files = files
        self._timing = timing
        threading.Thread(target=self.serve_forever, name="orders", daemon=True).start()

    def obey(self, order: Order) -> Figures:
        """Do it; what it had done until then is answered."""
        files, timing = self._files, self._timing
        match order:
            case Fail():
                files.fail(order.operation, order.number, after=order.after, times=order.times)
            case SlowDown():
                files.slow_down(order.operation, order.seconds)
            case ShortenWrites():
                files.largest_write = order.largest
            case SetClock():
                timing.offset_us = round(order.offset_s * _MICROSECONDS)
            case Heal():
                timing.offset_us = 0
                files.largest_write = None
                files.heal()
            case Look():
                pass
            case _:
                assert_never(order)
        return Figures(struck=dict(files.struck), wrong_times=timing.wrong_answers)


class _Conversation(StreamRequestHandler):
    server: Obedience

    def handle(self) -> None:
        for line in self.rfile:
            order: Order = msgspec.json.decode(line, type=Order)
            self.wfile.write(msgspec.json.encode(self.server.obey(order)) + b"\n")


def opening(socket: Path) -> Callable[..., AbstractAsyncContextManager[Services]]:
    """`open_services` for a service that listens at `socket`, or for a worker that listens beside it."""

    def open_(*arguments: Any, worker: WorkerIdentity | None = None, **others: Any) -> Any:  # noqa: ANN401  # as it is called
        own = socket if worker is None else of_worker(socket, worker.number)
        files, timing = FaultyNotedFiles(SyncNotes(notes_beside(own))), JumpingTiming()
        Obedience(own, files, timing)
        return open_services(*arguments, worker=worker, **others, files=files, timing=timing)

    return open_


def main() -> None:
    """Run the command line that stands behind the socket's path."""
    os.environ[_SOCKET] = socket = sys.argv.pop(1)
    with patch.object(serve, "open_services", opening(Path(socket))):
        app.main()


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # of a worker, which is given no command line
    patch.object(worker, "open_services", opening(Path(os.environ[_SOCKET]))).start()

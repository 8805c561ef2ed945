"""The ordinary command line, but for a service whose disk and wall clock obey: what torture starts.

    python -m persistence_service.testing.under_faults ORDERS_SOCKET serve …

The service has no switch for it: it takes its files and its clock from whoever opens it, and here that is this module. For one
worker: the processes of several are begun anew.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import assert_never
from unittest.mock import patch

import msgspec

from persistence_service.bootstrap import open_services
from persistence_service.cli import app, serve
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
)
from persistence_service.torture.unsynced import SyncNotes

_MICROSECONDS = 1_000_000


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


def main() -> None:
    """Run the command line that stands behind the socket's path."""
    socket = Path(sys.argv.pop(1))
    files, timing = FaultyNotedFiles(SyncNotes(notes_beside(socket))), JumpingTiming()
    Obedience(socket, files, timing)
    with patch.object(serve, "open_services", partial(open_services, files=files, timing=timing)):
        app.main()


if __name__ == "__main__":
    main()

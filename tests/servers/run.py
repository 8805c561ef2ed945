"""What all workers of one test run share: a folder for the servers, and locks on what must happen once."""

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.keeper import end_servers

ROOT = Path(__file__).parents[2]


class ServerRun:
    """The servers of one test run. `shared` is a folder that all its workers see, `owner` the process whose end ends it."""

    def __init__(self, shared: Path, owner: int) -> None:
        self.shared = shared
        self._owner = owner
        self._note = shared / "servers"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Only one worker is in this block at a time."""
        with (self.shared / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def new_folder(self, name: str) -> Path:
        """An empty folder for one server; it is removed with the server at the end of the run.

        Its path is short: a socket's may have about 100 bytes.
        """
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder()))

    def finish(self) -> None:
        """End all servers, if there are any."""
        with self.lock("servers"):
            if self._note.exists():
                end_servers(Path(self._note.read_text()))

    def _folder(self) -> Path:
        with self.lock("servers"):
            if not self._note.exists():
                folder = tempfile.mkdtemp(prefix="ps-servers-")
                self._note.write_text(folder)
                self._start_keeper(folder)
            return Path(self._note.read_text())

    def _start_keeper(self, folder: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-m", "tests.servers.keeper", str(self._owner), folder],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )

"""A database server as a process that outlives whoever started it, and is known by its pid file alone.

Any worker of a test run may start one and another end it, so nobody is its parent for long.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

PID_FILE = "server.pid"
_END_S = 150.0
_POLL_S = 0.02
_DETACH = '"$@" >>"$LOG" 2>&1 </dev/null & echo $!'


class StartError(Exception):
    """A server can't be started here; the text says why."""


class NotInstalledError(StartError):
    """It is not here at all, so a second attempt is of no use."""


class ServerProcess(Protocol):
    """One server on one port, whose data lie in `folder`. The same data are there after each start."""

    @property
    def folder(self) -> Path: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def launch(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Start `command` in a session of its own, so that no Ctrl-C reaches it, with `folder` for its log and pid file."""
    started = subprocess.run(
        ["/bin/sh", "-c", _DETACH, "sh", *command],
        env={**environment, "LOG": str(folder / "log")},
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    (folder / PID_FILE).write_bytes(started.stdout)


def running_pid(folder: Path) -> int | None:
    """The process that serves from `folder`, if it runs."""
    try:
        pid = int((folder / PID_FILE).read_text())
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return pid if _serves_from(pid, folder) else None


def end(folder: Path, number: signal.Signals) -> None:
    """Send the signal to the server in `folder`, and wait until it is gone."""
    pid = running_pid(folder)
    if pid is not None:
        os.kill(pid, number)
        deadline = time.monotonic() + _END_S
        while running_pid(folder) == pid or _holds_ports(pid):
            if time.monotonic() > deadline:
                raise AssertionError(f"the server in {folder} did not end:\n{log_tail(folder)}")
            time.sleep(_POLL_S)
    (folder / PID_FILE).unlink(missing_ok=True)


def _holds_ports(pid: int) -> bool:
    """Whether others may still connect to it: when a process ends, its memory and so its name go before its files."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        threads = len([*Path(f"/proc/{pid}/task").iterdir()])
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"} or threads > 1


def log_tail(folder: Path) -> str:
    """The end of what the server wrote."""
    try:
        return "\n".join((folder / "log").read_text(errors="replace").splitlines()[-15:])
    except FileNotFoundError:
        return ""


def _serves_from(pid: int, folder: Path) -> bool:
    """Whether it is no other process with a number used anew, and no zombie that nobody has waited for yet."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it may end between the opening and the reading
        return not Path("/proc/self").exists()
    return os.fsencode(folder) in command

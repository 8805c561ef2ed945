"""Ends the servers of a test run once the run is over, however it ended: `python keeper.py PID FOLDER`.

It waits for the end of the process PID. The run itself does the same when it ends in an orderly way.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.servers.process import PID_FILE, end

_POLL_S = 0.25
# For servers that somebody was about to start when the run ended.
_STRAGGLERS_S = 10.0


def end_servers(folder: Path) -> None:
    """Kill every server below `folder`, frozen ones too, and remove all that they wrote."""
    for pid_file in [*folder.glob(f"*/{PID_FILE}"), *folder.glob(f"*/*/{PID_FILE}")]:
        end(pid_file.parent, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    owner, folder = int(sys.argv[1]), Path(sys.argv[2])
    while _is_running(owner) and folder.exists():
        time.sleep(_POLL_S)
    if not _is_running(owner):
        deadline = time.monotonic() + _STRAGGLERS_S
        while time.monotonic() < deadline:
            end_servers(folder)
            time.sleep(_POLL_S)


if __name__ == "__main__":
    main()

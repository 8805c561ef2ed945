"""MySQL 9 from the program that PERSISTENCE_TEST_MYSQL9 names. CONTRIBUTING.md tells what it has to understand."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.servers.installed import MODEST
from tests.servers.process import StartError, end
from tests.servers.run import ServerRun

_TIMEOUT_S = 240
# With 0 a group would do without a node that was killed in 7 seconds instead of 22, but after 5 seconds in which the machine
# did nothing it would do without a node that is well, too. Servers alone pass over it.
_ELECTION = ("--loose-group-replication-member-expel-timeout=2",)
_TEMPLATE = "mysql-template"
# A server writes its identity there, which no copy may have.
_IDENTITY = "auto.cnf"


class LaunchedServer:
    """One server of the launcher, on one port of 127.0.0.1, user root, no password."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = port

    def start(self) -> None:
        launcher("start", self.folder, self._port)

    def stop(self) -> None:
        end(self.folder, signal.SIGTERM)

    def kill(self) -> None:
        # At once, not when the launcher has run: a kill comes at a moment that the test chose.
        end(self.folder, signal.SIGKILL)


def launcher_program() -> str | None:
    """The launcher, if there is one."""
    return os.environ.get("PERSISTENCE_TEST_MYSQL9") or None


def launcher(action: str, folder: Path, *arguments: object) -> str:
    """What the launcher prints.

    Raises:
        StartError: it failed.
    """
    options = (os.environ.get("MYSQL9_OPTIONS", ""), *MODEST, *_ELECTION)
    program = launcher_program()
    assert program is not None
    # A file, not a pipe: the servers that it leaves behind would hold that open.
    output = folder.parent / f"{folder.name}.out"
    with output.open("w+") as file:
        try:
            subprocess.run(
                [program, action, str(folder), *map(str, arguments)],
                env={**os.environ, "MYSQL9_OPTIONS": " ".join(options)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise StartError(f"{program} {action} failed: {exc}\n{output.read_text()[-2000:]}") from exc
    return output.read_text()


def copy_template(run: ServerRun, port: int, *folders: Path) -> None:
    """Fill the folders of new servers with initialised data: a copy takes a tenth of the time of an initialisation.

    `port` is one for the moment.
    """
    with run.lock(_TEMPLATE):
        note = run.shared / _TEMPLATE
        if not note.exists():
            template = run.new_folder(_TEMPLATE)
            launcher("start", template, port)
            end(template, signal.SIGTERM)
            note.write_text(str(template))
    for folder in folders:
        shutil.copytree(note.read_text(), folder, ignore=_no_identity, dirs_exist_ok=True)


def _no_identity(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == _IDENTITY]

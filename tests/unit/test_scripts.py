"""The scripts set up what is missing, once, and say what they cannot set up.

They run here in a copy of the project with an interpreter that notes installations instead of making them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cp", "dirname", "mkdir", "rm", "touch")

# Makes "virtual environments" that hold a copy of itself, and answers everything else like the real interpreter.
INTERPRETER = f"""#!/usr/bin/env bash
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
  "-m pip"*) echo "$*" >> "$INSTALLATIONS" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""
MAIN = "import os, sys; print([os.getcwd(), os.environ.get('GREETING'), *sys.argv[1:]])"


class Checkout:
    """A copy of the project in a folder with a blank in its name, and the programs found on PATH there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "the project"
        self.bin = folder / "bin"
        self._installations = folder / "installations"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "main.py").write_text(MAIN)
        (self.root / "requirements.txt").write_text("one==1.0\n")
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"{tool} is missing here"
            (self.bin / tool).symlink_to(found)

    def provide(self, name: str, script: str) -> None:
        program = self.bin / name
        program.write_text(script)
        program.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": str(self.bin), "INSTALLATIONS": str(self._installations), **environment}
        script = self.root / "scripts/start.sh"
        return subprocess.run(
            [self.bin / "bash", script, *arguments], cwd="/", env=variables, capture_output=True, text=True, check=False
        )

    @property
    def installations(self) -> int:
        text = self._installations.read_text() if self._installations.exists() else ""
        return sum(line.startswith("-m pip install") for line in text.splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_start_passes_arguments_and_environment_on_and_runs_in_the_project(checkout: Checkout) -> None:
    checkout.provide("python3", INTERPRETER)
    started = checkout.start("--port", "80 01", GREETING="good day")
    assert started.returncode == 0, started.stderr
    assert started.stdout == f"{[os.path.realpath(checkout.root), 'good day', 'serve', '--port', '80 01']}\n"


def test_start_installs_once_and_again_when_the_requirements_change(checkout: Checkout) -> None:
    checkout.provide("python3", INTERPRETER)
    checkout.start()
    second = checkout.start()
    assert (second.returncode, second.stderr, checkout.installations) == (0, "", 1)
    (checkout.root / "requirements.txt").write_text("one==1.1\n")
    assert checkout.start().returncode == 0
    assert checkout.installations == 2


def test_start_tries_again_after_an_installation_that_failed(checkout: Checkout) -> None:
    checkout.provide("python3", INTERPRETER.replace('echo "$*"', '[[ $* != *install* ]] || exit 1; echo "$*"'))
    failed = checkout.start()
    assert failed.returncode == 1
    assert "could not be installed" in failed.stderr
    shutil.rmtree(checkout.root / ".venv")
    checkout.provide("python3", INTERPRETER)
    assert checkout.start().returncode == 0
    assert checkout.installations == 1


def test_start_names_the_missing_python(checkout: Checkout) -> None:
    checkout.provide("python3", "#!/usr/bin/env bash\nexit 1\n")
    started = checkout.start()
    assert started.returncode == 1
    assert "Python 3.11 or later is missing" in started.stderr
    assert "apt-get install python3" in started.stderr


def test_start_names_the_missing_venv_module(checkout: Checkout) -> None:
    without_venv = INTERPRETER.replace('case "$*" in', 'case "$*" in\n  *ensurepip*) exit 1 ;;')
    checkout.provide("python3", without_venv)
    started = checkout.start()
    assert started.returncode == 1
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in started.stderr


def test_a_python_that_cannot_make_environments_is_passed_over_for_one_that_can(checkout: Checkout) -> None:
    checkout.provide("python3.12", INTERPRETER.replace('case "$*" in', 'case "$*" in\n  *ensurepip*) exit 1 ;;'))
    checkout.provide("python3", INTERPRETER)
    assert checkout.start().returncode == 0


def test_the_interpreter_asked_for_must_work(checkout: Checkout) -> None:
    checkout.provide("python3", INTERPRETER)
    started = checkout.start(PYTHON="no-such-python")
    assert started.returncode == 1
    assert "PYTHON=no-such-python" in started.stderr


def test_a_folder_that_is_no_virtual_environment_is_left_alone(checkout: Checkout) -> None:
    checkout.provide("python3", INTERPRETER)
    other = checkout.root / "other"
    (other / "bin").mkdir(parents=True)
    shutil.copy(checkout.bin / "python3", other / "bin/python")
    started = checkout.start(PERSISTENCE_VENV=str(other))
    assert started.returncode == 1
    assert "is no virtual environment" in started.stderr
    assert checkout.installations == 0

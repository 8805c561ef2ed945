"""The directory of the control sockets: private, short, and gone after its service, however that ended."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from persistence_service.fleet.control_directory import control_directory, remove_abandoned

_OWNER = """
import sys, tempfile
from persistence_service.fleet.control_directory import control_directory
tempfile.tempdir = sys.argv[1]
with control_directory(2) as directory:
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where directories for temporary files are made; with a short name."""
    with tempfile.TemporaryDirectory(prefix="ps-") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
def killed(parent: Path) -> Path:
    """What a service left that was killed."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        remove_abandoned(parent)
        assert left.exists(), "it belongs to a process that runs"
        owner.kill()
    assert left.exists()
    return left


def test_it_is_private_and_gone_at_the_end(parent: Path) -> None:
    with control_directory(2) as directory:
        assert directory.parent == parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (directory / "0.sock").touch()
    assert list(parent.iterdir()) == []


def test_what_a_killed_service_left_goes_with_the_next_start(parent: Path, killed: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(killed / "0.sock"))
    with control_directory(2) as directory:
        assert list(parent.iterdir()) == [directory]


def test_what_a_worker_still_listens_in_stays(parent: Path, killed: Path) -> None:
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind(str(killed / "1.sock"))
        worker.listen()
        remove_abandoned(parent)
        assert killed.exists()


def test_what_has_its_name_and_is_no_directory_stays(parent: Path) -> None:
    (parent / "elsewhere").mkdir()
    (parent / "persistence-service-link").symlink_to(parent / "elsewhere")
    (parent / "persistence-service-file").touch()
    remove_abandoned(parent)
    assert len(list(parent.iterdir())) == 3


def test_a_place_whose_name_is_too_long_for_sockets_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with control_directory(64) as directory, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(directory / "63.sock"))
    assert list(deep.iterdir()) == []

"""What happens to the service from outside: another program at its database, a volume without room."""

import asyncio
import errno
import os
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

from tests.conftest import require_or_skip

POISON = "☠"
"""A text that begins so is what the database refuses while `poisoned`."""
_WAIT_S = 30.0


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, isolation_level=None, timeout=_WAIT_S, check_same_thread=False)


def poison(database: Path) -> None:
    """From now on the database refuses tasks whose source text begins with `POISON`."""
    with closing(_connect(database)) as connection:
        connection.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON translation_tasks "
            f"WHEN NEW.source_text LIKE '{POISON}%' BEGIN SELECT RAISE(ABORT, 'poison'); END"
        )


def cure(database: Path) -> None:
    """It refuses them no more."""
    with closing(_connect(database)) as connection:
        connection.execute("DROP TRIGGER poison")


def look(database: Path, question: str, *values: object) -> list[tuple[object, ...]]:
    """Ask the database's file."""
    with closing(_connect(database)) as connection:
        return connection.execute(question, values).fetchall()


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Nobody else can write to the database."""
    with closing(_connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def wait_until_true(database: Path, condition: str) -> None:
    """Look until this SQL expression is true; looking takes no lock, and so hinders nobody."""
    ends_at = monotonic() + _WAIT_S
    with closing(_connect(database)) as connection:
        while not connection.execute(f"SELECT {condition}").fetchone()[0]:
            assert monotonic() < ends_at, f"never true: {condition}"


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Ask until it is so."""
    try:
        async with asyncio.timeout(45):
            while not await condition():
                pass
    except TimeoutError:
        raise AssertionError(f"it never came to this: {what}") from None


@contextmanager
def mounted_volume(folder: Path, size_mib: int) -> Iterator[Path]:
    """An empty volume of that size, in memory; needs the right to mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as exc:
        problem = str(exc)
    if problem:
        require_or_skip("volume", f"a small volume can't be mounted: {problem}")
    try:
        yield folder
    finally:
        # Lazily: it goes even if a process that is still ending has a file of it open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def used_bytes(volume: Path) -> int:
    """How much of it is taken."""
    status = os.statvfs(volume)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def fill(volume: Path) -> Path:
    """A file of somebody else, which takes all the room there is."""
    ballast = volume / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as exc:
            assert exc.errno == errno.ENOSPC  # noqa: PT017  # of a loop that ends in no other way
    return ballast

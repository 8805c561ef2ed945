"""What happens around the service: a volume without room, and what a test waits for."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import require_or_skip

# Between two looks: who looks without a pause takes the processor from those it waits for.
_LOOK_S = 0.05


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Ask until it is so."""
    try:
        async with asyncio.timeout(240):
            while not await condition():  # noqa: ASYNC110  # another process has no event
                await asyncio.sleep(_LOOK_S)
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

"""What is right and wrong with the journal's directory."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from persistence_service.errors import JournalLocked
from persistence_service.fleet.inheritance import bytes_on_disk, journals_below
from persistence_service.journal.lock import LOCK_NAME, kept_from_owners
from persistence_service.settings import JournalSettings
from persistence_service.settings.units import format_size
from persistence_service.storage.powers import Finding, Level

_PROBES = 5
_PROBE_BYTES = 4096
_SLOW_S = 0.05
_NEARLY = 0.8


def journal_findings(settings: JournalSettings) -> list[Finding]:
    """The findings on the directory. A file is written there for a moment, and the journal is not touched."""
    directory = settings.directory
    existing = next(
        (parent for parent in (directory, *directory.absolute().parents) if parent.exists()), directory.absolute()
    )
    if not existing.is_dir():
        return [_unusable(directory, f"{existing} is no directory")]
    found = [_writing(directory, existing), _room(existing, settings)]
    if directory.is_dir():
        with suppress(OSError):  # what can't be read was told above
            found += [_filling(directory, settings), _owner(directory)]
    return found


def _unusable(directory: Path, why: str) -> Finding:
    return Finding(
        "directory",
        Level.PROBLEM,
        f"{directory}: {why}",
        "Give the service's user a directory of its own on a local disk, and name it in journal.directory.",
    )


def _writing(directory: Path, existing: Path) -> Finding:
    """Whether it can be written durably, found by doing so; of one that is not made yet, the one that it will be made in."""
    try:
        slowest_s = _slowest_sync(existing)
    except OSError as exc:
        return _unusable(directory, f"{exc.strerror} in {existing}")
    will = "" if existing == directory else ", to be made at the first start"
    detail = f"{directory}{will}: fsync takes up to {slowest_s * 1000:.1f} ms"
    if slowest_s < _SLOW_S:
        return Finding("directory", Level.OK, detail)
    return Finding(
        "directory",
        Level.WARNING,
        f"{detail}, and every batch waits for one",
        "Put the journal on a faster local disk, or one that is less busy.",
    )


def _slowest_sync(directory: Path) -> float:
    path = directory / f"check-{secrets.token_hex(8)}.tmp"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return max(_sync_s(fd, place) for place in range(_PROBES))
    finally:
        os.close(fd)
        path.unlink()


def _sync_s(fd: int, place: int) -> float:
    os.pwrite(fd, bytes(_PROBE_BYTES), place * _PROBE_BYTES)
    began = time.perf_counter()
    os.fdatasync(fd)
    return time.perf_counter() - began


def _room(directory: Path, settings: JournalSettings) -> Finding:
    free = shutil.disk_usage(directory).free
    usable = free - settings.min_free
    detail = f"{_about(free)} free on its volume, of which {_about(settings.min_free)} stay free (journal.min_free)"
    remedy = "Make room on the volume, or move the journal to a larger one."
    if usable <= 0:
        return Finding("free space", Level.PROBLEM, f"{detail}: new batches are refused", remedy)
    if usable < settings.max_bytes - _bytes_in(settings.directory):
        most = f"it may grow to {_about(settings.max_bytes)} (journal.max_bytes)"
        return Finding("free space", Level.WARNING, f"{detail}, and {most}", f"{remedy} Or lower journal.max_bytes.")
    return Finding("free space", Level.OK, detail)


def _about(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _bytes_in(directory: Path) -> int:
    """Of all workers' journals, which journal.max_bytes bounds together."""
    with suppress(OSError):
        return sum(bytes_on_disk(path) for path in (directory, *journals_below(directory).values()))
    return 0


def _filling(directory: Path, settings: JournalSettings) -> Finding:
    size = _bytes_in(directory)
    detail = f"{_about(size)} of {format_size(settings.max_bytes)}"
    if size < _NEARLY * settings.max_bytes:
        return Finding("size", Level.OK, detail)
    return Finding(
        "size",
        Level.WARNING,
        f"{detail}: when it is full, new batches are refused",
        "See why the database does not take the records, in /health or the log; or raise journal.max_bytes.",
    )


def _owner(directory: Path) -> Finding:
    """Whether a service has it, with one worker or several; looked at without taking it."""
    journals = [path for path in (directory, *journals_below(directory).values()) if (path / LOCK_NAME).exists()]
    if not journals:
        return Finding("owner", Level.OK, "none has used it yet")
    owners = [owner for owner in map(_owner_of, journals) if owner is not None]
    if not owners:
        return Finding("owner", Level.OK, "none; no service is running on it")
    return Finding("owner", Level.OK, f"a running service ({', '.join(owners)})")


def _owner_of(directory: Path) -> str | None:
    try:
        with kept_from_owners(directory):
            return None
    except JournalLocked as exc:
        return exc.owner

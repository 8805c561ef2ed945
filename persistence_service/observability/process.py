"""What this process takes of its machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Of this moment; `cpu_s` is since the process began. Memory and threads are None where the system has no /proc."""

    pid: int
    cpu_s: float
    resident_bytes: int | None
    peak_resident_bytes: int | None
    threads: int | None


def process_figures() -> ProcessFigures:
    """The figures now; reads no disk."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    return ProcessFigures(
        pid=os.getpid(),
        cpu_s=time.process_time(),
        resident_bytes=_kib(known.get("VmRSS")),
        peak_resident_bytes=_kib(known.get("VmHWM")),
        threads=_number(known.get("Threads")),
    )


def _kib(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else number * _KIB


def _number(text: str | None) -> int | None:
    return int(text.split()[0]) if text is not None else None

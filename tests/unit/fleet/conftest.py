"""What tests of workers share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def control_directory() -> Iterator[Path]:
    """A private directory whose name is short: that of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="ps-") as name:
        yield Path(name)

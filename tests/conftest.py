"""What all tests share: how they find things outside of this repository, and how Hypothesis searches.

The environment variables are described in CONTRIBUTING.md.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from coverage import Coverage
from hypothesis import settings

pytest_plugins = ["tests.servers.fixtures"]

# In CI the same examples are tried every time, so that a failure is the change's own; elsewhere each run tries others.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def require_or_skip(name: str, reason: str) -> NoReturn:
    """Skips the test at hand, or fails it where PERSISTENCE_TEST_REQUIRE names `name`.

    `name` is what the test needs and lacks: data, mysql, mariadb, group …
    """
    required = {entry.strip() for entry in os.environ.get("PERSISTENCE_TEST_REQUIRE", "").split(",")}
    if name in required:
        pytest.fail(f"{reason} (PERSISTENCE_TEST_REQUIRE names {name!r})", pytrace=False)
    pytest.skip(reason)


@contextmanager
def unmeasured() -> Iterator[None]:
    """What is done in the block takes no part in the coverage, and half the time; the mark of that name spares a test's call.

    pytest-cov's own mark stops one of the two that measure a worker of xdist: its own, not that of any subprocess.
    """
    stopped: list[Coverage] = []
    while (measuring := Coverage.current()) is not None:
        measuring.stop()
        stopped.append(measuring)
    try:
        yield
    finally:
        for measuring in reversed(stopped):
            measuring.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    if item.get_closest_marker("unmeasured") is None:
        return (yield)
    with unmeasured():
        return (yield)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real translation data."""
    folder = os.environ.get("PERSISTENCE_TEST_DATA")
    if not folder:
        require_or_skip("data", "PERSISTENCE_TEST_DATA names no folder of real data")
    if not Path(folder).is_dir():
        require_or_skip("data", f"PERSISTENCE_TEST_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's own PERSISTENCE_… settings must not change what the tests see."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PERSISTENCE_") and not name.startswith(("PERSISTENCE_TEST_", "PERSISTENCE_VENV")):
                patch.delenv(name)
        yield

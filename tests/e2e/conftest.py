from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.database import Database, OnServer, SqliteFile
from tests.e2e.sample import sample_workbooks
from tests.e2e.service import ServiceProcess, running_service
from tests.e2e.workbooks import Workbook, read_workbooks
from tests.servers.fixtures import KINDS

StartService = Callable[..., Awaitable[ServiceProcess]]


@pytest.fixture(params=["sample", pytest.param("real", marks=pytest.mark.slow)])
def workbooks(request: pytest.FixtureRequest) -> list[Workbook]:
    """The generated sample, and the real data where there is some."""
    if request.param == "sample":
        return sample_workbooks()
    folder: Path = request.getfixturevalue("real_data")
    return read_workbooks(folder)


# What another database adds is its backend, which contract/ and integration/ measure; a program that is measured takes half
# as long again.
@pytest.fixture(params=["sqlite", *(pytest.param(kind, marks=pytest.mark.unmeasured) for kind in KINDS)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each kind in turn."""
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "persistence.db")
    return OnServer(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture
async def start_service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StartService]:
    """A function that starts a service on data of its own, with the settings given by their dotted keys.

    Its coverage is measured on SQLite alone, as that of the tests is.
    """
    async with AsyncExitStack() as running:

        async def start(settings: Mapping[str, object] | None = None, *, measured: bool = True) -> ServiceProcess:
            folder = tmp_path_factory.mktemp("service")
            on_sqlite = (settings or {}).get("storage.backend", "sqlite") == "sqlite"
            return await running.enter_async_context(running_service(folder, settings, measured=measured and on_sqlite))

        yield start

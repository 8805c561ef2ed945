from collections.abc import AsyncIterator

import pytest

from persistence_service.client import PersistenceClient
from tests.api.conftest import Api, api, start_api

__all__ = ["api", "start_api"]


@pytest.fixture
async def client(api: Api) -> AsyncIterator[PersistenceClient]:  # the fixture of that name
    """A client of an application in this process."""
    async with PersistenceClient("http://localhost:8001", transport=api.client._transport) as client:
        yield client

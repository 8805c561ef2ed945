"""Opening a backend that may be away at first: the service starts without it, and this is tried again until it works."""

from __future__ import annotations

import asyncio

import structlog

from persistence_service.errors import PersistenceError, StorageSetupError
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.powers import MigrationPlanner

_log = structlog.get_logger(__name__)


class BackendOpener:
    """Opens a backend, and migrates it if asked to, once; `ensure_open` costs nothing afterwards.

    Whoever may not migrate has to find the schema up to date: nothing is written into one that is old or half made.
    """

    def __init__(self, backend: StorageBackend, *, migrate: bool) -> None:
        self._backend = backend
        self._migrate = migrate
        self._lock = asyncio.Lock()
        self._opened = False
        self.is_open = False
        self.problem = ""  # why the last attempt failed

    async def ensure_open(self) -> None:
        """Return when the backend is open and its schema up to date.

        Raises:
            StorageUnavailable, StorageSetupError, SchemaTooNew: it is not; calling again tries again.
        """
        async with self._lock:
            if not self.is_open:
                try:
                    await self._try()
                except PersistenceError as exc:
                    self.problem = str(exc)
                    raise
                self.problem = ""
                self.is_open = True
                _log.info("storage.open", backend=self._backend.name)

    async def _try(self) -> None:
        if not self._opened:  # an opened backend can't be opened again, though its migration may have to be
            await self._backend.open()
            self._opened = True
        if self._migrate:
            await self._backend.migrate()
        else:
            await self._check_schema()

    async def _check_schema(self) -> None:
        problem = await self._backend.schema_problem() if isinstance(self._backend, MigrationPlanner) else ""
        if problem:
            raise StorageSetupError(problem)

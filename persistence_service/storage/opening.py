"""Opening a backend that may be away at first: the service starts without it, and this is tried again until it works."""

from __future__ import annotations

import asyncio

import structlog

from persistence_service.storage.backend import StorageBackend

_log = structlog.get_logger(__name__)


class BackendOpener:
    """Opens a backend, and migrates it if asked to, once; `ensure_open` costs nothing afterwards."""

    def __init__(self, backend: StorageBackend, *, migrate: bool) -> None:
        self._backend = backend
        self._migrate = migrate
        self._lock = asyncio.Lock()
        self._opened = False
        self.is_open = False

    async def ensure_open(self) -> None:
        """Return when the backend is open and migrated.

        Raises:
            StorageUnavailable, StorageSetupError, SchemaTooNew: it is not; calling again tries again.
        """
        async with self._lock:
            if not self.is_open:
                if not self._opened:  # an opened backend can't be opened again, though its migration may have to be
                    await self._backend.open()
                    self._opened = True
                if self._migrate:
                    await self._backend.migrate()
                self.is_open = True
                _log.info("storage.open", backend=self._backend.name)

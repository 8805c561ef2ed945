"""The registry: which backends there are, and which of them holds each collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from persistence_service.errors import UnknownBackend, UnknownCollection
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import ALL_COLLECTIONS, Collection

ENTRY_POINT_GROUP = "persistence_service.storage"

BackendFactory = Callable[[], StorageBackend]


class StorageRegistry:
    """Backends by name, and the route of each collection. Filled explicitly; the only door to storage.

    A backend is constructed when the first collection is routed to it, and is shared by all of its collections.
    """

    def __init__(self, collections: Sequence[Collection[Any]] = ALL_COLLECTIONS) -> None:
        self._collections = {collection.name: collection for collection in collections}
        self._factories: dict[str, BackendFactory] = {}
        self._backends: dict[str, StorageBackend] = {}
        self._routes: dict[str, StorageBackend] = {}

    def register(self, name: str, factory: BackendFactory) -> None:
        """Make a backend known under `name`; a later registration of the same name replaces the earlier."""
        self._factories[name] = factory

    def route(self, collection: str, backend: str) -> None:
        """Keep `collection` in `backend` from now on.

        Raises:
            UnknownCollection, UnknownBackend: no such name; the error lists the known ones.
        """
        if collection not in self._collections:
            raise UnknownCollection(collection, list(self._collections))
        if backend not in self._factories:
            raise UnknownBackend(backend, list(self._factories))
        if backend not in self._backends:
            self._backends[backend] = self._factories[backend]()
        self._routes[collection] = self._backends[backend]

    def route_all(self, default: str, exceptions: Mapping[str, str]) -> None:
        """Keep every collection in `default`, but for the `exceptions` (collection → backend).

        Raises:
            UnknownCollection, UnknownBackend: no such name; the error lists the known ones.
        """
        for name in (*exceptions, *self._collections):
            self.route(name, exceptions.get(name, default))

    def backend_for(self, collection: Collection[Any]) -> StorageBackend:
        """The backend that holds `collection`.

        Raises:
            UnknownCollection: it was never routed; the error lists those that were.
        """
        try:
            return self._routes[collection.name]
        except KeyError:
            raise UnknownCollection(collection.name, list(self._routes)) from None


def plugins() -> dict[str, BackendFactory]:
    """Backends of other installed packages: entry points of the group `persistence_service.storage`, by name."""
    return {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP)}

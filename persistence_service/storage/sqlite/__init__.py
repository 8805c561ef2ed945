"""The embedded default backend, on SQLite."""

from persistence_service.storage.sqlite.backend import SqliteBackend

__all__ = ["SqliteBackend"]

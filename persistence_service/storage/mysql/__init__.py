"""The backend for MySQL and MariaDB."""

from persistence_service.storage.mysql.backend import MysqlBackend

__all__ = ["MysqlBackend"]

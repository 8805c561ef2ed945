"""Settings: what they are (`Settings` and its sections) and where they come from (`load_settings`).

Importing reads nothing from the environment or the disk; `Settings()` alone is the defaults.
"""

from persistence_service.settings.keys import KEYS, NAMED_FLAGS, Key, environment_name
from persistence_service.settings.load import LoadedSettings, load_settings
from persistence_service.settings.model import (
    BufferSettings,
    DatabaseSettings,
    Durability,
    JournalSettings,
    LimitSettings,
    LogFormat,
    LoggingSettings,
    LogLevel,
    SecuritySettings,
    ServiceSettings,
    Settings,
    SqliteSettings,
    StatsSettings,
    StorageSettings,
    TlsMode,
)
from persistence_service.settings.reference import configuration_file, markdown_table
from persistence_service.settings.routing import StorageNames, routing_problems
from persistence_service.settings.rules import is_loopback
from persistence_service.settings.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "KEYS",
    "NAMED_FLAGS",
    "BufferSettings",
    "DatabaseSettings",
    "Durability",
    "JournalSettings",
    "Key",
    "LimitSettings",
    "LoadedSettings",
    "LogFormat",
    "LogLevel",
    "LoggingSettings",
    "SecuritySettings",
    "ServiceSettings",
    "Settings",
    "SqliteSettings",
    "StatsSettings",
    "StorageNames",
    "StorageSettings",
    "TlsMode",
    "configuration_file",
    "environment_name",
    "format_duration",
    "format_size",
    "is_loopback",
    "load_settings",
    "markdown_table",
    "parse_duration",
    "parse_size",
    "routing_problems",
]

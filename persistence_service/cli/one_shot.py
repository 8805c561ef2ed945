"""What commands share that look or do one thing, and end: settings, logging, and the backends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from persistence_service.bootstrap import build_registry, storage_names
from persistence_service.errors import UnknownBackend
from persistence_service.observability.logging import configure_logging
from persistence_service.settings import LoadedSettings, LogLevel, Settings, load_settings
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import ALL_COLLECTIONS

Config = Annotated[Path | None, typer.Option(help="Configuration file (YAML).")]
Options = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, as often as needed.")]


@contextmanager
def configured(config: Path | None, options: Sequence[str] | None) -> Iterator[LoadedSettings]:
    """The settings, as the service has them. Within, warnings go to stderr; stdout and the service's log file stay the command's.

    Raises:
        ConfigurationError: what is wrong with them.
    """
    flags: dict[str, object] = {key: value for key, _, value in (text.partition("=") for text in options or [])}
    loaded = load_settings(flags=flags, config_path=config, known=storage_names())
    with configure_logging(loaded.settings.logging.model_copy(update={"file": None, "level": LogLevel.WARNING})):
        yield loaded


def chosen_backend(name: str, flag: str) -> str:
    """The backend that `flag` names: one that there is, and that keeps what it is given when the command has ended.

    Raises:
        typer.BadParameter: it is none of these.
    """
    names = storage_names().backends
    if name not in names:
        raise typer.BadParameter(str(UnknownBackend(name, names)), param_hint=flag)
    if name == "memory":
        raise typer.BadParameter("the memory backend keeps nothing", param_hint=flag)
    return name


def backends_of(settings: Settings) -> list[StorageBackend]:
    """Every backend that holds a collection, once, none of them open."""
    registry = build_registry(settings)
    return list(dict.fromkeys(registry.backend_for(collection) for collection in ALL_COLLECTIONS))

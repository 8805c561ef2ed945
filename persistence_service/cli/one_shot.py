"""What commands share that look or do one thing, and end: settings, logging, and the backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from persistence_service.bootstrap import build_registry, storage_names
from persistence_service.observability.logging import configure_logging
from persistence_service.settings import LoadedSettings, LogLevel, Settings, load_settings
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import ALL_COLLECTIONS

Config = Annotated[Path | None, typer.Option(help="Configuration file (YAML).")]
Options = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, as often as needed.")]


def options_by_key(options: Sequence[str] | None) -> dict[str, object]:
    """The values that ``--set`` gives to keys; of a key that it gives several the last."""
    return {key: value for key, _, value in (text.partition("=") for text in options or [])}


@contextmanager
def configured(
    config: Path | None, options: Sequence[str] | None, named: Mapping[str, object] | None = None
) -> Iterator[LoadedSettings]:
    """The settings, as the service has them. Within, warnings go to stderr; stdout and the service's log file stay the command's.

    `named` are values of flags that the command has for some keys.

    Raises:
        ConfigurationError: what is wrong with them.
    """
    flags = options_by_key(options)
    loaded = load_settings(flags=flags, named_flags=named or {}, config_path=config, known=storage_names())
    with configure_logging(loaded.settings.logging.model_copy(update={"file": None, "level": LogLevel.WARNING})):
        yield loaded


def check_keeps(backend: str, flag: str) -> None:
    """What a command stores shall be there when it has ended.

    Raises:
        typer.BadParameter: it would not, in the backend that `flag` names.
    """
    if backend == "memory":
        raise typer.BadParameter("the memory backend keeps nothing", param_hint=flag)


def backends_of(settings: Settings) -> list[StorageBackend]:
    """Every backend that holds a collection, once, none of them open."""
    registry = build_registry(settings)
    return list(dict.fromkeys(registry.backend_for(collection) for collection in ALL_COLLECTIONS))

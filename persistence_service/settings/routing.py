"""What `storage.backend` and `storage.routes` may name: known only to whoever knows the backends, and handed in from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from persistence_service.errors import ConfigurationProblem, UnknownBackend, UnknownCollection
from persistence_service.settings.model import StorageSettings
from persistence_service.settings.rules import BrokenRule

BACKEND, ROUTES = "storage.backend", "storage.routes"


@dataclass(frozen=True, slots=True)
class StorageNames:
    """The backends and the collections there are; the collections of `together` must be in one backend."""

    backends: tuple[str, ...]
    collections: tuple[str, ...]
    together: tuple[str, ...] = ()


def unknown_names(dotted: str, value: object, names: StorageNames) -> Iterator[tuple[str, str]]:
    """Yield what of a key's valid value names nothing there is, and a sentence that lists what there is."""
    if dotted == BACKEND and value not in names.backends:
        yield repr(value), str(UnknownBackend(str(value), names.backends))
    if dotted == ROUTES:
        for collection, backend in cast("Mapping[str, str]", value).items():
            route = repr(f"{collection}: {backend}")
            if collection not in names.collections:
                yield route, str(UnknownCollection(collection, names.collections))
            if backend not in names.backends:
                yield route, str(UnknownBackend(backend, names.backends))


def broken_sharing(storage: StorageSettings, names: StorageNames) -> list[BrokenRule]:
    """Return the rule that collections which belong together share one backend, if it does not hold."""
    places = {name: storage.routes.get(name, storage.backend) for name in names.together}
    if len(set(places.values())) <= 1:
        return []
    listed = " and ".join(f"{name} ({backend})" for name, backend in places.items())
    return [BrokenRule((ROUTES, BACKEND), f"{listed} must share one backend")]


def routing_problems(storage: StorageSettings, names: StorageNames, source: str) -> list[ConfigurationProblem]:
    """Return everything that is wrong with the routes of settings that were built by hand."""
    values: dict[str, object] = {BACKEND: storage.backend, ROUTES: storage.routes}
    problems = [
        ConfigurationProblem(source, dotted, shown, text)
        for dotted, value in values.items()
        for shown, text in unknown_names(dotted, value, names)
    ]
    rules = [] if problems else broken_sharing(storage, names)
    return problems + [ConfigurationProblem(source, ROUTES, repr(dict(storage.routes)), rule.text) for rule in rules]

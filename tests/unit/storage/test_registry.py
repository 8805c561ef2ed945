"""The registry: which backend holds a collection, and what is said about a name that is not known."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from persistence_service.errors import UnknownBackend, UnknownCollection
from persistence_service.storage import registry as registry_module
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.registry import StorageRegistry, plugins


@pytest.fixture
def registry() -> StorageRegistry:
    registry = StorageRegistry()
    registry.register("one", MemoryBackend)
    registry.register("two", MemoryBackend)
    return registry


def test_collections_of_one_route_share_one_backend(registry: StorageRegistry) -> None:
    registry.route_all("one", {})
    assert registry.backend_for(SESSIONS) is registry.backend_for(TASKS)


def test_an_exception_goes_to_its_own_backend(registry: StorageRegistry) -> None:
    registry.route_all("one", {TASKS.name: "two"})
    assert registry.backend_for(SESSIONS) is not registry.backend_for(TASKS)


def test_a_backend_is_constructed_when_something_is_routed_to_it(registry: StorageRegistry) -> None:
    made: list[StorageBackend] = []

    def make() -> StorageBackend:
        made.append(MemoryBackend())
        return made[-1]

    registry.register("two", make)
    registry.route(SESSIONS.name, "one")
    assert made == []
    registry.route(TASKS.name, "two")
    assert made == [registry.backend_for(TASKS)]


def test_a_later_registration_replaces_an_earlier(registry: StorageRegistry) -> None:
    kept = MemoryBackend()
    registry.register("one", lambda: kept)
    registry.route(TASKS.name, "one")
    assert registry.backend_for(TASKS) is kept


def test_an_unknown_backend_is_answered_with_the_known_ones(registry: StorageRegistry) -> None:
    with pytest.raises(UnknownBackend, match="'three'; known are: one, two") as caught:
        registry.route_all("three", {})
    assert (caught.value.name, caught.value.known) == ("three", ("one", "two"))


def test_an_unknown_collection_is_answered_with_the_known_ones(registry: StorageRegistry) -> None:
    with pytest.raises(UnknownCollection, match=r"'tusks'; known are: .*translation_tasks") as caught:
        registry.route_all("one", {"tusks": "two"})
    assert caught.value.name == "tusks"


def test_a_collection_that_was_never_routed_is_unknown(registry: StorageRegistry) -> None:
    registry.route(SESSIONS.name, "one")
    with pytest.raises(UnknownCollection, match="known are: translation_sessions"):
        registry.backend_for(TASKS)


def test_plugins_of_other_packages_are_found_by_their_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", "persistence_service.storage.memory:MemoryBackend", registry_module.ENTRY_POINT_GROUP)

    def entry_points(*, group: str) -> EntryPoints:
        return EntryPoints([entry]).select(group=group)

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    assert plugins() == {"theirs": MemoryBackend}

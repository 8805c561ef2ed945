"""Names of backends and collections are problems like all others: with their source, and all at once."""

from __future__ import annotations

import pytest

from persistence_service.errors import ConfigurationProblem
from persistence_service.settings import StorageNames, StorageSettings, routing_problems
from tests.unit.settings.conftest import Place

KNOWN = StorageNames(("sqlite", "memory"), ("books", "pages", "notes"), together=("books", "pages"))
BACKENDS = "known are: memory, sqlite"
COLLECTIONS = "known are: books, notes, pages"
BACKEND, ROUTES = "PERSISTENCE_STORAGE__BACKEND", "PERSISTENCE_STORAGE__ROUTES"


def test_every_unknown_name_is_told_with_its_source_beside_all_other_problems(place: Place) -> None:
    place.write(
        "config/config.yaml", "storage:\n  backend: postgres\n  routes: {shelves: memory}\nbuffer:\n  ack: maybe\n"
    )
    problems = place.problems({BACKEND: "oracle", ROUTES: "notes=redis,shops=disk"}, known=KNOWN)
    unknown = [problem for problem in problems if problem.key != "buffer.ack"]
    assert len(problems) == len(unknown) + 1
    assert unknown == [
        ConfigurationProblem(
            f"environment {BACKEND}", "storage.backend", "'oracle'", f"there is no storage backend 'oracle'; {BACKENDS}"
        ),
        ConfigurationProblem(
            f"environment {ROUTES}",
            "storage.routes",
            "'notes: redis'",
            f"there is no storage backend 'redis'; {BACKENDS}",
        ),
        ConfigurationProblem(
            f"environment {ROUTES}", "storage.routes", "'shops: disk'", f"there is no collection 'shops'; {COLLECTIONS}"
        ),
        ConfigurationProblem(
            f"environment {ROUTES}",
            "storage.routes",
            "'shops: disk'",
            f"there is no storage backend 'disk'; {BACKENDS}",
        ),
        ConfigurationProblem(
            "config/config.yaml line 2",
            "storage.backend",
            "'postgres'",
            f"there is no storage backend 'postgres'; {BACKENDS}",
        ),
        ConfigurationProblem(
            "config/config.yaml line 3",
            "storage.routes",
            "'shelves: memory'",
            f"there is no collection 'shelves'; {COLLECTIONS}",
        ),
    ]


def test_what_belongs_together_and_is_apart_is_told_beside_all_other_problems(place: Place) -> None:
    problems = place.problems({ROUTES: "pages=memory", "PERSISTENCE_SERVICE__PORT": "x"}, known=KNOWN)
    assert [(problem.source, problem.key) for problem in problems] == [
        ("environment PERSISTENCE_SERVICE__PORT", "service.port"),
        (f"environment {ROUTES}", "storage.routes"),
    ]
    assert problems[1].allowed == "books (sqlite) and pages (memory) must share one backend"


def test_over_a_name_that_is_unknown_nothing_is_said_of_what_belongs_together(place: Place) -> None:
    problem = place.problem({ROUTES: "pages=disk"}, known=KNOWN)
    assert problem.allowed == f"there is no storage backend 'disk'; {BACKENDS}"


@pytest.mark.parametrize("routes", ["", "notes=memory", "books=memory,pages=memory", "pages=sqlite"])
def test_routes_that_can_be_are_taken(place: Place, routes: str) -> None:
    loaded = place.load({ROUTES: routes}, known=KNOWN)
    assert routing_problems(loaded.settings.storage, KNOWN, "here") == []


def test_without_knowing_what_there_is_any_name_is_taken(place: Place) -> None:
    assert place.load({BACKEND: "postgres"}).settings.storage.backend == "postgres"


@pytest.mark.parametrize(
    "storage,count",
    [
        (StorageSettings(backend="postgres", routes={"shelves": "disk", "notes": "memory"}), 3),
        (StorageSettings(routes={"pages": "memory"}), 1),
    ],
)
def test_settings_built_by_hand_are_told_all_at_once_too(storage: StorageSettings, count: int) -> None:
    problems = routing_problems(storage, KNOWN, "here")
    assert [problem.source for problem in problems] == ["here"] * count

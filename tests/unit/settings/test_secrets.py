"""Secrets: read from files, and never shown, however they were misplaced or misspelt."""

from __future__ import annotations

import pytest

from tests.unit.settings.conftest import Place

SECRET = "hunter2"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_comes_from_a_file_without_its_last_line_break(place: Place, end: str) -> None:
    place.write("secret", f" {SECRET} {end}")
    loaded = place.load({"PERSISTENCE_DATABASE__PASSWORD_FILE": "secret"})
    assert loaded.settings.database.password.get_secret_value() == f" {SECRET} "
    assert loaded.sources["database.password"] == "environment PERSISTENCE_DATABASE__PASSWORD_FILE"


def test_a_secret_file_can_be_named_in_yaml_and_dotenv_and_follows_precedence(place: Place) -> None:
    one, two = place.write("one", "1"), place.write("two", "2")
    place.write("config/config.yaml", f"database:\n  password_file: {one}\n")
    assert place.load().settings.database.password.get_secret_value() == "1"
    place.write(".env", f"PERSISTENCE_DATABASE__PASSWORD_FILE={two}\n")
    assert place.load().settings.database.password.get_secret_value() == "2"
    environ = {"PERSISTENCE_DATABASE__PASSWORD": "3"}
    assert place.load(environ).settings.database.password.get_secret_value() == "3"


def test_a_secret_and_its_file_in_one_place_are_a_problem(place: Place) -> None:
    place.write("secret", SECRET)
    environ = {"PERSISTENCE_DATABASE__PASSWORD": "x", "PERSISTENCE_DATABASE__PASSWORD_FILE": "secret"}
    assert "not both" in place.problem(environ).allowed


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("dir/none", None, "No such file"),
        ("dir/big", b"x" * 65_537, "larger than 64 KiB"),
        ("dir/binary", b"\xff\xfe", "not UTF-8"),
        ("", None, "must be a text"),
        ("a/\0", None, "null"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_a_problem(
    place: Place, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        place.write(name, content)
    problem = place.problem({"PERSISTENCE_DATABASE__PASSWORD_FILE": name})
    assert problem.key == "database.password_file"
    assert reason in problem.allowed


def test_a_secret_file_must_be_named_by_a_text(place: Place) -> None:
    place.write("config/config.yaml", "database: {password_file: [a]}")
    assert "must be a text" in place.problem().allowed


@pytest.mark.parametrize(
    "environ, yaml",
    [
        ({"PERSISTENCE_DATABASE__PASWORD": SECRET}, ""),
        ({"PERSISTENCE_DATABASE__PASSWD": SECRET}, ""),
        ({"PERSISTENCE_DATABASE__PASSWORD_FILE": SECRET}, ""),
        ({"PERSISTENCE_ZZZ__API_KEY": SECRET}, ""),
        ({"PERSISTENCE_database__password": SECRET}, ""),
        ({"PERSISTENCE_DATABASE__HOST": f"mysql://root:{SECRET}@db/x"}, ""),
        ({}, f"database: {{password: [{SECRET}]}}"),
        ({}, f"database: {{password: {{a: {SECRET}}}}}"),
        ({}, f"database: {{extra: {{password: {SECRET}}}}}"),
        ({}, f"database: {{password: [[{SECRET}]]}}"),
        ({}, f"database: {{password: x, password: {SECRET}}}"),
        ({}, f"password: {SECRET}"),
        ({}, f"database: {SECRET}"),
        ({}, f"database: {{password: *{SECRET}}}"),
        ({}, f"database: {{password: !{SECRET} x}}"),
        ({}, f"database:\n  password: '{SECRET}"),
        ({}, f"database:\n  password: {SECRET}: x"),
        ({}, SECRET),
    ],
)
def test_a_secret_is_shown_in_no_problem(place: Place, environ: dict[str, str], yaml: str) -> None:
    place.write("config/config.yaml", yaml)
    problem = place.problem(environ)
    assert SECRET not in str(problem)
    assert SECRET not in repr(problem)


def test_a_secret_in_a_broken_line_of_dotenv_is_not_shown(place: Place) -> None:
    place.write(".env", f"PERSISTENCE_DATABASE__PASSWORD='{SECRET}\n")
    assert SECRET not in str(place.problem())


def test_long_and_strange_values_are_cut_and_escaped(place: Place) -> None:
    value = place.problem({"PERSISTENCE_SERVICE__HOST": "a\n" + "b" * 500}).value
    assert value.startswith("'a\\nbb")
    assert value.endswith("…")
    assert len(value) == 80

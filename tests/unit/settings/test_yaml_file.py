"""The YAML file: text as it stands, and every way to get it wrong with its line."""

from __future__ import annotations

import pytest

from persistence_service.settings import Settings
from tests.unit.settings.conftest import Place


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "---\n", "null\n", "service:\nbuffer: ~\nstorage: {}\n", "\ufeff"]
)
def test_a_file_or_section_without_keys_changes_nothing(place: Place, content: str) -> None:
    place.write("config/config.yaml", content)
    assert place.load().settings == Settings()


def test_values_are_the_text_that_stands_there(place: Place) -> None:
    place.write(
        "config/config.yaml",
        "database:\n  user: no\n  password: 0123\n  database: 1:30\n  host: [db1, 'db2:3307']\n"
        "logging: {file: null}\nstorage: {routes: {translation_cache: memory}, migrate_on_start: off}\n",
    )
    settings = place.load().settings
    assert settings.database.user == "no"
    assert settings.database.password.get_secret_value() == "0123"
    assert settings.database.database == "1:30"
    assert settings.database.host == ("db1", "db2:3307")
    assert settings.logging.file is None
    assert settings.storage.routes == {"translation_cache": "memory"}
    assert settings.storage.migrate_on_start is False


@pytest.mark.parametrize(
    "content, line, key, words",
    [
        ("service: {port: [}", 1, "(file)", "valid YAML"),
        ("a\n---\nb", 2, "(file)", "valid YAML"),
        ("service:\n  port: 1\n\tx: 2", 3, "(file)", "valid YAML"),
        ("- a", 1, "(file)", "a mapping of section to keys"),
        ("text", 1, "(file)", "a mapping of section to keys"),
        ("service: 5", 1, "service", "a mapping of keys: host, port"),
        ("servce:\n  port: 1", 2, "servce", "did you mean service?"),
        ("service.port: 1", 1, "service.port", "write port as a key below service"),
        ("port: 1", 1, "port", "did you mean service.port?"),
        ("zzzzz: 1", 1, "zzzzz", "the sections are service"),
        ("service:\n  prt: 1", 2, "service.prt", "did you mean service.port?"),
        ("service:\n  port: 1\n  port: 2", 3, "service.port", "given once; line 2 has it already"),
        ("service: {port: 1}\nservice: {port: 2}", 2, "service", "given once; line 1 has it already"),
        ("storage:\n  routes:\n    a: b\n    a: c", 4, "storage.routes.a", "given once"),
        ("service:\n  ? [a]\n  : b", 2, "service.?", "a key is a text"),
        ("service:\n  port: [[1]]", 2, "service.port", "nested deeper"),
        ("service: &s\n  port: *s", 1, "service.port", "nested deeper"),
        ("service:\n  port: !env PORT", 2, "service.port", "without a YAML tag"),
        ("service:\n  port:", 2, "service.port", "a whole number"),
        ("service:\n  port: {a: 1}", 2, "service.port", "a whole number"),
    ],
)
def test_a_mistake_is_told_with_its_line(place: Place, content: str, line: int, key: str, words: str) -> None:
    place.write("config/config.yaml", content)
    problem = place.problem()
    assert problem.source == f"config/config.yaml line {line}"
    assert problem.key == key
    assert words in problem.allowed


@pytest.mark.parametrize("content", [b"service: \xff", b"service: \x01", b"[" * 100_000])
def test_a_file_that_is_no_yaml_at_all_is_a_problem(place: Place, content: bytes) -> None:
    place.write("config/config.yaml", content)
    problem = place.problem()
    assert problem.source.startswith("config/config.yaml")
    assert "valid YAML" in problem.allowed

"""Code, ``config/config.yaml`` and ``docs/configuration.md`` say the same, and the examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from persistence_service.errors import ConfigurationError
from persistence_service.settings import KEYS, Settings, configuration_file, load_settings, markdown_table

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "config.yaml"
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def test_the_configuration_file_is_what_the_models_say() -> None:
    assert CONFIG.read_text(encoding="utf-8") == configuration_file()


def test_the_document_has_the_table_that_the_models_make() -> None:
    between = DOCUMENT.partition("<!-- settings:begin -->\n")[2].partition("<!-- settings:end -->")[0]
    assert between == markdown_table()


def test_the_configuration_file_names_every_key_and_no_other() -> None:
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert [f"{section}.{name}" for section, keys in content.items() for name in keys] == list(KEYS)


def test_the_configuration_file_loads_as_the_defaults() -> None:
    loaded = load_settings(environ={}, directory=ROOT, config_path=CONFIG)
    assert loaded.settings == Settings()
    assert loaded.unused == ()
    assert all("config.yaml line" in source for source in loaded.sources.values())


@pytest.mark.parametrize("dotted", KEYS)
def test_every_key_stands_in_file_and_document_with_its_default_and_range(dotted: str) -> None:
    key = KEYS[dotted]
    section = configuration_file().partition(f"\n{key.section}:\n")[2].partition("\n\n")[0]
    comment = section.partition(f"\n  {key.name}: {key.default_text}")[0].rpartition(": ")[2]
    assert key.bounds in comment.replace("\n  # ", " ")
    table = DOCUMENT.partition(f"### {key.section}\n")[2].partition("###")[0]
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{key.name}` |")]
    assert f"| `{key.default_text}` |" in row
    assert key.bounds in row
    assert key.description in row


def test_the_examples_in_yaml_and_in_the_environment_mean_the_same(tmp_path: Path) -> None:
    (example,) = _blocks("yaml")
    variables, secret = _blocks("sh")
    (tmp_path / "example.yaml").write_text(example)
    from_yaml = load_settings(environ={}, config_path=Path("example.yaml"), directory=tmp_path)
    (tmp_path / ".env").write_text(variables)
    from_dotenv = load_settings(environ={}, directory=tmp_path)
    assert from_yaml.settings == from_dotenv.settings != Settings()
    password = tmp_path / "password"
    password.write_text("secret\n")
    (tmp_path / ".env").write_text(secret.replace("/run/secrets/database_password", str(password)))
    loaded = load_settings(environ={}, directory=tmp_path)
    assert loaded.settings.database.password.get_secret_value() == "secret"


def test_the_example_of_a_refused_start_is_a_real_one(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(
        "# mine\nbuffer:\n  flush_interval: soon\ndatabase:\n  pool_min: 50\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={"PERSISTENCE_BUFER__ACK": "journal"}, directory=tmp_path)
    assert _blocks("text") == [f"{caught.value}\n"]

"""`load_settings`: every source in its order of precedence, and one error that lists everything wrong in any of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from persistence_service.errors import ConfigurationError, ConfigurationProblem
from persistence_service.settings.environment import CONFIG_VARIABLE, read_dotenv, read_environment, read_flags
from persistence_service.settings.keys import KEYS, SECTIONS, shown
from persistence_service.settings.layer import Found, Layer
from persistence_service.settings.model import Section, Settings
from persistence_service.settings.routing import StorageNames, broken_sharing, unknown_names
from persistence_service.settings.rules import BrokenRule, broken_rules
from persistence_service.settings.yaml_file import DEFAULT_CONFIG, read_yaml

DEFAULT_SOURCE = "default"
_MYSQL = "mysql"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Valid settings and where each came from.

    `sources` has every dotted key; those that nothing sets are from "default". `unused` are the ``database.*`` keys that
    somebody set although no collection is held by the backend mysql: worth a warning at start.
    """

    settings: Settings
    sources: Mapping[str, str]
    unused: tuple[str, ...]


def load_settings(
    *,
    flags: Mapping[str, object] = MappingProxyType({}),
    named_flags: Mapping[str, object] = MappingProxyType({}),
    config_path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    directory: Path = Path(),
    known: StorageNames | None = None,
) -> LoadedSettings:
    """Return the settings of command line, environment, ``.env``, YAML file and defaults, the earlier before the later.

    `flags` are the values of ``--set`` by dotted key; `named_flags` those of `NAMED_FLAGS`, by their names, None for one not
    given. Both setting a key to different values is a problem. The YAML file is `config_path` (the flag ``--config``), else
    PERSISTENCE_CONFIG of the environment or of ``.env``, else ``config/config.yaml`` if there is one; relative paths of
    configuration and secrets start at `directory`. Values that a stronger source overrides are checked all the same. With
    `known`, the names of backends and collections are checked too.

    Raises:
        ConfigurationError: unknown keys, bad values, files that cannot be read, rules between keys: all of them at once.
    """
    dotenv, dotenv_config = read_dotenv(directory)
    yaml = _read_config(config_path, environ.get(CONFIG_VARIABLE), dotenv_config, directory)
    layers = (read_flags(flags, named_flags), read_environment(environ), dotenv, yaml)
    problems: list[ConfigurationProblem] = []
    for layer in layers:
        layer.read_secret_files(directory)
        problems += layer.problems
        problems += _bad_values(layer)
        problems += _unknown_names(layer, known)
    chosen = {dotted: found for layer in reversed(layers) for dotted, found in layer.values.items()}
    good = {dotted: found for dotted, found in chosen.items() if not _is_bad(dotted, found.value)}
    sections = _build_sections(good)
    unchecked = Settings.model_construct(None, **sections)
    rules = broken_rules(unchecked)
    if known is not None and not any(_unnamed(dotted, found, known) for dotted, found in good.items()):
        rules += broken_sharing(unchecked.storage, known)
    problems += _rule_problems(rules, good, bad=chosen.keys() - good.keys())
    if problems:
        raise ConfigurationError(problems)
    settings = Settings.model_validate(sections)
    sources = {dotted: chosen[dotted].source if dotted in chosen else DEFAULT_SOURCE for dotted in KEYS}
    return LoadedSettings(settings, MappingProxyType(sources), _unused(settings, layers))


def _read_config(flag: Path | None, variable: str | None, dotenv_variable: str | None, directory: Path) -> Layer:
    if flag is not None:
        asked, path = "command line --config", flag
    elif variable:
        asked, path = f"environment {CONFIG_VARIABLE}", Path(variable)
    elif dotenv_variable:
        asked, path = ".env", Path(dotenv_variable)
    else:
        asked, path = "", DEFAULT_CONFIG
    try:
        return read_yaml(directory / path, str(path))
    except (OSError, ValueError) as error:
        layer = Layer()
        if asked or not isinstance(error, FileNotFoundError):
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            layer.problem(asked or str(path), "config", repr(str(path)), f"a YAML file that can be read: {reason}")
        return layer


def _is_bad(dotted: str, value: object) -> bool:
    try:
        KEYS[dotted].check(value)
    except ValidationError:
        return True
    return False


def _bad_values(layer: Layer) -> list[ConfigurationProblem]:
    return [
        ConfigurationProblem(found.source, dotted, shown(dotted, found.value), KEYS[dotted].allowed)
        for dotted, found in layer.values.items()
        if _is_bad(dotted, found.value)
    ]


def _unknown_names(layer: Layer, known: StorageNames | None) -> list[ConfigurationProblem]:
    return [
        ConfigurationProblem(found.source, dotted, what, text)
        for dotted, found in layer.values.items()
        if known is not None and not _is_bad(dotted, found.value)
        for what, text in _unnamed(dotted, found, known)
    ]


def _unnamed(dotted: str, found: Found, known: StorageNames) -> list[tuple[str, str]]:
    return list(unknown_names(dotted, KEYS[dotted].check(found.value), known))


def _build_sections(good: Mapping[str, Found]) -> dict[str, Section]:
    values: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for dotted, found in good.items():
        section, _, name = dotted.partition(".")
        values[section][name] = found.value
    return {section: model.model_validate(values[section]) for section, model in SECTIONS.items()}


def _rule_problems(
    broken: Sequence[BrokenRule], good: Mapping[str, Found], bad: set[str]
) -> list[ConfigurationProblem]:
    """Return the broken rules as problems, each laid to the first of its keys that somebody set; rules over a bad value are moot."""
    problems = []
    for rule in broken:
        if bad.isdisjoint(rule.keys):
            key = next((key for key in rule.keys if key in good), rule.keys[0])
            found = good.get(key) or Found(DEFAULT_SOURCE, KEYS[key].default_text)
            problems.append(ConfigurationProblem(found.source, key, shown(key, found.value), rule.text))
    return problems


def _unused(settings: Settings, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the database keys that are set in vain.

    A file may list every key with its default, as ours does: there only another value counts as set.
    """
    if _MYSQL in (settings.storage.backend, *settings.storage.routes.values()):
        return ()
    *spoken, file = layers
    changed = {dotted for dotted in file.values if _differs(dotted, settings)}
    keys = changed.union(*(layer.values for layer in spoken))
    return tuple(dotted for dotted, key in KEYS.items() if key.section == "database" and dotted in keys)


def _differs(dotted: str, settings: Settings) -> bool:
    section, _, name = dotted.partition(".")
    return bool(getattr(getattr(settings, section), name) != getattr(SECTIONS[section](), name))

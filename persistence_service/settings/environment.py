"""Settings from the environment, from a ``.env`` file and from the command line.

Only names of the form ``PERSISTENCE_<SECTION>__<KEY>`` are settings. Names with single underscores are none of ours:
Kubernetes, for one, sets ``PERSISTENCE_SERVICE_PORT`` in every container beside a Service of the name *persistence*.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from persistence_service.settings.keys import (
    ENVIRONMENT_PREFIX,
    FILE_SUFFIX,
    KEYS,
    NAMED_FLAGS,
    environment_name,
    nearest,
    shown,
)
from persistence_service.settings.layer import Found, Layer

CONFIG_VARIABLE = "PERSISTENCE_CONFIG"
DOTENV_FILE = ".env"

_DOTTED = {
    **{key.environment_name: dotted for dotted, key in KEYS.items()},
    **{environment_name(dotted + FILE_SUFFIX): dotted + FILE_SUFFIX for dotted, key in KEYS.items() if key.is_secret},
}


def read_flags(flags: Mapping[str, object], named: Mapping[str, object]) -> Layer:
    """Take the values of ``--set`` by dotted key, and those of named flags, None for one not given; they may not contradict."""
    layer = Layer()
    for name, value in named.items():
        if value is not None:
            layer.add(NAMED_FLAGS[name], Found(f"command line {name}", value))
    names = {NAMED_FLAGS[name]: name for name in named}
    for dotted, value in flags.items():
        source = f"command line --set {dotted}"
        other = layer.values.get(dotted)
        if other is None:
            layer.add(dotted, Found(source, value))
        elif str(other.value) != str(value):
            theirs = shown(dotted, other.value)
            layer.problem(source, dotted, shown(dotted, value), f"given once; {names[dotted]} says {theirs}")
    return layer


def read_environment(environ: Mapping[str, str]) -> Layer:
    """Take the settings among the environment's variables, in the order of their names."""
    layer = Layer()
    for name in sorted(environ):
        _add(layer, name, environ[name], f"environment {name}")
    return layer


def read_dotenv(directory: Path) -> tuple[Layer, str | None]:
    """Take the settings of ``.env`` in `directory`, and its PERSISTENCE_CONFIG; both are empty when there is no such file.

    Values are taken as they stand: ``$`` has no meaning. Of a name given twice the later value counts, as in a shell.
    """
    layer = Layer()
    try:
        text = (directory / DOTENV_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return layer, None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        layer.problem(DOTENV_FILE, "(file)", "(not read)", f"a file that can be read: {reason}")
        return layer, None
    config = None
    for binding in parse_stream(StringIO(text)):
        blanks = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blanks].count("\n")
        source = f"{DOTENV_FILE} line {line}"
        if binding.error or (binding.value is None and _is_setting(binding.key or "")):
            layer.problem(source, "(line)", "(not shown)", "NAME=value, a comment or an empty line")
        elif binding.key == CONFIG_VARIABLE:
            config = binding.value
        elif binding.key is not None and binding.value is not None:
            _add(layer, binding.key, binding.value, source)
    return layer, config


def _is_setting(name: str) -> bool:
    return name.upper().startswith(ENVIRONMENT_PREFIX) and "__" in name


def _add(layer: Layer, name: str, value: str, source: str) -> None:
    if name in _DOTTED:
        layer.add(_DOTTED[name], Found(source, value))
        return
    if not _is_setting(name):
        return
    dotted = name[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".", 1)
    meant = dotted if environment_name(dotted) in _DOTTED else nearest(dotted)
    layer.add_unknown(dotted, Found(source, value), written=name, meant=environment_name(meant) if meant else None)

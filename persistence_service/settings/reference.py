"""The written reference of all settings: ``config/config.yaml`` and the table of ``docs/configuration.md``.

Both are made from the models, and a test keeps the files equal to what these functions return::

    python -c "from persistence_service.settings import configuration_file; print(configuration_file(), end='')"
    python -c "from persistence_service.settings import markdown_table; print(markdown_table(), end='')"
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from persistence_service.settings.keys import FILE_SUFFIX, KEYS, SECTIONS, Key, environment_name

_WIDTH = 110

_HEADER = """\
# Configuration of the persistence service: every key with its default.
#
# Command-line flags, environment variables (PERSISTENCE_<SECTION>__<KEY>) and .env come before this file.
# Sizes: 64MiB (1024) or 64MB (1000), a plain number is bytes. Durations: 500ms, 30s, 5m, 2h, 1d, a plain number is seconds.
# Unknown keys and values out of range stop the start. More in docs/configuration.md.
"""


def configuration_file() -> str:
    """Return the text of ``config/config.yaml``: each key with its default, what it does, its form and its range."""
    return _HEADER + "".join(f"\n{_yaml_section(section)}" for section in SECTIONS)


def markdown_table() -> str:
    """Return a Markdown table of every key, by section."""
    return "\n".join(_markdown_section(section) for section in SECTIONS)


def _yaml_section(section: str) -> str:
    lines = [f"# {SECTIONS[section].__doc__}", f"{section}:"]
    for key in _keys_of(section):
        lines += [f"  # {line}" for line in textwrap.wrap(f"{key.description} {_form(key)}.", _WIDTH)]
        lines.append(f"  {key.name}: {key.default_text}")
    return "\n".join(lines) + "\n"


def _markdown_section(section: str) -> str:
    rows = [
        f"| `{key.name}` | `{key.default_text}` | {_form(key)} | {key.description}{_secret_file(key)} |"
        for key in _keys_of(section)
    ]
    head = f"### {section}\n\n{SECTIONS[section].__doc__}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _secret_file(key: Key) -> str:
    return f" From a file: `{environment_name(key.dotted + FILE_SUFFIX)}`." if key.is_secret else ""


def _form(key: Key) -> str:
    text = f"{key.kind.noun}, {key.bounds}" if key.bounds else key.kind.noun
    return text[0].upper() + text[1:]


def _keys_of(section: str) -> Iterator[Key]:
    return (key for key in KEYS.values() if key.section == section)

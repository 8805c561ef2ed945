"""Settings from a YAML file: sections of keys, each value with the line it stands in.

Scalars are taken as the text that stands there and read like the environment's, so that ``no``, ``0123`` or ``1:30`` never
turn into something else on the way. ``null``, ``~`` and nothing at all are null.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from persistence_service.settings.keys import SECTIONS, shown
from persistence_service.settings.layer import Found, Layer

DEFAULT_CONFIG = Path("config", "config.yaml")

_STANDARD_TAG = "tag:yaml.org,2002:"
_NULL_TAG = _STANDARD_TAG + "null"


def read_yaml(path: Path, name: str) -> Layer:
    """Take the settings of the file at `path`, which messages call `name`.

    Raises:
        OSError: the file cannot be read.
    """
    layer = Layer()
    content = path.read_bytes()
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        _note_invalid(layer, error, name)
        return layer
    except RecursionError:
        layer.problem(name, "(file)", "(not shown)", "valid YAML: it is nested too deeply")
        return layer
    if root is None or (isinstance(root, ScalarNode) and root.tag == _NULL_TAG):
        return layer
    if not isinstance(root, MappingNode):
        layer.problem(f"{name} line {_line(root)}", "(file)", "(not shown)", "a mapping of section to keys")
        return layer
    for section, node in _entries(layer, root, name):
        _read_section(layer, section, node, name)
    return layer


def _read_section(layer: Layer, section: str, node: Node, name: str) -> None:
    source = f"{name} line {_line(node)}"
    if section not in SECTIONS:
        layer.add_unknown_section(section, source)
    elif isinstance(node, MappingNode):
        for key, value in _entries(layer, node, name, prefix=f"{section}."):
            dotted = f"{section}.{key}"
            try:
                raw = _raw(layer, value, name, dotted)
            except ValueError as error:
                layer.problem(f"{name} line {_line(value)}", dotted, "(not shown)", str(error))
            else:
                layer.add(dotted, Found(f"{name} line {_line(value)}", raw))
    elif not (isinstance(node, ScalarNode) and node.tag == _NULL_TAG):
        layer.problem(source, section, "(not shown)", f"a mapping of keys: {', '.join(SECTIONS[section].model_fields)}")


def _entries(layer: Layer, mapping: MappingNode, name: str, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Yield the entries of a mapping in order; one that repeats a key is a problem and not yielded."""
    lines: dict[str, int] = {}
    for key_node, value in mapping.value:
        source = f"{name} line {_line(key_node)}"
        if not isinstance(key_node, ScalarNode):
            layer.problem(source, f"{prefix}?", "(not shown)", "a key is a text")
        elif key_node.value in lines:
            dotted = prefix + key_node.value
            text = shown(dotted, value.value) if isinstance(value, ScalarNode) else "(not shown)"
            layer.problem(source, dotted, text, f"given once; line {lines[key_node.value]} has it already")
        else:
            lines[key_node.value] = _line(key_node)
            yield key_node.value, value


def _raw(layer: Layer, node: Node, name: str, dotted: str) -> object:
    """Return a scalar's text, or a list or mapping of such.

    Raises:
        ValueError: it is nested deeper than any setting, or has a tag of its own.
    """
    if isinstance(node, SequenceNode):
        return [_scalar(item) for item in node.value]
    if isinstance(node, MappingNode):
        return {key: _scalar(value) for key, value in _entries(layer, node, name, prefix=f"{dotted}.")}
    return _scalar(node)


def _scalar(node: Node) -> str | None:
    if not isinstance(node, ScalarNode):
        raise ValueError("a value, or a list or mapping of values; this is nested deeper")  # noqa: TRY004 - caught above
    if not node.tag.startswith(_STANDARD_TAG):
        raise ValueError("a value without a YAML tag")
    return None if node.tag == _NULL_TAG else str(node.value)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _note_invalid(layer: Layer, error: Exception, name: str) -> None:
    mark = getattr(error, "problem_mark", None)
    source = name if mark is None else f"{name} line {mark.line + 1}"
    # What the parser quotes may be a part of a secret.
    problem = re.sub(r"'[^']{2,}'", "'…'", getattr(error, "problem", None) or "it is not text")
    layer.problem(source, "(file)", "(not shown)", f"valid YAML: {problem}")

"""The kinds of values a setting can have, each with the words in which messages and documents speak of it.

A kind is an annotated type: validators that read every form a source may deliver (YAML, environment and command line
all deliver text), and one `Kind` that says what is allowed and how to write a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, cast

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, SecretStr

from persistence_service.settings.units import format_duration, format_size, parse_duration, parse_size

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PLUGIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ORIGIN = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]@?#]+)(?::([0-9]{1,5}))?")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+))(?::([0-9]{1,5}))?")
_IPV6_FIRST = re.compile(r"\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]")  # an address, and no JSON
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Kind:
    """How messages and documents speak of a setting: what it is, how a value of it is written, and a hint at its forms."""

    noun: str
    show: Callable[[object], str] = str
    hint: str = ""


# ---------------------------------------------------------------------------------------------------- readers


def _whole_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")  # noqa: TRY004 - pydantic collects ValueError
    return value


def _text(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError("empty, with blanks at its ends, or with control characters")
    return value


def _path(value: object) -> object:
    if isinstance(value, str):
        if not value.strip() or "\0" in value:
            raise ValueError("not a path")
        return Path(value)
    return value


def _database_file(path: Path) -> Path:
    if path.name == ":memory:":
        raise ValueError("a database in memory would not outlive the process")
    return path


def _optional_path(value: object) -> object:
    return None if value in ("", "null") else _path(value)


def _plugin_name(value: str) -> str:
    if _PLUGIN_NAME.fullmatch(value) is None:
        raise ValueError("not a name")
    return value


def _items(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("[") and not _IPV6_FIRST.match(text):
        return _json(text)
    return [item.strip() for item in text.split(",")] if text else []


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{"):
        return _json(text)
    pairs = [item.partition("=") for item in text.split(",")] if text else []
    found = {name.strip(): target.strip() for name, _, target in pairs}
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _json(text: str) -> object:
    try:
        return cast("object", json.loads(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _frozen(value: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(value))


def _host(value: str) -> str:
    """Return the name or address in lower case, without the brackets of an IPv6 address."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        return str(ip_address(bare))
    except ValueError:
        labels = value.removesuffix(".").split(".")
        if len(value) > 253 or labels[-1].isdigit() or any(_LABEL.fullmatch(label) is None for label in labels):
            raise ValueError("not a host name") from None
        return value.lower()


def split_address(address: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address; the port is None where none is named.

    Raises:
        ValueError: it is none of these.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return _host(address), None
    port = int(match[3]) if match[3] else None
    if port is not None and not 1 <= port <= _MAX_PORT:
        raise ValueError("not a port")
    return _host(match[1] or match[2]), port


def _address(value: str) -> str:
    split_address(value)
    return value


def _origin(value: str) -> str:
    match = _ORIGIN.fullmatch(value)
    if match is None or (match[3] and not 1 <= int(match[3]) <= _MAX_PORT):
        raise ValueError("not an origin")
    _host(match[2])
    return value.lower()


# ------------------------------------------------------------------------------------------------------ kinds


def _show_list(value: object) -> str:
    return f"[{', '.join(cast('tuple[str, ...]', value))}]"


def _show_addresses(value: object) -> str:
    addresses = cast("tuple[str, ...]", value)
    return addresses[0] if len(addresses) == 1 else _show_list(addresses)


def _show_pairs(value: object) -> str:
    return "{" + ", ".join(f"{name}: {target}" for name, target in cast("Mapping[str, str]", value).items()) + "}"


def choice_kind(choices: type[StrEnum]) -> Kind:
    """Return the kind of an enumeration; any case is read."""
    return Kind("one of " + ", ".join(member.value for member in choices))


Count = Annotated[int, BeforeValidator(_whole_number), Kind("a whole number")]
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Kind(
        "a duration",
        lambda value: format_duration(cast("float", value)),
        "such as 500ms, 30s, 5m, 2h or 1d; a plain number is seconds",
    ),
]
Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    Kind(
        "a size",
        lambda value: format_size(cast("int", value)),
        "such as 64MiB (1024) or 64MB (1000); a plain number is bytes",
    ),
]
Switch = Annotated[bool, Kind("true or false", lambda value: str(value).lower())]
Text = Annotated[
    str, AfterValidator(_text), Kind("a text", hint="not empty, no blanks at its ends, no control characters")
]
Secret = Annotated[SecretStr, Kind("a secret", lambda _: '""', "also from a file: the same name with _FILE added")]
Directory = Annotated[Path, BeforeValidator(_path), Kind("a directory")]
DatabaseFile = Annotated[
    Path, BeforeValidator(_path), AfterValidator(_database_file), Kind("a file", hint="not :memory:")
]
OptionalFile = Annotated[
    Path | None,
    BeforeValidator(_optional_path),
    Kind("a file", lambda value: "null" if value is None else str(value), 'or null or "" for none'),
]
Host = Annotated[str, AfterValidator(_host), Kind("a host name or IP address", hint="without a port")]
HostList = Annotated[
    tuple[Annotated[str, AfterValidator(_host)], ...],
    BeforeValidator(_items),
    Kind("a list of host names or IP addresses", _show_list, "without ports and wildcards"),
]
AddressList = Annotated[
    tuple[Annotated[str, AfterValidator(_address)], ...],
    BeforeValidator(_items),
    Kind("a host or a list of hosts", _show_addresses, "each host or host:port"),
]
OriginList = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...],
    BeforeValidator(_items),
    Kind("a list of origins", _show_list, "such as https://tools.example.com:8443, no path, no wildcard"),
]
PluginName = Annotated[str, AfterValidator(_plugin_name), Kind("the name of a storage backend")]
Routes = Annotated[
    Mapping[
        Annotated[str, AfterValidator(_plugin_name)],
        Annotated[str, AfterValidator(_plugin_name)],
    ],
    BeforeValidator(_pairs),
    AfterValidator(_frozen),
    PlainSerializer(dict),
    Kind("a mapping of collection to backend", _show_pairs, "in the environment name=backend,… or a JSON object"),
]

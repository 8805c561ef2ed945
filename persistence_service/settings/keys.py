"""Every key there is, as the models declare it: its names in each source, what is allowed, how a value is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from persistence_service.settings.kinds import Kind, Secret
from persistence_service.settings.model import Section, Settings

ENVIRONMENT_PREFIX = "PERSISTENCE_"
FILE_SUFFIX = "_file"
MASK = "********"

_MAX_SHOWN = 80
_SECRET_KIND = next(item for item in Secret.__metadata__ if isinstance(item, Kind))  # type: ignore[attr-defined] # of Annotated
_SOUNDS_SECRET = re.compile(r"pass|pw|secret|token|key|cred|auth", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its section's model, its name there, and its words."""

    section: str
    name: str
    model: type[Section]
    kind: Kind
    default: object
    least: float | None
    most: float | None
    description: str

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def environment_name(self) -> str:
        return environment_name(self.dotted)

    @property
    def is_secret(self) -> bool:
        return self.kind is _SECRET_KIND

    @property
    def bounds(self) -> str:
        """The range of a number, such as ``1 to 32``; empty where there is none."""
        if self.least is None or self.most is None or self.least == self.most:
            return ""
        return f"{self.kind.show(self.least)} to {self.kind.show(self.most)}"

    @property
    def allowed(self) -> str:
        """What may stand here, in words."""
        what = f"{self.kind.noun}, {self.bounds}" if self.bounds else self.kind.noun
        return f"{what} ({self.kind.hint})" if self.kind.hint else what

    @property
    def default_text(self) -> str:
        """The default as it would be written in the configuration file."""
        return self.kind.show(self.default)

    def check(self, raw: object) -> object:
        """Return the value that `raw` means.

        Raises:
            pydantic.ValidationError: `raw` is not allowed here.
        """
        return cast("object", getattr(self.model.model_validate({self.name: raw}), self.name))


def environment_name(dotted: str) -> str:
    """Return the name of the environment variable that sets a key: ``PERSISTENCE_<SECTION>__<KEY>``."""
    return ENVIRONMENT_PREFIX + dotted.replace(".", "__", 1).upper()


NAMED_FLAGS: Mapping[str, str] = MappingProxyType(
    {"--host": "service.host", "--port": "service.port", "--to": "storage.backend"}
)
"""Flags that some commands have for a key; every key can be set with ``--set``."""


def nearest(dotted: str) -> str | None:
    """Return the key that somebody who wrote `dotted` most likely meant, None when nothing is near."""
    name = dotted.rpartition(".")[2]
    same_name = [key.dotted for key in KEYS.values() if key.name == name]
    close = difflib.get_close_matches(dotted, KEYS, n=1, cutoff=0.7)
    return next(iter([*same_name, *close]), None)


def nearest_section(name: str) -> str | None:
    """Return the section that somebody who wrote `name` most likely meant, None when nothing is near."""
    return next(iter(difflib.get_close_matches(name, SECTIONS, n=1)), None)


def shown(dotted: str, value: object) -> str:
    """Write a value for a message: secrets and credentials masked, control characters escaped, cut to a sane length.

    A key that is unknown counts as secret when it sounds like one or is near one, since it may be a misspelt password.
    """
    key = KEYS.get(dotted) or KEYS.get(nearest(dotted) or "")
    unknown_secret = dotted not in KEYS and _SOUNDS_SECRET.search(dotted) is not None
    if value not in (None, "") and (unknown_secret or (key is not None and key.is_secret)):
        return MASK
    if isinstance(value, Mapping):
        return "(a mapping)"
    text = "null" if value is None else repr(value)
    head, at, tail = text.rpartition("@")
    text = f"{text[0]}{MASK}{at}{tail}" if head else text
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _sections() -> dict[str, type[Section]]:
    return {name: cast("type[Section]", field.annotation) for name, field in Settings.model_fields.items()}


def _keys() -> dict[str, Key]:
    return {
        f"{section}.{name}": _key(section, name, model, field)
        for section, model in SECTIONS.items()
        for name, field in model.model_fields.items()
    }


def _key(section: str, name: str, model: type[Section], field: FieldInfo) -> Key:
    default = field.get_default(call_default_factory=True, validated_data={})
    assert default is not PydanticUndefined  # noqa: S101 - a mistake of this package: every key has a default
    return Key(
        section=section,
        name=name,
        model=model,
        kind=next(item for item in field.metadata if isinstance(item, Kind)),
        default=default,
        least=next((cast("float", item.ge) for item in field.metadata if isinstance(item, Ge)), None),
        most=next((cast("float", item.le) for item in field.metadata if isinstance(item, Le)), None),
        description=field.description or "",
    )


SECTIONS: Mapping[str, type[Section]] = MappingProxyType(_sections())
KEYS: Mapping[str, Key] = MappingProxyType(_keys())

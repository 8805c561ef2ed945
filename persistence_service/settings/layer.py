"""What one source of settings holds: raw values by key, and what is wrong with the source itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from persistence_service.errors import ConfigurationProblem
from persistence_service.settings.keys import FILE_SUFFIX, KEYS, MASK, SECTIONS, nearest, nearest_section, shown

_MAX_SECRET_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Found:
    """A raw value and where it stood."""

    source: str
    value: object


@dataclass(slots=True)
class Layer:
    """The values of one source; within it no key is set twice."""

    values: dict[str, Found] = field(default_factory=dict)
    problems: list[ConfigurationProblem] = field(default_factory=list)

    def add(self, dotted: str, found: Found) -> None:
        """Take a value, or note that there is no such key."""
        if dotted in KEYS or _is_secret_file(dotted):
            self.values[dotted] = found
        else:
            self.add_unknown(dotted, found, written=dotted, meant=nearest(dotted))

    def add_unknown(self, dotted: str, found: Found, *, written: str, meant: str | None) -> None:
        """Note that there is no such key: `written` is how its source spells it, and `meant` so spelt the nearest one."""
        section = dotted.partition(".")[0]
        if meant:
            advice = f"did you mean {meant}?"
        elif section in SECTIONS:
            advice = f"{section} has {', '.join(SECTIONS[section].model_fields)}"
        else:
            advice = f"the sections are {', '.join(SECTIONS)}"
        self.problem(found.source, written, shown(dotted, found.value), f"there is no such key; {advice}")

    def add_unknown_section(self, name: str, source: str) -> None:
        """Note a whole section that does not exist."""
        meant = nearest_section(name) or nearest(name)
        if name in KEYS:
            advice = f"write {KEYS[name].name} as a key below {KEYS[name].section}"
        elif meant:
            advice = f"did you mean {meant}?"
        else:
            advice = f"the sections are {', '.join(SECTIONS)}"
        self.problem(source, name, "(a section)", f"there is no such section; {advice}")

    def problem(self, source: str, key: str, value: str, allowed: str) -> None:
        """Note something that is wrong with this source."""
        self.problems.append(ConfigurationProblem(source=source, key=key, value=value, allowed=allowed))

    def read_secret_files(self, directory: Path) -> None:
        """Replace every ``<secret>_file`` by the text of the file it names, without the line break at its end."""
        for key in [key for key in KEYS.values() if key.is_secret]:
            found = self.values.pop(key.dotted + FILE_SUFFIX, None)
            if found is None:
                continue
            if key.dotted in self.values:
                self.problem(
                    found.source, key.dotted + FILE_SUFFIX, MASK, f"set {key.dotted} or its file, not both in one place"
                )
                continue
            try:
                text = _read_secret(found.value, directory)
            except (OSError, ValueError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                # Somebody may have put the secret itself where its file's name belongs.
                path = repr(found.value) if "/" in str(found.value) else MASK
                self.problem(found.source, key.dotted + FILE_SUFFIX, path, f"a file with the secret: {reason}")
            else:
                self.values[key.dotted] = Found(found.source, text)


def _is_secret_file(dotted: str) -> bool:
    key = KEYS.get(dotted.removesuffix(FILE_SUFFIX))
    return key is not None and key.is_secret and dotted.endswith(FILE_SUFFIX)


def _read_secret(name: object, directory: Path) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError("its name must be a text")
    with (directory / name).open("rb") as file:
        content = file.read(_MAX_SECRET_BYTES + 1)
    if len(content) > _MAX_SECRET_BYTES:
        raise ValueError("it is larger than 64 KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")

"""A directory to configure the service in, and the two things tests do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from persistence_service.errors import ConfigurationError, ConfigurationProblem
from persistence_service.settings import LoadedSettings, StorageNames, load_settings


@dataclass(frozen=True)
class Place:
    """An empty working directory for `load_settings`."""

    directory: Path

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def load(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        flags: Mapping[str, object] | None = None,
        named_flags: Mapping[str, object] | None = None,
        config_path: Path | None = None,
        known: StorageNames | None = None,
    ) -> LoadedSettings:
        return load_settings(
            flags=flags or {},
            named_flags=named_flags or {},
            config_path=config_path,
            environ=environ or {},
            directory=self.directory,
            known=known,
        )

    def problems(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        flags: Mapping[str, object] | None = None,
        named_flags: Mapping[str, object] | None = None,
        config_path: Path | None = None,
        known: StorageNames | None = None,
    ) -> tuple[ConfigurationProblem, ...]:
        with pytest.raises(ConfigurationError) as caught:
            self.load(environ, flags=flags, named_flags=named_flags, config_path=config_path, known=known)
        assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
        return caught.value.problems

    def problem(self, environ: Mapping[str, str] | None = None, **named: object) -> ConfigurationProblem:
        (only,) = self.problems(environ, **named)  # type: ignore[arg-type] # the same names, checked there
        return only


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)

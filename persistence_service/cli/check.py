"""`persistence-service check`: what is wrong with the set-up, and what to do about it, before or while the service runs."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from persistence_service.cli.journal_check import journal_findings
from persistence_service.cli.one_shot import Config, Options, backends_of, configured
from persistence_service.errors import PersistenceError
from persistence_service.settings import LoadedSettings, Settings
from persistence_service.settings.load import DEFAULT_SOURCE
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.powers import Diagnosable, Finding, Level

EXIT_FOUND_PROBLEMS = 1
_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red", Level.NOT_CHECKED: "dim"}
_IN_FILE = re.compile(r"(?P<file>.+) line (?P<line>\d+)")
_SEVERITY = (Level.PROBLEM, Level.WARNING, Level.OK)

_BY_HAND = (
    "Run `persistence-service migrate`: the service may not do it by itself, and stores nothing until it is done."
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


class Part(NamedTuple):
    """The findings on one part of the set-up: configuration, journal, or a backend by its name."""

    name: str
    findings: Sequence[Finding]


def check(config: Config = None, option: Options = None, as_json: AsJson = False) -> None:
    """Look at configuration, journal and database; change nothing. The service may be running.

    Exit codes: 0 all well, or warnings only; 1 problems; 2 the configuration can't be used.
    """
    with configured(config, option) as loaded:
        parts = [
            Part("configuration", [_configuration(loaded)]),
            Part("journal", journal_findings(loaded.settings.journal)),
            *asyncio.run(_backends(loaded.settings)),
        ]
    levels = {finding.level for part in parts for finding in part.findings}
    worst = next((level for level in _SEVERITY if level in levels), Level.OK)
    if as_json:
        typer.echo(msgspec.json.encode(_as_document(worst, parts)))
    else:
        _show(worst, parts)
    if worst is Level.PROBLEM:
        raise typer.Exit(EXIT_FOUND_PROBLEMS)


def _configuration(loaded: LoadedSettings) -> Finding:
    given = list(_named_once({source for source in loaded.sources.values() if source != DEFAULT_SOURCE}))
    detail = f"from {', '.join(given)}" if given else "nothing is set, so all values are defaults"
    if not loaded.unused:
        return Finding("settings", Level.OK, detail)
    return Finding(
        "settings",
        Level.WARNING,
        f"set, but used by nothing: {', '.join(loaded.unused)}",
        "Set storage.backend to mysql if the records are to go there.",
    )


def _named_once(sources: Iterable[str]) -> Iterator[str]:
    """The sources, a file once however many of its lines set something."""
    lines: dict[str, list[int]] = defaultdict(list)
    for source in sorted(sources):
        in_file = _IN_FILE.fullmatch(source)
        if in_file is None:
            yield source
        else:
            lines[in_file["file"]].append(int(in_file["line"]))
    for file, numbers in lines.items():
        if len(numbers) == 1:
            yield f"{file} line {numbers[0]}"
        else:
            yield f"{file} ({len(numbers)} of its lines {min(numbers)} to {max(numbers)})"


async def _backends(settings: Settings) -> list[Part]:
    parts = [Part(backend.name, await _findings_on(backend)) for backend in backends_of(settings)]
    if settings.storage.migrate_on_start:
        return parts
    return [Part(part.name, [_without_migration(finding) for finding in part.findings]) for part in parts]


def _without_migration(finding: Finding) -> Finding:
    """The service stores nothing until the schema is up to date, and that is a problem if it does not see to it by itself."""
    if finding.name != "schema" or finding.level is not Level.WARNING:
        return finding
    return replace(finding, level=Level.PROBLEM, remedy=_BY_HAND)


async def _findings_on(backend: StorageBackend) -> Sequence[Finding]:
    if isinstance(backend, Diagnosable):
        return await backend.diagnose()
    try:
        await backend.open()
        health = await backend.health_check()
    except PersistenceError as exc:
        return [Finding("health", Level.PROBLEM, str(exc), "See what the backend's own documentation says.")]
    finally:
        await backend.close()
    detail = health.detail or f"{health.engine} {health.version}"
    if health.healthy:
        return [Finding("health", Level.OK, detail)]
    return [Finding("health", Level.PROBLEM, detail, "See what the backend's own documentation says.")]


def _show(worst: Level, parts: Sequence[Part]) -> None:
    table = Table("", "what", "found")
    for part in parts:
        for finding in part.findings:
            colour = _COLOURS[finding.level]
            found = escape(finding.detail) + (f"\n[bold]→ {escape(finding.remedy)}[/bold]" if finding.remedy else "")
            table.add_row(f"[{colour}]{finding.level}[/{colour}]", f"{part.name}: {finding.name}", found)
        table.add_section()
    Console().print(table)
    count = sum(finding.level in (Level.PROBLEM, Level.WARNING) for part in parts for finding in part.findings)
    typer.echo("all is well" if worst is Level.OK else f"{count} to look at, the worst a {worst}")


def _as_document(worst: Level, parts: Sequence[Part]) -> dict[str, object]:
    return {
        "level": worst,
        "findings": [
            {
                "part": part.name,
                "name": finding.name,
                "level": finding.level,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            for part in parts
            for finding in part.findings
        ],
    }

"""`persistence-service journal`: look into a journal without owning or changing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from persistence_service.buffer.intake import KIND_SESSIONS, KIND_TASKS
from persistence_service.cli.journal_replay import replay_command
from persistence_service.cli.journals import journals_of, unreadable
from persistence_service.errors import JournalError
from persistence_service.journal.inspection import Finding, JournalReport, SegmentReport, inspect, verify
from persistence_service.models.times import format_time, from_micros
from persistence_service.settings import load_settings

EXIT_FOUND_DAMAGE = 1
_KINDS = {KIND_SESSIONS: "sessions", KIND_TASKS: "tasks"}

app = typer.Typer(help="Look into a journal without owning or changing it.", no_args_is_help=True)
app.command("replay")(replay_command)

Directory = Annotated[Path | None, typer.Argument(help="The journal's directory; journal.directory if not given.")]
Config = Annotated[Path | None, typer.Option(help="Configuration file (YAML).")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


@app.command("inspect")
def inspect_command(directory: Directory = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show the segments, what they hold, and what is damaged, of every worker's journal. The service may be running.

    Exit codes: 0 it was shown, damage included; 2 the configuration can't be used; 3 there is no journal, or it can't be read.
    """
    reports = _reports(_chosen(directory, config))
    if as_json:
        first, *others = map(_as_document, reports)
        typer.echo(msgspec.json.encode(first | ({"workers": others} if others else {})))
        return
    for report in reports:
        _show(report)


def _show(report: JournalReport) -> None:
    typer.echo(f"{report.directory}: {report.items} items in {report.records} batches, {report.bytes} bytes")
    table = Table("segment")
    for heading in ("bytes", "sequences", "batches", "items", "accepted", "findings"):
        table.add_column(
            heading, justify="right" if heading in ("bytes", "batches", "items") else "left", overflow="fold"
        )
    for segment in report.segments:
        table.add_row(
            segment.file.removesuffix(".seg").lstrip("0"),
            str(segment.bytes),
            "" if segment.first_sequence is None else f"{segment.first_sequence} to {segment.last_sequence}",
            str(segment.records),
            str(segment.items),
            _accepted(segment),
            _findings(segment),
        )
    Console().print(table)
    if report.quarantined_files:
        typer.echo(f"quarantine: {report.quarantined_files} file(s), {report.quarantined_bytes} bytes")


@app.command("verify")
def verify_command(directory: Directory = None, config: Config = None, as_json: AsJson = False) -> None:
    """Check every byte of every worker's journal, and whether all is there that should be.

    Exit codes: 0 everything is as it was written; 1 something is not; 2 the configuration can't be used; 3 there is no journal,
    or it can't be read.
    """
    root = _chosen(directory, config)
    findings = [
        (str(path.relative_to(root) / finding.file), finding.message)
        for path in [report.directory for report in _reports(root)]
        for finding in _verify(path)
    ]
    if as_json:
        typer.echo(msgspec.json.encode([{"file": file, "message": message} for file, message in findings]))
    else:
        for file, message in findings:
            typer.echo(f"{file}: {message}")
        if not findings:
            typer.echo(f"{root}: everything is as it was written")
    if findings:
        raise typer.Exit(EXIT_FOUND_DAMAGE)


def _verify(directory: Path) -> Sequence[Finding]:
    try:
        return verify(directory)
    except OSError as exc:
        raise unreadable(directory, exc) from exc


def _chosen(directory: Path | None, config: Path | None) -> Path:
    return directory or load_settings(config_path=config).settings.journal.directory


def _reports(root: Path) -> list[JournalReport]:
    """Of every journal below `root`.

    Raises:
        JournalError: there is none, or one can't be read.
    """
    reports = [_read(path) for path in journals_of(root)]
    if not any(report.segments or any(report.directory.glob("head")) for report in reports):
        raise JournalError(f"there is no journal in {root}")
    return reports


def _read(directory: Path) -> JournalReport:
    try:
        return inspect(directory)
    except OSError as exc:
        raise unreadable(directory, exc) from exc


def _accepted(segment: SegmentReport) -> str:
    if segment.first_accepted_us is None or segment.last_accepted_us is None:
        return ""
    return f"{_time(segment.first_accepted_us)} to {_time(segment.last_accepted_us)}"


def _time(micros: int) -> str:
    return format_time(from_micros(micros))


def _findings(segment: SegmentReport) -> str:
    if segment.problem:
        return segment.problem
    found = [f"{damage.length} bytes damaged at {damage.offset}" for damage in segment.damage]
    if segment.tail is not None:
        found.append(f"torn tail at {segment.tail.offset}")
    return "; ".join(found)


def _as_document(report: JournalReport) -> dict[str, object]:
    return {
        "directory": str(report.directory),
        "bytes": report.bytes,
        "records": report.records,
        "items": report.items,
        "kinds": {_KINDS.get(kind, str(kind)): count for kind, count in report.kinds.items()},
        "quarantined": {"files": report.quarantined_files, "bytes": report.quarantined_bytes},
        "segments": [
            {
                "file": segment.file,
                "bytes": segment.bytes,
                "problem": segment.problem,
                "batches": segment.records,
                "items": segment.items,
                "first_sequence": segment.first_sequence,
                "last_sequence": segment.last_sequence,
                "damage": [{"offset": damage.offset, "bytes": damage.length} for damage in segment.damage],
                "missing_sequences": segment.missing_sequences,
                "torn_tail_at": None if segment.tail is None else segment.tail.offset,
            }
            for segment in report.segments
        ],
    }

"""`persistence-service journal replay`: bring what a journal holds into a database, or to a running service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from persistence_service.cli.journals import journals_of
from persistence_service.cli.one_shot import Config, Options, check_keeps, configured
from persistence_service.errors import JournalError
from persistence_service.journal.reading import JournalReader
from persistence_service.services.journal_copy import CopyReport, CopyTarget, NoTarget, copy_journals
from persistence_service.settings import Settings

EXIT_NOT_WHOLE = 1
_URLS = ("http://", "https://")
_OF_A_BACKEND = ("stored", "merged", "dropped", "dead_lettered")
_PASSES = 2
_LAST_PORT = 65_535

Directory = Annotated[Path | None, typer.Argument(help="The journal's directory; journal.directory if not given.")]
To = Annotated[
    str,
    typer.Option(metavar="BACKEND|URL", help="sqlite, mysql or a plugin's name, as configured; or a running service."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read everything, and write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a summary.")]


def replay_command(  # noqa: PLR0917  # each is an option of the command
    to: To,
    directory: Directory = None,
    config: Config = None,
    option: Options = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Store everything that is intact in a journal, those of several workers included, and say what is not.

    The journal is only read, and must not be in use. Doing it again changes nothing: records merge by their event times. A
    running service acknowledges the records, and stores them as any others.

    Exit codes: 0 everything is there, or acknowledged by the service; 1 something is not: lost, refused, of another version, or
    a dead letter in a file; 2 wrong usage or configuration; 3 the journal or the target can't be used, and it may be done again.
    """
    is_url = to.startswith(_URLS)
    if is_url:
        _check_url(to)
    check_keeps(to, "--to")
    with configured(config, option, {} if is_url else {"--to": to}) as loaded:
        settings = loaded.settings
        root = directory or settings.journal.directory
        with ExitStack() as stack:
            readers = [stack.enter_context(JournalReader(path)) for path in journals_of(root)]
            if all(reader.is_empty for reader in readers):
                raise JournalError(f"there is no journal in {root}")
            size = _PASSES * sum(reader.bytes for reader in readers)
            with _progress(size) as advance:
                report = asyncio.run(_copy(readers, settings, None if dry_run else to, advance))
    if as_json:
        document = {"journal": str(root), "to": to, "dry_run": dry_run, "whole": report.is_whole}
        typer.echo(msgspec.json.encode(document | _as_document(report, is_url=is_url)))
    else:
        _show(report, to, is_url=is_url, dry_run=dry_run)
    if not report.is_whole:
        raise typer.Exit(EXIT_NOT_WHOLE)


def _check_url(to: str) -> None:
    """Before anything is read: what can't be the address of a service is a mistake of usage."""
    import httpx

    try:
        url = httpx.URL(to)
    except httpx.InvalidURL as exc:
        raise typer.BadParameter(f"{to!r} is no address of a service: {exc}", param_hint="--to") from exc
    if not url.host or not 0 <= (url.port or 0) <= _LAST_PORT:
        raise typer.BadParameter(f"{to!r} is no address of a service: http://HOST:PORT is one", param_hint="--to")


async def _copy(
    readers: list[JournalReader], settings: Settings, to: str | None, advance: Callable[[int], None]
) -> CopyReport:
    async with _target(settings, to) as target:
        return await copy_journals(readers, target, advance)


@asynccontextmanager
async def _target(settings: Settings, to: str | None) -> AsyncIterator[CopyTarget]:
    if to is None:
        yield NoTarget()
    elif to.startswith(_URLS):
        from persistence_service.cli.service_target import ServiceTarget
        from persistence_service.client import PersistenceClient

        async with PersistenceClient(to) as client:
            yield ServiceTarget(client)
    else:
        from persistence_service.bootstrap import build_registry
        from persistence_service.buffer.timing import SystemTiming
        from persistence_service.services.backend_target import BackendTarget
        from persistence_service.storage.collections import SESSIONS
        from persistence_service.storage.opening import BackendOpener

        registry = build_registry(settings)
        registry.route_all(to, {})
        backend = registry.backend_for(SESSIONS)
        try:
            await BackendOpener(backend, migrate=settings.storage.migrate_on_start).ensure_open()
            yield BackendTarget(backend, SystemTiming().wall_us)
        finally:
            await backend.close()


@contextmanager
def _progress(size: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replay", total=size)
        yield lambda length: progress.advance(task, length)


def _as_document(report: CopyReport, *, is_url: bool) -> dict[str, object]:
    """What is known: a service acknowledges records, and whether it stores, merges or drops them comes out later."""
    document: dict[str, object] = msgspec.structs.asdict(report)
    if not is_url:
        return document
    document["acknowledged"] = document["stored"]
    return {name: value for name, value in document.items() if name not in _OF_A_BACKEND}


def _taken(report: CopyReport, *, is_url: bool) -> str:
    if is_url:
        return f"{report.stored} records acknowledged by the service"
    return (
        f"{report.stored} records stored, {report.merged} merged into others of their id, {report.dropped} deleted before, "
        f"{report.dead_lettered} became dead letters"
    )


def _show(report: CopyReport, to: str, *, is_url: bool, dry_run: bool) -> None:
    typer.echo(f"read: {report.batches} batches with {report.sessions} sessions and {report.tasks} tasks")
    if dry_run:
        typer.echo("nothing was written (--dry-run)")
    else:
        typer.echo(f"{to}: {_taken(report, is_url=is_url)}, {report.refused} refused")
    for refusal in report.refusals:
        typer.echo(f"refused: {refusal}")
    for loss in report.losses:
        typer.echo(f"lost: {loss}")
    if report.unreadable:
        typer.echo(f"of another version, and not read: {report.unreadable} batches; start the version that wrote them")
    if report.letter_files:
        typer.echo(f"dead letters in files beside the journal, and left there: {report.letter_files}")

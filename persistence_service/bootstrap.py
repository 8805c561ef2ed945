"""The one place that names concrete classes, wires them, and owns their lifetimes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from persistence_service.buffer.assembly import Policies, build_buffer
from persistence_service.buffer.flusher import Flusher
from persistence_service.buffer.letter_files import DIRECTORY_NAME, LetterFiles
from persistence_service.buffer.manager import BufferManager
from persistence_service.buffer.orphans import Patience
from persistence_service.buffer.policy import AckPolicy, FlushPolicy, MemoryBounds
from persistence_service.buffer.timing import SystemTiming, Timing
from persistence_service.errors import (
    ConfigurationError,
    SchemaTooNew,
    StorageError,
    StorageUnavailable,
)
from persistence_service.fleet.control import ControlServer
from persistence_service.fleet.identity import WorkerIdentity
from persistence_service.fleet.journals import open_worker_journal
from persistence_service.fleet.share import aside_of, share_of
from persistence_service.fleet.siblings import Siblings
from persistence_service.fleet.whole import WholeBuffer
from persistence_service.journal.files import Files
from persistence_service.models.limits import Limits
from persistence_service.observability.metrics import Metrics
from persistence_service.services.adoption import OrphanAdoption
from persistence_service.services.cleanup import CleanupService
from persistence_service.services.dead_letters import DeadLetterService
from persistence_service.services.deletion import DeletionService
from persistence_service.services.gauges import watch_buffer, watch_journal, watch_letters
from persistence_service.services.health import HealthService
from persistence_service.services.joint_reports import JointReports
from persistence_service.services.letter_census import LetterCensus
from persistence_service.services.missing import what_is_missing
from persistence_service.services.query import QueryService
from persistence_service.services.recovery import RecoveryService
from persistence_service.services.stats import StatsService
from persistence_service.settings import Settings, StorageNames, routing_problems
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import ALL_COLLECTIONS, SESSIONS
from persistence_service.storage.memory import MemoryBackend
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.options import MysqlOptions, TlsOptions
from persistence_service.storage.opening import BackendOpener
from persistence_service.storage.powers import AvailabilityNotifier
from persistence_service.storage.registry import BackendFactory, StorageRegistry, plugins
from persistence_service.storage.sqlite.backend import SqliteBackend

_log = structlog.get_logger(__name__)
_MICROSECONDS = 1_000_000
_OPENING_S = 2.0
_CHUNK_ROWS = 4  # rows of one transaction, in those that start a flush


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the API and the commands use, open and running.

    `buffer`, `stats`, `health` and `metrics` are this worker's own; `whole` and `reports` are the service's.
    """

    settings: Settings
    limits: Limits
    buffer: BufferManager
    whole: WholeBuffer
    query: QueryService
    recovery: RecoveryService
    deletion: DeletionService
    cleanup: CleanupService
    dead_letters: DeadLetterService
    stats: StatsService
    health: HealthService
    reports: JointReports
    metrics: Metrics
    timing: Timing


def storage_names() -> StorageNames:
    """The backends there are, those of other packages included, and the collections that can be routed to them."""
    return StorageNames(
        backends=tuple(_factories(Settings())),
        collections=tuple(collection.name for collection in ALL_COLLECTIONS),
        together=tuple(collection.name for collection in ALL_COLLECTIONS),
    )


def build_registry(settings: Settings) -> StorageRegistry:
    """The registry with the shipped backends and those of other packages, routed as configured; nothing is opened.

    Raises:
        ConfigurationError: names that are not known, or sessions and tasks in different backends.
    """
    problems = routing_problems(settings.storage, storage_names(), "configuration")
    if problems:
        raise ConfigurationError(problems)
    registry = StorageRegistry()
    for name, factory in _factories(settings).items():
        registry.register(name, factory)
    registry.route_all(settings.storage.backend, settings.storage.routes)
    return registry


def _factories(settings: Settings) -> dict[str, BackendFactory]:
    shipped: dict[str, BackendFactory] = {
        "memory": MemoryBackend,
        "sqlite": partial(_sqlite, settings),
        "mysql": partial(_mysql, settings),
    }
    return {**shipped, **plugins()}


def limits_of(settings: Settings) -> Limits:
    """The bounds on requests that are configured."""
    return Limits(
        max_batch_items=settings.limits.max_batch_items,
        max_body_bytes=settings.limits.max_body_bytes,
        max_text_bytes=settings.limits.max_text_bytes,
        max_clock_skew_us=round(settings.limits.max_clock_skew * _MICROSECONDS),
    )


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    timing: Timing | None = None,
    registry: StorageRegistry | None = None,
    files: Files | None = None,
    drain_s: Callable[[], float] | None = None,
    worker: WorkerIdentity | None = None,
) -> AsyncIterator[Services]:
    """Open everything, run it, and close it in reverse: end the intake, flush for a bounded time, leave the rest journaled.

    A backend that is away or slow does not stop the start: batches are journaled, and it is tried again until it answers.
    `files` does the journal's system calls, by default those of the disk. `drain_s` says at the end how many seconds the last
    flush may take, by default service.shutdown_timeout. `worker` is which of several this process is, None if it is alone;
    it takes its share of the bounds in `settings`.

    Raises:
        ConfigurationError, JournalError, SchemaTooNew: a start that would not be safe.
    """
    timing = timing or SystemTiming()
    registry = registry or build_registry(settings)
    backend = registry.backend_for(SESSIONS)
    settings = share_of(settings, worker)
    limits = limits_of(settings)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        opener = BackendOpener(backend, migrate=settings.storage.migrate_on_start)
        await _try_to_open(opener)
        kept = await stack.enter_async_context(
            open_worker_journal(settings.journal, worker, timing=timing, files=files)
        )
        journal, inheritance = kept.journal, kept.inheritance
        letter_files = LetterFiles(settings.journal.directory / DIRECTORY_NAME, files)
        parts = build_buffer(
            journal=journal,
            backend=backend,
            letter_files=letter_files,
            policies=_policies(settings, aside=aside_of(worker)),
            limits=limits,
            timing=timing,
            metrics=metrics,
            prepare=opener.ensure_open,
            clock=kept.clock,
        )
        buffer, flusher = parts.manager, parts.flusher
        if isinstance(backend, AvailabilityNotifier):
            backend.on_available(flusher.try_again)
        siblings = Siblings(worker)
        stack.callback(siblings.close)
        whole = WholeBuffer(buffer, siblings, default_ack=settings.buffer.ack, deleted=parts.deleted, heir=inheritance)
        deletion = DeletionService(registry=registry, buffer=whole, timing=timing)
        dead_letters = DeadLetterService(
            registry=registry, files=letter_files, timing=timing, limits=limits, metrics=metrics
        )
        letters = LetterCensus(
            backend=backend, files=letter_files, timing=timing, alarm_age_s=settings.buffer.dead_letter_alarm
        )

        def is_inheriting() -> bool:
            return inheritance.is_running

        stats = StatsService(
            backend=backend,
            buffer=buffer,
            journal=journal,
            letters=letters,
            timing=timing,
            refresh_interval_s=settings.stats.refresh_interval,
            is_inheriting=is_inheriting,
        )

        def missing() -> list[str]:
            return [*what_is_missing(buffer, journal), *inheritance.findings]

        health = HealthService(
            buffer=buffer,
            journal=journal,
            backend=backend,
            opener=opener,
            letters=letters,
            missing=missing,
            is_inheriting=is_inheriting,
        )
        reports = JointReports(siblings, health=health, stats=stats, metrics=metrics, missing=missing)
        watch_buffer(metrics, buffer)
        watch_journal(metrics, journal)
        watch_letters(metrics, letters)
        if worker is not None:
            parts.search.ask = whole.have_sessions_stored
            await stack.enter_async_context(_among_siblings(worker, siblings, whole, reports, parts.patience))
        await stack.enter_async_context(
            _running(
                buffer,
                flusher,
                inheritance.run(parts.takeover),
                drain_s=drain_s or (lambda: settings.service.shutdown_timeout),
            )
        )
        stack.callback(reports.begin_shutdown)
        adoption = OrphanAdoption(registry=registry, letters=dead_letters, timing=timing)
        background = {"deletion": deletion.run, "adoption": adoption.run}
        if worker is None or worker.slot == 0:  # one counts for all
            background["stats"] = stats.run
        for name, run in background.items():
            await stack.enter_async_context(_in_background(run(), name))
        yield Services(
            settings=settings,
            limits=limits,
            buffer=buffer,
            whole=whole,
            query=QueryService(registry=registry, buffer=whole),
            recovery=RecoveryService(registry=registry, buffer=whole, missing=reports.missing, timing=timing),
            deletion=deletion,
            cleanup=CleanupService(registry=registry, buffer=whole, deletion=deletion),
            dead_letters=dead_letters,
            stats=stats,
            health=health,
            reports=reports,
            metrics=metrics,
            timing=timing,
        )


@asynccontextmanager
async def _among_siblings(
    worker: WorkerIdentity, siblings: Siblings, whole: WholeBuffer, reports: JointReports, patience: Patience
) -> AsyncIterator[None]:
    """Answer the other workers, and know who of them is there: from before the journal is read until all is at rest."""

    def note() -> None:
        patience.note_others(are_all_there=whole.are_all_there)

    patience.note_others(are_all_there=False)
    async with ControlServer({**whole.answers(), **reports.answers()}).listening(worker.socket_of(worker.slot)):
        await whole.learn_deleted()
        async with _in_background(siblings.watch(note), "siblings"):
            yield


@asynccontextmanager
async def _running(
    buffer: BufferManager, flusher: Flusher, inheritance: Coroutine[None, None, None], *, drain_s: Callable[[], float]
) -> AsyncIterator[None]:
    """Replay, flush and inherit in the background; at the end drain for at most `drain_s()` seconds."""
    tasks = [
        asyncio.create_task(buffer.replay(), name="replay"),
        asyncio.create_task(flusher.run(), name="flush"),
        asyncio.create_task(inheritance, name="inheritance"),
    ]
    for task in tasks:
        task.add_done_callback(partial(_note_end, buffer))
    try:
        yield
    finally:
        buffer.begin_shutdown()
        try:
            await flusher.stop(drain_s=drain_s())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _in_background(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Run what can be left off at any moment, until the end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _note_end(buffer: BufferManager, task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        _log.error("background_task.failed", task=task.get_name(), exc_info=error)
        buffer.note_ended(task.get_name(), error)


async def _try_to_open(opener: BackendOpener) -> None:
    """Open the backend before the first request if that is quick; else the flusher, which tries on, does it later."""
    later = "batches are journaled until it is"
    try:
        async with asyncio.timeout(_OPENING_S):
            await opener.ensure_open()
    except SchemaTooNew:
        raise
    except TimeoutError:
        _log.warning("storage.not_open", detail=f"it did not open within {_OPENING_S} s", now=later)
    except (StorageUnavailable, StorageError) as exc:
        _log.error("storage.not_open", error=exc.code, detail=str(exc), now=later)


def _policies(settings: Settings, *, aside: float) -> Policies:
    options = settings.buffer
    return Policies(
        flush=FlushPolicy(
            options.max_buffer_size,
            options.flush_interval,
            chunk_rows=_CHUNK_ROWS * options.max_buffer_size,
            orphan_grace_s=options.orphan_grace,
        ),
        bounds=MemoryBounds(options.max_memory_records, options.max_memory_bytes, aside=aside),
        ack=AckPolicy(options.ack, options.min_ack, options.ack_timeout),
        max_dead_letters_per_minute=options.max_dead_letter_rate,
    )


def _sqlite(settings: Settings) -> StorageBackend:
    return SqliteBackend(
        settings.sqlite.path,
        readers=settings.sqlite.readers,
        busy_timeout_s=settings.sqlite.busy_timeout,
        query_timeout_s=settings.limits.query_timeout,
    )


def mysql_options(settings: Settings) -> MysqlOptions:
    """How the database server that is configured is reached and used."""
    database = settings.database
    return MysqlOptions(
        addresses=database.addresses,
        user=database.user,
        password=database.password.get_secret_value(),
        database=database.database,
        tls=TlsOptions(database.tls, database.tls_ca, database.tls_cert, database.tls_key),
        pool_size=database.pool_size,
        pool_min=database.pool_min,
        pool_recycle_s=database.pool_recycle,
        workers=settings.service.workers,
        connect_timeout_s=database.connect_timeout,
        acquire_timeout_s=database.acquire_timeout,
        answer_timeout_s=database.statement_timeout,
        query_timeout_s=settings.limits.query_timeout,
        allow_lossy_failover=database.allow_lossy_failover,
    )


def _mysql(settings: Settings) -> StorageBackend:
    return MysqlBackend(mysql_options(settings))

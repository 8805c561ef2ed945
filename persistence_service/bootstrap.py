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
from persistence_service.buffer.policy import AckPolicy, FlushPolicy, MemoryBounds
from persistence_service.buffer.timing import SystemTiming, Timing
from persistence_service.errors import (
    ConfigurationError,
    SchemaTooNew,
    StorageError,
    StorageUnavailable,
)
from persistence_service.journal.files import Files
from persistence_service.journal.journal import Journal
from persistence_service.models.limits import Limits
from persistence_service.observability.metrics import Metrics
from persistence_service.services.adoption import OrphanAdoption
from persistence_service.services.cleanup import CleanupService
from persistence_service.services.dead_letters import DeadLetterService
from persistence_service.services.deletion import DeletionService
from persistence_service.services.health import HealthService
from persistence_service.services.letter_census import LetterCensus
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
    """Everything that the API and the commands use, open and running."""

    settings: Settings
    limits: Limits
    buffer: BufferManager
    query: QueryService
    recovery: RecoveryService
    deletion: DeletionService
    cleanup: CleanupService
    dead_letters: DeadLetterService
    stats: StatsService
    health: HealthService
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
) -> AsyncIterator[Services]:
    """Open everything, run it, and close it in reverse: end the intake, flush for a bounded time, leave the rest journaled.

    A backend that is away or slow does not stop the start: batches are journaled, and it is tried again until it answers.
    `files` does the journal's system calls, by default those of the disk.
    `drain_s` says at the end how many seconds the last flush may take, by default service.shutdown_timeout.

    Raises:
        ConfigurationError, JournalError, SchemaTooNew: a start that would not be safe.
    """
    timing = timing or SystemTiming()
    registry = registry or build_registry(settings)
    backend = registry.backend_for(SESSIONS)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        opener = BackendOpener(backend, migrate=settings.storage.migrate_on_start)
        await _try_to_open(opener)
        journal = await Journal.open(
            settings.journal.directory,
            max_bytes=settings.journal.max_bytes,
            min_free=settings.journal.min_free,
            segment_bytes=settings.journal.segment_bytes,
            clock=timing.wall_us,
            files=files,
        )
        stack.push_async_callback(journal.close)
        letter_files = LetterFiles(settings.journal.directory / DIRECTORY_NAME, files)
        parts = build_buffer(
            journal=journal,
            backend=backend,
            letter_files=letter_files,
            policies=_policies(settings),
            limits=limits_of(settings),
            timing=timing,
            metrics=metrics,
            prepare=opener.ensure_open,
        )
        buffer, flusher = parts.manager, parts.flusher
        if isinstance(backend, AvailabilityNotifier):
            backend.on_available(flusher.try_again)
        _watch(metrics, buffer, journal)
        await stack.enter_async_context(
            _running(buffer, flusher, drain_s or (lambda: settings.service.shutdown_timeout))
        )
        deletion = DeletionService(registry=registry, buffer=buffer, timing=timing)
        dead_letters = DeadLetterService(
            registry=registry, files=letter_files, timing=timing, limits=limits_of(settings), metrics=metrics
        )
        letters = LetterCensus(
            backend=backend, files=letter_files, timing=timing, alarm_age_s=settings.buffer.dead_letter_alarm
        )
        _watch_letters(metrics, letters)
        stats = StatsService(
            backend=backend,
            buffer=buffer,
            journal=journal,
            letters=letters,
            timing=timing,
            refresh_interval_s=settings.stats.refresh_interval,
        )
        adoption = OrphanAdoption(registry=registry, letters=dead_letters, timing=timing)
        for service in (deletion, adoption, stats):
            await stack.enter_async_context(_in_background(service.run(), type(service).__name__))
        yield Services(
            settings=settings,
            limits=limits_of(settings),
            buffer=buffer,
            query=QueryService(registry=registry, buffer=buffer),
            recovery=RecoveryService(registry=registry, buffer=buffer, journal=journal, timing=timing),
            deletion=deletion,
            cleanup=CleanupService(registry=registry, buffer=buffer, deletion=deletion),
            dead_letters=dead_letters,
            stats=stats,
            health=HealthService(buffer=buffer, journal=journal, backend=backend, opener=opener, letters=letters),
            metrics=metrics,
            timing=timing,
        )


@asynccontextmanager
async def _running(buffer: BufferManager, flusher: Flusher, drain_s: Callable[[], float]) -> AsyncIterator[None]:
    """Replay and flush in the background; at the end drain for at most `drain_s()` seconds."""
    replay = asyncio.create_task(buffer.replay(), name="replay")
    flush = asyncio.create_task(flusher.run(), name="flush")
    for task in (replay, flush):
        task.add_done_callback(partial(_note_end, buffer))
    try:
        yield
    finally:
        buffer.begin_shutdown()
        try:
            await flusher.stop(drain_s=drain_s())
        finally:
            for task in (replay, flush):
                task.cancel()
            await asyncio.gather(replay, flush, return_exceptions=True)


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


def _policies(settings: Settings) -> Policies:
    options = settings.buffer
    return Policies(
        flush=FlushPolicy(
            options.max_buffer_size,
            options.flush_interval,
            chunk_rows=_CHUNK_ROWS * options.max_buffer_size,
            orphan_grace_s=options.orphan_grace,
        ),
        bounds=MemoryBounds(options.max_memory_records, options.max_memory_bytes),
        ack=AckPolicy(options.ack, options.min_ack, options.ack_timeout),
        max_dead_letters_per_minute=options.max_dead_letter_rate,
    )


def _watch(metrics: Metrics, buffer: BufferManager, journal: Journal) -> None:
    metrics.watch_buffer("sessions", lambda: buffer.stats().sessions_count)
    metrics.watch_buffer("tasks", lambda: buffer.stats().tasks_count)
    metrics.watch("buffer_bytes", "Bytes of records in memory", lambda: buffer.stats().size_bytes)
    metrics.watch("spilled_records", "Records that wait in the journal alone", lambda: buffer.stats().spilled_records)
    metrics.watch("orphans", "Tasks that wait for their session", lambda: buffer.stats().waiting_for_session)
    metrics.watch("set_aside", "Refused records beyond the dead-letter rate", lambda: buffer.stats().set_aside)
    metrics.watch(
        "dead_lettering_stopped",
        "1 while refused records wait in the journal instead of becoming dead letters",
        lambda: buffer.stats().dead_lettering_stopped,
    )
    metrics.watch("oldest_unstored_seconds", "Age of the oldest unstored record", buffer.oldest_unstored_age_s)
    metrics.watch_total("records_merged", "Records merged away in the buffer", lambda: buffer.stats().merged)
    metrics.watch_total(
        "batches_unmerged", "Journaled batches that a mistake kept out", lambda: buffer.stats().unmerged
    )
    metrics.watch("journal_bytes", "Bytes of the journal's segments", lambda: journal.stats().bytes)
    metrics.watch("journal_segments", "Segments of the journal", lambda: journal.stats().segments)
    metrics.watch("journal_unstored_items", "Journaled records not yet stored", lambda: journal.stats().unstored_items)
    metrics.watch("journal_full", "1 while the journal has no room", lambda: journal.stats().full)
    metrics.watch(
        "journal_failing", "1 while the journal can't be written", lambda: journal.stats().failing is not None
    )
    metrics.watch_total("journal_losses", "Ranges that could not be read", lambda: journal.stats().lost_ranges)
    metrics.watch_total("journal_fsyncs", "Fsyncs of the journal", lambda: journal.stats().fsyncs)
    metrics.watch_total("journal_fsync_seconds", "Time they took", lambda: journal.stats().fsync_seconds_total)


def _watch_letters(metrics: Metrics, letters: LetterCensus) -> None:
    metrics.watch_by("dead_letters_waiting", "Dead letters that wait for a person", "reason", letters.by_reason)
    metrics.watch("oldest_dead_letter_seconds", "Age of the oldest dead letter", letters.oldest_age_s)


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
        connect_timeout_s=database.connect_timeout,
        acquire_timeout_s=database.acquire_timeout,
        answer_timeout_s=database.statement_timeout,
        query_timeout_s=settings.limits.query_timeout,
        allow_lossy_failover=database.allow_lossy_failover,
    )


def _mysql(settings: Settings) -> StorageBackend:
    return MysqlBackend(mysql_options(settings))

"""The settings of the service: nested, frozen, complete with defaults, and valid whenever they exist.

Durations are ``float`` seconds and sizes ``int`` bytes, whatever form they were written in (see `units`). Every number has
a range, every key a description; messages, ``config/config.yaml`` and ``docs/configuration.md`` take both from here.
Building ``Settings()`` reads nothing from the environment or the disk: that is `load_settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from persistence_service.settings import kinds
from persistence_service.settings.rules import broken_rules

_KIB, _MIB, _GIB, _TIB = 2**10, 2**20, 2**30, 2**40
_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0


class Durability(StrEnum):
    """What an acknowledgement promises, weakest first."""

    MEMORY = "memory"
    JOURNAL = "journal"
    STORAGE = "storage"

    def at_least(self, other: Durability) -> bool:
        """Tell whether this promises as much as `other` or more."""
        order = list(Durability)
        return order.index(self) >= order.index(other)


class TlsMode(StrEnum):
    """How a connection to a database server is protected; MySQL's own names."""

    DISABLED = "disabled"
    REQUIRED = "required"
    VERIFY_CA = "verify_ca"
    VERIFY_IDENTITY = "verify_identity"


class LogLevel(StrEnum):
    """The least severity that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogFormat(StrEnum):
    """How a line looks: for people, or one JSON object a line."""

    CONSOLE = "console"
    JSON = "json"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


_DurabilityField = Annotated[Durability, BeforeValidator(_lower), kinds.choice_kind(Durability)]
_TlsModeField = Annotated[TlsMode, BeforeValidator(_lower), kinds.choice_kind(TlsMode)]
_LogLevelField = Annotated[LogLevel, BeforeValidator(_upper), kinds.choice_kind(LogLevel)]
_LogFormatField = Annotated[LogFormat, BeforeValidator(_lower), kinds.choice_kind(LogFormat)]


class Section(BaseModel):
    """Base of the sections: frozen, nothing unknown, defaults held to the same rules as given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class ServiceSettings(Section):
    """The HTTP service."""

    host: kinds.Host = Field(
        default="127.0.0.1",
        description="Address to listen on. Anything but loopback needs security.allow_anonymous.",
    )
    port: kinds.Count = Field(default=8001, ge=0, le=65_535, description="Port to listen on; 0 takes any free one.")
    workers: kinds.Count = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that serve requests, each with a journal of its own; together they are one service, and share "
        "the bounds of buffer.max_memory_*, buffer.max_dead_letter_rate, journal.max_bytes and limits.max_inflight_bytes. For "
        "persistence-service serve. database.pool_size is for each.",
    )
    shutdown_timeout: kinds.Seconds = Field(
        default=30.0,
        ge=0,
        le=_HOUR,
        description="How long a stop may flush; what is left then stays in the journal.",
    )


class BufferSettings(Section):
    """Accepted records on their way to the backend, and what an acknowledgement promises."""

    max_buffer_size: kinds.Count = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="Rows of sessions or tasks that start a flush; a transaction has at most four times as many.",
    )
    flush_interval: kinds.Seconds = Field(
        default=30.0,
        ge=0.01,
        le=_HOUR,
        description="Age of the oldest buffered record that starts a flush.",
    )
    ack: _DurabilityField = Field(
        default=Durability.JOURNAL,
        description="What an acknowledgement promises, unless a request asks otherwise: handed to the journal (memory), "
        "fsynced in the journal (journal), or written to the backend (storage).",
    )
    min_ack: _DurabilityField = Field(
        default=Durability.MEMORY,
        description="The weakest promise given: a request that asks for less gets this. Not stronger than buffer.ack.",
    )
    ack_timeout: kinds.Seconds = Field(
        default=30.0,
        ge=0.01,
        le=10 * _MINUTE,
        description="How long a request with ack=storage waits before it is answered 202.",
    )
    max_memory_records: kinds.Count = Field(
        default=50_000,
        ge=1,
        le=10_000_000,
        description="Most records waiting in memory; what is over it waits in the journal alone. At least "
        "buffer.max_buffer_size.",
    )
    max_memory_bytes: kinds.Bytes = Field(
        default=64 * _MIB,
        ge=_KIB,
        le=64 * _GIB,
        description="Most bytes of records waiting in memory; what is over it waits in the journal alone.",
    )
    orphan_grace: kinds.Seconds = Field(
        default=300.0,
        ge=0,
        le=_DAY,
        description="How long a task waits for its session, counted while the database works, before it is a dead letter; "
        "it is stored by itself when the session comes later.",
    )
    max_dead_letter_rate: kinds.Count = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Most records a minute that become dead letters because the database refuses them; more wait in the "
        "journal and are tried again slowly, since one mistake may be behind all of them.",
    )
    dead_letter_alarm: kinds.Seconds = Field(
        default=_DAY,
        ge=0,
        le=365 * _DAY,
        description="Age of the oldest dead letter from which the service is degraded, since a person has to look; "
        "0 is never.",
    )


class JournalSettings(Section):
    """The write-ahead log that makes an acknowledged batch survive a crash."""

    directory: kinds.Directory = Field(
        default=Path("data/journal"),
        description="Where its segments live; a local disk that honours fsync. Relative to the working directory.",
    )
    max_bytes: kinds.Bytes = Field(
        default=4 * _GIB,
        ge=64 * _KIB,
        le=64 * _TIB,
        description="Most bytes of the journal; when full, new batches are answered 503. At least twice "
        "journal.segment_bytes.",
    )
    min_free: kinds.Bytes = Field(
        default=256 * _MIB,
        ge=0,
        le=64 * _TIB,
        description="Free space to leave on its volume; with less, new batches are answered 503.",
    )
    segment_bytes: kinds.Bytes = Field(
        default=64 * _MIB,
        ge=4 * _KIB,
        le=4 * _GIB,
        description="Size at which a new segment begins; space is given back by whole segments.",
    )


class StorageSettings(Section):
    """Which backend holds which collection."""

    backend: kinds.PluginName = Field(
        default="sqlite",
        description="Backend of all collections that storage.routes does not name; any installed plugin.",
    )
    routes: kinds.Routes = Field(
        default_factory=dict,
        description="Exceptions, by collection name.",
    )
    migrate_on_start: kinds.Switch = Field(
        default=True,
        description="Bring the schema up to date at every start; otherwise only the command migrate does.",
    )


class SqliteSettings(Section):
    """The embedded database, used where the backend is sqlite."""

    path: kinds.DatabaseFile = Field(
        default=Path("data/persistence.db"),
        description="The database file. Relative to the working directory.",
    )
    readers: kinds.Count = Field(
        default=4,
        ge=1,
        le=32,
        description="Connections that read; there is one more that reads by key and one that writes.",
    )
    busy_timeout: kinds.Seconds = Field(
        default=5.0,
        ge=0,
        le=10 * _MINUTE,
        description="How long to wait for a lock that another process holds on the file.",
    )


class DatabaseSettings(Section):
    """The MySQL or MariaDB server, used where the backend is mysql."""

    host: kinds.AddressList = Field(
        default=("localhost",),
        min_length=1,
        description="The server, or the servers of one replication group, of which the primary is found and followed.",
    )
    port: kinds.Count = Field(default=3306, ge=1, le=65_535, description="Port of the hosts that name none themselves.")
    user: kinds.Text = Field(default="root", max_length=128, description="Account of the service.")
    password: kinds.Secret = Field(default=SecretStr(""), description="Its password; there is no default one.")
    database: kinds.Text = Field(default="ai_terminal", max_length=64, description="Name of the database.")
    pool_size: kinds.Count = Field(default=10, ge=1, le=1_000, description="Most connections held, by each worker.")
    pool_min: kinds.Count = Field(
        default=5,
        ge=0,
        le=1_000,
        description="Connections kept open when idle; at most database.pool_size.",
    )
    pool_recycle: kinds.Seconds = Field(
        default=_HOUR,
        ge=1,
        le=7 * _DAY,
        description="Age at which an idle connection is replaced.",
    )
    connect_timeout: kinds.Seconds = Field(
        default=5.0, ge=0.1, le=_MINUTE, description="How long connecting and logging in may take."
    )
    acquire_timeout: kinds.Seconds = Field(
        default=10.0, ge=0.1, le=10 * _MINUTE, description="How long to wait for a free connection."
    )
    statement_timeout: kinds.Seconds = Field(
        default=60.0,
        ge=1,
        le=_HOUR,
        description="How long the server may take to answer a write or a commit before the connection is given up. "
        "Queries have limits.query_timeout.",
    )
    tls: _TlsModeField = Field(
        default=TlsMode.DISABLED,
        description="Protection of the connections: none (disabled), encrypted without knowing by whom (required), by a "
        "server whose certificate is signed by a known authority (verify_ca), and carries its host's name (verify_identity).",
    )
    tls_ca: kinds.OptionalFile = Field(
        default=None, description="Certificates of the authorities to trust; the system's where none is named."
    )
    tls_cert: kinds.OptionalFile = Field(default=None, description="The service's own certificate, if the server asks.")
    tls_key: kinds.OptionalFile = Field(default=None, description="The private key of database.tls_cert.")
    allow_lossy_failover: kinds.Switch = Field(
        default=False,
        description="Accept several hosts that are no replication group. A failover among them can lose what was stored.",
    )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every host with its port, in the order given."""
        pairs = (kinds.split_address(address) for address in self.host)
        return tuple((host, self.port if port is None else port) for host, port in pairs)


class LimitSettings(Section):
    """What one request may ask for; more is refused before work is done."""

    max_batch_items: kinds.Count = Field(
        default=10_000, ge=1, le=1_000_000, description="Most sessions or tasks of one batch; more is 413."
    )
    max_body_bytes: kinds.Bytes = Field(
        default=32 * _MIB,
        ge=_KIB,
        le=_GIB,
        description="Largest request body, before and after decompression; more is 413. At most journal.max_bytes.",
    )
    max_text_bytes: kinds.Bytes = Field(
        default=_MIB,
        ge=_KIB,
        le=4 * _MIB,
        description="Largest text of a record, in UTF-8; more is 422. At most limits.max_body_bytes.",
    )
    max_clock_skew: kinds.Seconds = Field(
        default=300.0,
        ge=0,
        le=_DAY,
        description="How far in the future an event_time may be, seen from the clock or the newest stamp; more is 422.",
    )
    query_timeout: kinds.Seconds = Field(
        default=10.0, ge=0.01, le=_HOUR, description="How long a query may run before it is ended with 503."
    )
    max_inflight_bytes: kinds.Bytes = Field(
        default=128 * _MIB,
        ge=_KIB,
        le=64 * _GIB,
        description="Most bytes of request bodies in work at once, as sent and decompressed; what is over is 503. A body "
        "that is alone is always taken.",
    )
    header_timeout: kinds.Seconds = Field(
        default=30.0,
        ge=0.01,
        le=_HOUR,
        description="How long the head of a request may take to arrive; then 408. For persistence-service serve.",
    )
    body_timeout: kinds.Seconds = Field(
        default=30.0,
        ge=0.01,
        le=_HOUR,
        description="How long a body, or each 256 KiB of a larger one, may take to arrive; then 408. Also how long an answer "
        "may wait for a reader that takes nothing of it.",
    )


class SecuritySettings(Section):
    """Who may talk to the service."""

    allow_anonymous: kinds.Switch = Field(
        default=False,
        description="Serve callers beyond this machine although there are no API keys. Only on a network you trust.",
    )
    allowed_hosts: kinds.HostList = Field(
        default=(), description="Names beside loopback that a request's Host header may carry; others are 403."
    )
    cors_origins: kinds.OriginList = Field(
        default=(), description="Origins whose web pages may call the service; none unless named."
    )


class StatsSettings(Section):
    """The statistics of `/stats`, which are counted in the background."""

    refresh_interval: kinds.Seconds = Field(
        default=15.0,
        ge=0.1,
        le=_DAY,
        description="Pause between two counts of what is in the database; longer where counting would take more than a "
        "twentieth of the time.",
    )


class LoggingSettings(Section):
    """The service's own log."""

    level: _LogLevelField = Field(default=LogLevel.INFO, description="The least severity that is logged.")
    format: _LogFormatField = Field(
        default=LogFormat.CONSOLE, description="For people (console), or one JSON object a line (json)."
    )
    file: kinds.OptionalFile = Field(
        default=Path("logs/persistence_service.log"),
        description="File to log to beside stderr. Relative to the working directory.",
    )
    rotate_bytes: kinds.Bytes = Field(
        default=50 * _MIB, ge=_KIB, le=10 * _GIB, description="Size at which the file is rotated."
    )
    rotate_keep: kinds.Count = Field(
        default=5, ge=1, le=1_000, description="Rotated files kept beside the current one."
    )


class Settings(Section):
    """All settings. An instance also keeps the rules between keys (see `rules`), so it can be used without more checks.

    Raises:
        pydantic.ValidationError: on building one by hand with wrong values. `load_settings` raises `ConfigurationError`.
    """

    service: ServiceSettings = Field(default_factory=ServiceSettings)
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    sqlite: SqliteSettings = Field(default_factory=SqliteSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    security: SecuritySettings = Field(default_factory=SecuritySettings)
    stats: StatsSettings = Field(default_factory=StatsSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @model_validator(mode="after")
    def _keep_the_rules_between_keys(self) -> Self:
        broken = broken_rules(self)
        if broken:
            raise ValueError("; ".join(rule.text for rule in broken))
        return self

    def __reduce__(self) -> tuple[Callable[[object], Settings], tuple[dict[str, object]]]:
        """Be checked anew in the process that it is sent to."""
        return type(self).model_validate, (self.model_dump(),)

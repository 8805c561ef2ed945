"""How to reach and use the database: plain values, checked where settings are read."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from persistence_service.errors import StorageSetupError
from persistence_service.settings import TlsMode

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Protection of the connections. Without `ca` the system's authorities are trusted."""

    mode: TlsMode = TlsMode.DISABLED
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """The context for a connection, None without TLS. Files that were renewed are used from then on.

        Raises:
            StorageSetupError: a file can't be used.
        """
        if self.mode is TlsMode.DISABLED:
            return None
        system = ssl.get_default_verify_paths()
        authorities = (self.ca,) if self.ca is not None else (system.cafile, system.capath)
        try:
            return _context(self, tuple(map(_state, (*authorities, self.certificate, self.key))))
        except (OSError, ssl.SSLError) as exc:
            raise StorageSetupError(
                "the files of database.tls_ca, tls_cert and tls_key can't be used: one is missing, unreadable, or no "
                "certificate or key in PEM form"
            ) from exc


@lru_cache(maxsize=4)
def _context(options: TlsOptions, _states: tuple[object, ...]) -> ssl.SSLContext:
    """Kept while the files are as they were: to read the system's authorities alone takes some 30 ms of the event loop."""
    context = ssl.create_default_context(cafile=options.ca)
    if options.certificate is not None:
        context.load_cert_chain(options.certificate, options.key)
    context.check_hostname = options.mode is TlsMode.VERIFY_IDENTITY
    if options.mode is TlsMode.REQUIRED:
        context.verify_mode = ssl.CERT_NONE
    return context


def _state(path: Path | str | None) -> tuple[int, ...]:
    """What changes when a file is replaced or written, or a folder's entries are."""
    if path is None:
        return ()
    found = Path(path).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True)
class MysqlOptions:
    """The servers and the account, and bounds on connections: times in seconds, sizes in connections.

    Several `addresses` are one replication group; only with `allow_lossy_failover` they need not be. `workers` processes of
    the service have such connections, each its own.
    """

    addresses: tuple[Address, ...]
    user: str
    password: str = field(repr=False)
    database: str
    tls: TlsOptions = TlsOptions()
    pool_size: int = 10
    pool_min: int = 5
    pool_recycle_s: float = 3600
    workers: int = 1
    connect_timeout_s: float = 5
    acquire_timeout_s: float = 10
    answer_timeout_s: float = 60
    query_timeout_s: float = 10
    check_interval_s: float = 2
    allow_lossy_failover: bool = False

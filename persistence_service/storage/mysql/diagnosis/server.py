"""How a server is set up: what it is, how safely it writes, what it lets through."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from persistence_service.models.limits import MAX_RECORD_BYTES
from persistence_service.settings import TlsMode
from persistence_service.settings.units import format_size
from persistence_service.storage.mysql.diagnosis.host import Host, is_on
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.mysql.session import ISOLATION, SQL_MODE, TIME_ZONE
from persistence_service.storage.powers import Finding, Level

_LARGEST_STATEMENT: Final = 2 * MAX_RECORD_BYTES + 2**20
"""A record of quotes and backslashes alone doubles in a statement."""
_OFFSET_MS: Final = 1000.0
_SPARE_CONNECTIONS: Final = 10
_SESSION: Final = (ISOLATION.replace(" ", "-"), frozenset(SQL_MODE.split(",")), TIME_ZONE)
_OLDEST_MYSQL, _OLDEST_MARIADB = (8, 0, 17), (10, 6, 0)
_TESTED: Final = "tested are MySQL 9.7 and MariaDB 10.11; MySQL 8.4 and 9, and MariaDB 11 and 12 are expected to work"


async def server_findings(host: Host, wall_s: Callable[[], float] = time.time) -> list[Finding]:
    """Everything about the server itself; `wall_s` is the service's clock, in seconds since 1970."""
    return [
        _tls(host),
        _version(host),
        await _clock(host, wall_s),
        _packet(host),
        _durability(host),
        _connections(host),
        _session(host),
        _writable(host),
    ]


def _tls(host: Host) -> Finding:
    cipher = host.status.get("ssl_cipher")
    mode = host.options.tls.mode
    if cipher:
        verified = "" if mode in (TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY) else "; the certificate is not verified"
        return Finding("tls", Level.OK, f"{host.status.get('ssl_version', 'TLS')}, {cipher}{verified}")
    if _is_local(host.address[0]):
        return Finding("tls", Level.OK, "not encrypted; the server is on this machine")
    return Finding(
        "tls",
        Level.WARNING,
        "the connection is not encrypted: whoever sees the network reads the records",
        "Set database.tls to verify_identity, and database.tls_ca to the authority of the server's certificate.",
    )


def _is_local(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _version(host: Host) -> Finding:
    text = host.variables.get("version", "")
    is_mariadb = "mariadb" in text.lower()
    number = _number(text)
    name = f"{'MariaDB' if is_mariadb else 'MySQL'} {text}"
    if number < (_OLDEST_MARIADB if is_mariadb else _OLDEST_MYSQL):
        return Finding("version", Level.PROBLEM, f"{name} is too old", f"Upgrade the server: {_TESTED}.")
    if is_mariadb:
        expected = number[:2] == (10, 11) or number[0] in (11, 12)
    else:
        expected = (number[:2] == (8, 4) or number[0] == 9) and "tidb" not in text.lower()
    if expected:
        return Finding("version", Level.OK, name)
    return Finding("version", Level.WARNING, f"nobody has tried {name}", f"Prefer a version that was tried: {_TESTED}.")


def _number(text: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, match.groups())) if match else (0, 0, 0)


async def _clock(host: Host, wall_s: Callable[[], float]) -> Finding:
    before = wall_s()
    ((text,),) = await host.rows("SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)")
    middle = (before + wall_s()) / 2
    server_s = datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp()
    offset_ms = (server_s - middle) * 1000
    detail = f"the server's clock is {abs(offset_ms):.0f} ms {'ahead' if offset_ms > 0 else 'behind'}"
    if abs(offset_ms) <= _OFFSET_MS:
        return Finding("clock", Level.OK, detail)
    return Finding(
        "clock",
        Level.WARNING,
        detail,
        "Let both machines take their time from the same source (chrony, systemd-timesyncd).",
    )


def _packet(host: Host) -> Finding:
    size = int(host.variables.get("max_allowed_packet", 0))
    detail = f"max_allowed_packet is {format_size(size)}"
    remedy = "Set max_allowed_packet to 64M in the server's configuration."
    if size <= MAX_RECORD_BYTES:
        return Finding(
            "packet", Level.PROBLEM, f"{detail}: records of up to 5 MiB are refused and become dead letters", remedy
        )
    if size < _LARGEST_STATEMENT:
        return Finding("packet", Level.WARNING, f"{detail}: a record of 5 MiB full of quotes would be refused", remedy)
    return Finding("packet", Level.OK, detail)


def _durability(host: Host) -> Finding:
    variables = host.variables
    wrong = []
    if variables.get("innodb_flush_log_at_trx_commit", "1") != "1":
        wrong.append(("innodb_flush_log_at_trx_commit", "1"))
    if is_on(variables.get("log_bin")) and variables.get("sync_binlog") != "1":
        wrong.append(("sync_binlog", "1"))
    if variables.get("innodb_doublewrite", "ON").upper() in {"OFF", "0", "DETECT_ONLY"}:
        wrong.append(("innodb_doublewrite", "ON"))
    if not wrong:
        method = variables.get("innodb_flush_method", "unknown")
        return Finding("durability", Level.OK, f"what is committed survives a power cut (innodb_flush_method {method})")
    found = ", ".join(f"{name} is {variables.get(name)}" for name, _ in wrong)
    return Finding(
        "durability",
        Level.PROBLEM,
        f"{found}: a power cut at the database loses or damages records that were told to be stored",
        f"Set in the server's configuration: {', '.join(f'{name}={value}' for name, value in wrong)}.",
    )


def _connections(host: Host) -> Finding:
    most = int(host.variables.get("max_connections", 0))
    of_account = int(host.session.get("max_user_connections", 0))  # the account's own, or what it has from the server
    wanted, of_whom = _wanted_connections(host.options)
    lower = "database.pool_size" if host.options.workers == 1 else "database.pool_size or service.workers"
    detail = f"the server takes {most} connections, this service up to {wanted}{of_whom}"
    if 0 < of_account < wanted:
        return Finding(
            "connections",
            Level.PROBLEM,
            f"an account may have {of_account} connections, and this service wants up to {wanted}{of_whom}",
            f"Lower {lower}, or raise max_user_connections.",
        )
    if most < wanted:
        return Finding("connections", Level.PROBLEM, detail, f"Lower {lower}, or raise max_connections.")
    if most < wanted + _SPARE_CONNECTIONS:
        return Finding(
            "connections",
            Level.WARNING,
            f"{detail}: that leaves few for others, the next start of the service among them",
            f"Raise max_connections, or lower {lower}.",
        )
    return Finding("connections", Level.OK, detail)


def _wanted_connections(options: MysqlOptions) -> tuple[int, str]:
    """The most that the service has to one host, and in words how they are shared out, if it is by more than one pool."""
    watching = int(len(options.addresses) > 1)
    of_one = options.pool_size + watching
    if options.workers == 1:
        return of_one, ""
    return options.workers * of_one, f" ({options.workers} workers with {of_one} each)"


def _session(host: Host) -> Finding:
    isolation = host.session.get("transaction_isolation", host.session.get("tx_isolation", ""))
    mode = frozenset(filter(None, host.session.get("sql_mode", "").split(",")))
    detail = f"{isolation}, {host.session.get('time_zone')}, {host.session.get('collation_connection')}"
    if (isolation, mode, host.session.get("time_zone")) == _SESSION:
        return Finding("session", Level.OK, f"{detail}, strict; idle for at most {host.session.get('wait_timeout')} s")
    return Finding(
        "session",
        Level.PROBLEM,
        f"sessions are not what was asked for: {detail}, sql_mode {','.join(sorted(mode))}",
        "Let no proxy or init_connect of the server change isolation, sql_mode or time zone of the service's sessions.",
    )


def _writable(host: Host) -> Finding:
    if host.is_writable:
        return Finding("writable", Level.OK, "the server takes writes")
    if len(host.options.addresses) > 1:
        return Finding("writable", Level.OK, "read-only, as all but the primary are")
    return Finding(
        "writable",
        Level.PROBLEM,
        "the server is read-only: batches are kept in the journal until it can be written",
        "Set read_only=OFF on the primary, or name the primary in database.host.",
    )

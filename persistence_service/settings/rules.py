"""The rules between keys: what no single value can get wrong alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from persistence_service.settings.units import format_size

if TYPE_CHECKING:
    from persistence_service.settings.model import Settings


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule that does not hold: the keys it speaks of, and one sentence with their values."""

    keys: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class _Rule:
    keys: tuple[str, ...]
    holds: Callable[[Settings], bool]
    text: Callable[[Settings], str]


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a service that listens on `host`."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


_RULES = (
    _Rule(
        ("service.host", "security.allow_anonymous"),
        lambda s: s.security.allow_anonymous or is_loopback(s.service.host),
        lambda s: (
            f"{s.service.host} can be reached from other machines and there are no API keys; listen on 127.0.0.1, "
            "or set security.allow_anonymous to true on a network you trust"
        ),
    ),
    _Rule(
        ("service.workers", "storage.backend", "storage.routes"),
        lambda s: s.service.workers == 1 or "memory" not in {s.storage.backend, *s.storage.routes.values()},
        lambda s: (
            f"service.workers ({s.service.workers}) must be 1 with the backend memory, which each process would have for "
            "itself; use sqlite or mysql"
        ),
    ),
    _Rule(
        ("buffer.min_ack", "buffer.ack"),
        lambda s: s.buffer.ack.at_least(s.buffer.min_ack),
        lambda s: f"buffer.min_ack ({s.buffer.min_ack}) must not promise more than buffer.ack ({s.buffer.ack})",
    ),
    _Rule(
        ("buffer.max_memory_records", "buffer.max_buffer_size"),
        lambda s: s.buffer.max_memory_records >= s.buffer.max_buffer_size,
        lambda s: (
            f"buffer.max_memory_records ({s.buffer.max_memory_records}) must be at least "
            f"buffer.max_buffer_size ({s.buffer.max_buffer_size})"
        ),
    ),
    _Rule(
        ("journal.max_bytes", "journal.segment_bytes"),
        lambda s: s.journal.max_bytes >= 2 * s.journal.segment_bytes,
        lambda s: (
            f"journal.max_bytes ({format_size(s.journal.max_bytes)}) must be at least twice "
            f"journal.segment_bytes ({format_size(s.journal.segment_bytes)})"
        ),
    ),
    _Rule(
        ("limits.max_body_bytes", "journal.max_bytes"),
        lambda s: s.limits.max_body_bytes <= s.journal.max_bytes,
        lambda s: (
            f"limits.max_body_bytes ({format_size(s.limits.max_body_bytes)}) must be at most "
            f"journal.max_bytes ({format_size(s.journal.max_bytes)}), or the largest batches could never be kept"
        ),
    ),
    _Rule(
        ("limits.max_text_bytes", "limits.max_body_bytes"),
        lambda s: s.limits.max_text_bytes <= s.limits.max_body_bytes,
        lambda s: (
            f"limits.max_text_bytes ({format_size(s.limits.max_text_bytes)}) must be at most "
            f"limits.max_body_bytes ({format_size(s.limits.max_body_bytes)})"
        ),
    ),
    _Rule(
        ("database.pool_min", "database.pool_size"),
        lambda s: s.database.pool_min <= s.database.pool_size,
        lambda s: (
            f"database.pool_min ({s.database.pool_min}) must be at most database.pool_size ({s.database.pool_size})"
        ),
    ),
    _Rule(
        ("database.tls_key", "database.tls_cert"),
        lambda s: s.database.tls_key is None or s.database.tls_cert is not None,
        lambda s: (
            f"database.tls_key ({s.database.tls_key}) needs database.tls_cert, the certificate that it belongs to"
        ),
    ),
)


def broken_rules(settings: Settings) -> list[BrokenRule]:
    """Return every rule that `settings` breaks, in a fixed order."""
    return [BrokenRule(rule.keys, rule.text(settings)) for rule in _RULES if not rule.holds(settings)]
